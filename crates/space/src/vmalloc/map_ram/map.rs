//! Mapping: a place in the CPU's block, or a new block, or an area like all others.

use kspace_layout::{FRAME_SIZE, Pfn, PhysAddr, VirtRange};
use kspace_paging::Protection;

use super::LIMIT;
use super::account::Account;
use super::open::Closed;
use crate::vmalloc::caller::Caller;
use crate::vmalloc::chunk::Chunk;
use crate::vmalloc::pages::CHUNK_PAGES;
use crate::vmalloc::pool::{Books, Rest};
use crate::vmalloc::slot::AreaWord;
use crate::vmalloc::state::{Off, Vmalloc};
use crate::vmalloc::{AreaError, AreaRequest, Kernel, Kind};

impl<'a, K: Kernel, const CPUS: usize> Vmalloc<'a, K, CPUS> {
    /// Maps `pages` given frames, readable and writable, for a short time: `frame` tells that of each page. An unmapped page follows. Returns
    /// the addresses, without that page; they are the caller's until they are [unmapped](Self::unmap_ram).
    ///
    /// Up to 64 pages in any context but an NMI; more, or when memory or addresses have run out, not in atomic context.
    ///
    /// # Errors
    ///
    /// [`AreaError`].
    ///
    /// # Safety
    ///
    /// The caller may write to these frames until the mapping is unmapped, and a [purge](Self::purge) that began after that is done: until
    /// then CPUs may reach them. They are RAM, which the machine's entries can name.
    #[inline(always)]
    #[track_caller]
    pub unsafe fn map_ram(
        &self,
        pages: u64,
        frame: impl Fn(u64) -> Pfn,
    ) -> Result<VirtRange, AreaError> {
        let caller = Caller::here();
        if pages.wrapping_sub(1) < LIMIT {
            let off = self.off();
            if let Some(range) = self.map_in_block(&off, pages, caller, &frame) {
                return Ok(range);
            }
        }
        self.map_elsewhere(pages, caller, &frame)
    }

    /// In this CPU's block.
    #[inline(always)]
    fn map_in_block(
        &self,
        off: &Off<K>,
        pages: u64,
        caller: Caller,
        frame: &impl Fn(u64) -> Pfn,
    ) -> Option<VirtRange> {
        let arena = self.arena(off);
        let (books, first) = arena.block().place(pages + 1)?;
        let chunk = self.chunk(PhysAddr::new(books));
        let (table, slot) = (self.leaf_table(chunk), self.slot_of(chunk, first));
        let bits = self.bits(Protection::KERNEL_DATA);
        for page in 0..pages {
            table.fill(slot + page as usize, 1, frame(page), bits);
        }
        AreaWord::mapped(first, pages, Kind::ShortLived as u64, caller.raw())
            .publish(chunk.area(first));
        arena.count_new(pages);
        Some(self.range_of(chunk.number(), first, pages))
    }

    /// In a new block; or, if it is too large or there is none, as any other area.
    #[cold]
    #[inline(never)]
    fn map_elsewhere(
        &self,
        pages: u64,
        caller: Caller,
        frame: &impl Fn(u64) -> Pfn,
    ) -> Result<VirtRange, AreaError> {
        if pages.wrapping_sub(1) < LIMIT {
            let off = self.off();
            if self.open_block(&off)
                && let Some(range) = self.map_in_block(&off, pages, caller, frame)
            {
                return Ok(range);
            }
        }
        let request = AreaRequest::new(pages.saturating_mul(FRAME_SIZE)).kind(Kind::ShortLived);
        self.map_for(&request, caller, frame)
    }

    /// Takes a chunk without areas as this CPU's block, if there is one to be had.
    fn open_block(&self, off: &Off<K>) -> bool {
        let Some(chunk) = self.whole_chunk(off) else {
            return false;
        };
        let books = chunk.frame().as_u64();
        if let Some(closed) = self.arena(off).block().exchange(books) {
            self.close_block(closed);
        }
        true
    }

    /// All pages of a chunk.
    fn whole_chunk(&self, off: &Off<K>) -> Option<Chunk<'a>> {
        let found = self.with_pool(off, |pool| {
            pool.find(self, None, CHUNK_PAGES, 1, Rest::Taken)
        });
        if let Some(found) = found {
            return Some(found.chunk);
        }
        let chunk = self.make_chunk(off).ok()?;
        let found = self.with_pool(off, |pool| {
            pool.add(self, chunk);
            pool.find(self, Some(chunk), CHUNK_PAGES, 1, Rest::Taken)
        });
        Some(found?.chunk)
    }

    /// Enters into its account that nothing more is placed in a block.
    pub(super) fn close_block(&self, closed: Closed) {
        let chunk = self.chunk(PhysAddr::new(closed.books));
        self.enter(chunk, Account::closed(closed.next));
    }

    /// Enters into the account of a chunk that is a block, and tells the purger.
    #[inline]
    pub(super) fn enter(&self, chunk: Chunk<'a>, entry: Account) {
        if entry.enter(chunk.account(), chunk.mark()) {
            self.dirty.push(chunk.frame().as_u64(), chunk.dirty_next());
        }
    }
}
