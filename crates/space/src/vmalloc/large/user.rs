//! User mappings of an area: while there are some, it keeps its frames, whoever frees it.
//!
//! ```text
//!   hold (each user mapping)         free             release (the last user mapping)            purge
//!   Live --------------------> Live ------> Lazy, in no list ------------------------> Lazy, in the list ------>
//!                                           no kernel entries, all frames
//! ```

use kspace_layout::{VirtAddr, VirtRange};

use crate::vmalloc::state::Vmalloc;
use crate::vmalloc::{AreaInfo, Kernel};

impl<K: Kernel, const CPUS: usize> Vmalloc<'_, K, CPUS> {
    /// Keeps the frames of the live area at `start` until [`release_user`](Self::release_user). `Err`: what is there instead of an area
    /// that was asked for as one for user spaces.
    pub(crate) fn hold_user(&self, start: VirtAddr) -> Result<VirtRange, Option<AreaInfo>> {
        if !self.area().contains(start) {
            return Err(None);
        }
        let held = self.with_books(&self.off(), |books| books.hold_for_user(start));
        match held {
            Ok(entry) => Ok(entry.range),
            // Small areas are in other books.
            Err(None) => Err(self.find(start)),
            Err(found) => Err(found),
        }
    }

    /// Gives up what [`hold_user`](Self::hold_user) kept. No CPU has a translation from a user space any more.
    ///
    /// # Panics
    ///
    /// When nothing was held there.
    pub(crate) fn release_user(&self, start: VirtAddr) {
        let released = self.with_books(&self.off(), |books| books.release_for_user(start));
        match released {
            None => panic!("vmalloc: no user mapping holds an area at {start}"),
            Some(0) => {}
            Some(pages) => self.count_lazy(pages),
        }
    }
}
