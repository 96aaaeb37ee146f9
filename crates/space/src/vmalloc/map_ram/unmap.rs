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
    #[inline]
    #[track_caller]
    pub unsafe fn unmap_ram(&self, start: VirtAddr, pages: u64) -> Result<(), FreeError> {
        let caller = Location::caller();
        if self.area().contains(start) && start.is_aligned(FRAME_SIZE) {
            let off = self.off();
            let page = page_of(start);
            if let Some(chunk) = self.block_numbered(&off, self.number_of(start))
                && self.unmap_in_block(&off, chunk, page, pages, Caller::of(caller))
            {
                self.count_unmapped(off, pages);
                return Ok(());
            }
        }
        self.unmap_slow(start, pages, caller)
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
    #[inline(always)]
    pub(in crate::vmalloc) fn count_unmapped(&self, off: Off<K>, pages: u64) {
        let told = self.arena(&off).count_freed(pages, self.batch);
        drop(off);
        if let Some(pages) = told {
            self.count_lazy(pages);
        }
    }

    /// The chunk with this number, most likely this CPU's block.
    #[inline(always)]
    fn block_numbered(&self, off: &Off<K>, number: u64) -> Option<Chunk<'a>> {
        if let Some(books) = self.arena(off).block().books() {
            let chunk = self.chunk(PhysAddr::new(books));
            if chunk.number() == number {
                return Some(chunk);
            }
        }
        self.chunk_numbered(off, number)
    }

    /// Unmaps what is no mapping in a block, or says why nothing was unmapped.
    #[cold]
    #[inline(never)]
    fn unmap_slow(
        &self,
        start: VirtAddr,
        pages: u64,
        caller: &'static Location<'static>,
    ) -> Result<(), FreeError> {
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
