//! Giving up chunks without areas: their addresses, page tables and books.
//!
//! ```text
//!   1  take the rest of all CPUs' runs, if all chunks are to go
//!   2  out of the pool and the index; the addresses are free, and held again with all free ones around them
//!   3  page tables without entries out, at every level whose span is held
//!   4  one shootdown that waits for everybody: no CPU walks these tables, nor looks into these books, any more
//!   5  tables, books and index nodes freed; the held addresses given up
//! ```
//!
//! A chunk is taken only with its mark off: see `lazy`. Between 2 and 5 the books of each chunk have its hold.

use core::sync::atomic::Ordering;

use kspace_layout::{PageSize, VirtRange};
use kspace_paging::{Flush, FrameSource, Invalidation, Stale};

use super::Kernel;
use super::chunk::Chunk;
use super::pages::CHUNK_PAGES;
use super::pool::Books;
use super::purge::Purged;
use super::state::{Off, Vmalloc};

impl<'a, K: Kernel, const CPUS: usize> Vmalloc<'a, K, CPUS> {
    /// Gives up chunks without areas until only `keep` are left. Only the purger calls this, after a shootdown.
    pub(super) fn trim(&self, keep: u64, purged: &mut Purged) {
        if keep == 0 {
            self.take_runs();
        }
        let mut first = 0;
        while let Some(chunk) = self.take_empty(keep) {
            chunk.purge_next().store(first, Ordering::Relaxed);
            first = chunk.frame().as_u64();
        }
        if first == 0 {
            return;
        }
        let off = self.off();
        self.forget_chunks(&off, first);
        drop(off);
        let tables = self.purge_tables(first);
        self.shootdown().invalidate_all([self.everything_above()]);
        purged.frames += tables.tables() as u64;
        // SAFETY: all CPUs have just forgotten all upper-level entries about the area, and answered.
        unsafe { tables.discharged(self.memory(), self.frames()) };
        self.free_books(first, purged);
    }

    /// Takes the rests of runs away from all CPUs.
    fn take_runs(&self) {
        let off = self.off();
        self.with_pool(&off, |pool| {
            for run in self.arenas().iter().flat_map(|arena| arena.take_runs()) {
                self.give_run(&off, pool, run);
            }
        });
    }

    fn take_empty(&self, keep: u64) -> Option<Chunk<'a>> {
        let off = self.off();
        self.with_pool(&off, |pool| {
            if pool.empty() <= keep {
                return None;
            }
            pool.take_empty(self, |chunk| chunk.mark().load(Ordering::Acquire) == 0)
        })
    }

    /// Step 2, for all chunks that are linked from `first` on.
    fn forget_chunks(&self, off: &Off<K>, first: u64) {
        self.with_space(off, |space| {
            self.each(first, |chunk| {
                self.index
                    .remove(self, chunk.number(), |node| chunk.retire(node));
                let freed = space.free(self.chunk_range(chunk));
                debug_assert!(freed.is_ok(), "a chunk's addresses were allocated");
            });
            self.index.next_generation();
            self.each(first, |chunk| {
                let range = self.chunk_range(chunk);
                // They are not free any more when another chunk's hold has them.
                let around = space.free_range_at(range.start());
                let hold = around.and_then(|around| around.intersection(self.below_root(range)));
                chunk.set_hold(hold.filter(|hold| space.allocate_at(*hold).is_ok()));
            });
        });
    }

    /// Step 3.
    fn purge_tables(&self, first: u64) -> Flush {
        let mut all = Flush::nothing();
        self.each(first, |chunk| {
            if let Some(hold) = chunk.hold()
                && let Ok(token) = self.tables().purge(hold)
            {
                all.absorb(token, self.memory());
            }
        });
        all
    }

    /// Step 5.
    fn free_books(&self, first: u64, purged: &mut Purged) {
        let off = self.off();
        self.with_space(&off, |space| {
            self.each(first, |chunk| {
                if let Some(hold) = chunk.hold() {
                    let freed = space.let_go(hold);
                    debug_assert!(freed.is_ok(), "it was held");
                }
            });
        });
        drop(off);
        self.each(first, |chunk| {
            for node in chunk.retired() {
                self.frames().release(node);
                purged.frames += 1;
            }
            self.frames().release(chunk.frame());
            purged.frames += 1;
            purged.chunks += 1;
        });
    }

    /// Calls `body` for each chunk that is linked from `first` on; it may free the chunk's books.
    fn each(&self, first: u64, mut body: impl FnMut(Chunk<'a>)) {
        let mut next = first;
        while let Some(chunk) = self.linked(next) {
            next = chunk.purge_next().load(Ordering::Relaxed);
            body(chunk);
        }
    }

    fn chunk_range(&self, chunk: Chunk<'a>) -> VirtRange {
        self.range_of(chunk.number(), 0, CHUNK_PAGES)
    }

    /// The addresses whose tables may go with a chunk: what a root entry spans. Under PAE's and the two-level root there are only the chunks'
    /// own tables, and all of a small area must not be held for them.
    fn below_root(&self, chunk: VirtRange) -> VirtRange {
        let mode = self.tables().mode();
        let level = if mode.levels() >= 4 { mode.levels() } else { 2 };
        let span = 1 << mode.level_shift(level);
        VirtRange::new(chunk.start().align_down(span), span)
    }

    /// Everything about the area that CPUs keep of upper levels.
    fn everything_above(&self) -> Invalidation {
        Invalidation::Range(Stale {
            range: self.area(),
            page: PageSize::Size4K,
            global: false,
            tables: true,
            root: false,
        })
    }
}
