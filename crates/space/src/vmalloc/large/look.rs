//! Which large areas there are.

use kspace_layout::{FRAME_SIZE, VirtAddr};

use crate::vmalloc::state::Vmalloc;
use crate::vmalloc::{AreaInfo, Kernel, Totals};

impl<K: Kernel, const CPUS: usize> Vmalloc<'_, K, CPUS> {
    /// The large area that an address lies in, or in whose guard.
    pub(in crate::vmalloc) fn find_large(&self, address: VirtAddr) -> Option<AreaInfo> {
        self.with_books(&self.off(), |books| books.find(address))
    }

    /// The same, or `None`, when another CPU has the books.
    pub(in crate::vmalloc) fn try_find_large(&self, address: VirtAddr) -> Option<AreaInfo> {
        let books = &self.large.books;
        books.try_with(&self.off(), |books| books.find(address))?
    }

    /// The first large area that begins at or after an address.
    pub(in crate::vmalloc) fn next_large(&self, from: VirtAddr) -> Option<AreaInfo> {
        self.with_books(&self.off(), |books| books.next(from))
    }

    /// As [`mark_changed`](Self::mark_changed), for a large area.
    pub(in crate::vmalloc) fn mark_large(&self, start: VirtAddr, changed: bool) -> bool {
        self.with_books(&self.off(), |books| books.mark(start, changed))
    }

    /// The totals with large areas in them.
    pub(in crate::vmalloc) fn add_large(&self, small: Totals) -> Totals {
        let (areas, pages) = self.with_books(&self.off(), |books| books.live());
        Totals {
            used: small.used + pages * FRAME_SIZE,
            areas: small.areas + areas,
            ..small
        }
    }
}
