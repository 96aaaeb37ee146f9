//! Freeing a large area: taken from its owner, parked, and left to the purge.

use core::panic::Location;

use kspace_layout::{FRAME_SIZE, VirtAddr};

use crate::vmalloc::Kernel;
use crate::vmalloc::caller::Caller;
use crate::vmalloc::error::FreeError;
use crate::vmalloc::state::Vmalloc;

impl<K: Kernel, const CPUS: usize> Vmalloc<'_, K, CPUS> {
    /// Frees what begins at an address that lies in no chunk.
    #[cold]
    pub(in crate::vmalloc) fn free_large(
        &self,
        start: VirtAddr,
        caller: &'static Location<'static>,
    ) -> Result<(), FreeError> {
        let by = Caller::of(caller);
        let taken = self.with_books(&self.off(), |books| books.take(start, by));
        let entry = taken.map_err(|problem| FreeError::new(start, caller, problem))?;
        if self.is_poisoned(entry) {
            self.poison_range(entry.range);
        }
        // Without the lock: entries of a whole area take no memory, and may be many.
        let token = match self.tables().park(entry.range) {
            Ok(token) => token,
            Err(error) => panic!("entries of a live area were changed by somebody else: {error}"),
        };
        if self.with_books(&self.off(), |books| books.defer(entry, token)) {
            self.count_lazy(entry.range.size() / FRAME_SIZE);
        }
        Ok(())
    }
}
