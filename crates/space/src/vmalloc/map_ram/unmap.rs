//! Unmapping: the mapping is taken from its owner, its entries are empty, and the rest waits for the purge.

use core::panic::Location;

use kspace_layout::{FRAME_SIZE, PhysAddr, VirtAddr};

use super::account::Account;
use crate::vmalloc::caller::Caller;
use crate::vmalloc::chunk::Chunk;
use crate::vmalloc::free::page_of;
use crate::vmalloc::pool::Books;
use crate::vmalloc::slot::AreaWord;
use crate::vmalloc::state::{Off, Vmalloc};
use crate::vmalloc::{AreaInfo, FreeError, FreeProblem, Kernel, Kind, State};

impl<'a, K: Kernel, const CPUS: usize> Vmalloc<'a, K, CPUS> {
    /// Unmaps the short mapping of `pages` pages that begins at `start`. When this returns, an access to it faults, on this CPU and on
    /// others as soon as they have no translation of it any more. The frames are the caller's for anything else after the next purge.
    ///
    /// In any context but an NMI: in atomic context the purge that may be due is left to the next free or unmap outside one.
    ///
    /// # Errors
    ///
    /// [`FreeError`]: no short mapping begins there, or not any more, or not one of so many pages. Nothing was changed.
    ///
    /// # Safety
    ///
    /// Nobody uses the mapping any more, and it is the caller's to unmap.
    #[inline(always)]
    #[track_caller]
    pub unsafe fn unmap_ram(&self, start: VirtAddr, pages: u64) -> Result<(), FreeError> {
        let caller = Location::caller();
        match self.unmap_own(start, pages, Caller::of(caller)) {
            Some(None) => Ok(()),
            Some(Some(told)) => {
                self.count_lazy(told);
                Ok(())
            }
            None => self.unmap_any(start, pages, caller),
        }
    }

    /// The way of nearly all: in the block that this CPU has. Unmapped pages to be told, if it is time to. `None`: nothing was done.
    ///
    /// Inlined, because it is short, and most callers know the number of pages when they are compiled.
    #[inline(always)]
    fn unmap_own(&self, start: VirtAddr, pages: u64, by: Caller) -> Option<Option<u64>> {
        let off = self.off();
        let arena = self.arena(&off);
        let chunk = self.chunk(PhysAddr::new(arena.block().books()?));
        // Addresses outside the area have numbers that no chunk has.
        if chunk.number() != self.number_of(start) || !start.is_aligned(FRAME_SIZE) {
            return None;
        }
        self.unmap_in_block(&off, chunk, page_of(start), pages, by)
            .then(|| arena.count_freed(pages, self.batch))
    }

    /// Takes a mapping away that is as it is said to be. False: there is no such mapping.
    #[inline(always)]
    pub(in crate::vmalloc) fn unmap_in_block(
        &self,
        _off: &Off<K>,
        chunk: Chunk<'a>,
        page: u64,
        pages: u64,
        by: Caller,
    ) -> bool {
        if AreaWord::unmap(chunk.area(page), page, pages, by.raw()).is_err() {
            return false;
        }
        let slot = self.slot_of(chunk, page);
        // SAFETY: what is mapped in a block is never parked. Its slots are filled again only when the block is, after the flush; and whoever
        // mapped the frames promised to wait for one, too.
        unsafe { self.leaf_table(chunk).clear(slot, pages as usize) };
        self.enter(chunk, Account::unmapped(pages));
        true
    }

    /// Counts pages that were unmapped, and purges when it is time and interrupts are on.
    pub(in crate::vmalloc) fn count_unmapped(&self, off: Off<K>, pages: u64) {
        let told = self.arena(&off).count_freed(pages, self.batch);
        drop(off);
        if let Some(pages) = told {
            self.count_lazy(pages);
        }
    }

    /// Unmaps a mapping in any block, or what is none in a block, or says why nothing was unmapped.
    #[cold]
    #[inline(never)]
    fn unmap_any(
        &self,
        start: VirtAddr,
        pages: u64,
        caller: &'static Location<'static>,
    ) -> Result<(), FreeError> {
        if self.area().contains(start) && start.is_aligned(FRAME_SIZE) {
            let (off, page) = (self.off(), page_of(start));
            if let Some(known) = self.chunk_numbered(&off, self.number_of(start))
                && self.unmap_in_block(&off, known.chunk, page, pages, Caller::of(caller))
            {
                self.count_unmapped(off, pages);
                return Ok(());
            }
        }
        let problem = match self.find(start) {
            Some(AreaInfo {
                range,
                kind,
                state: State::Live,
                pages: has,
                ..
            }) if range.start() == start => match kind {
                Kind::ShortLived if has == pages => None,
                Kind::ShortLived => Some(FreeProblem::Pages { range, pages }),
                _ => Some(FreeProblem::Kind { range, kind }),
            },
            // A free says best what is wrong.
            _ => None,
        };
        match problem {
            Some(problem) => Err(FreeError::new(start, caller, problem)),
            None => self.free_any(start, caller),
        }
    }
}
