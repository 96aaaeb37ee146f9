//! The purge: one flush on all CPUs for all that was freed, and only then frames and addresses for others.
//!
//! ```text
//!   1  take the dirty chunks, and of each its lazy areas            (areas freed from now on wait for the next purge)
//!   2  one shootdown
//!   3  each area: frames out of its parked entries, and freed; its word Free; its pages to the pool
//!   4  trim: chunks without areas go, when there are many of them, or all was asked for
//! ```
//!
//! One purger at a time. It holds no lock while it waits for the shootdown, and has interrupts on, if they were.

use core::sync::atomic::Ordering;

use kspace_frames::zone;
use kspace_layout::{FRAME_SIZE, PageSize, Pfn, VirtRange};
use kspace_paging::{Invalidation, Stale};

use super::allocate::{FEW, Shortage};
use super::chunk::{Chunk, SLOTS};
use super::lazy::take_lazy;
use super::pages::Pages;
use super::pool::Books;
use super::slot::AreaWord;
use super::state::{Off, Vmalloc};
use super::{AreaFrames, Kernel, Kind};
use crate::platform::{Cpu, Tlb};
use crate::shootdown::PAGE_LIMIT;

/// How often at most something is tried after a purge.
const TRIES: u32 = 16;
/// Frames of tables and books that an attempt may leave to the purge besides its pages.
const OVERHEAD: u64 = 8;

/// What a purge has given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Areas of which no CPU knows any more. Their addresses are free; those of a short mapping when all others near it are unmapped, too.
    pub areas: u64,
    /// Pages that they had.
    pub pages: u64,
    /// Frames that were freed: of areas, page tables and books.
    pub frames: u64,
    /// Chunks that were given up.
    pub chunks: u64,
}

/// What is to be purged: chunks, linked, and how many areas that is.
struct Batch {
    first: u64,
    areas: u32,
    /// Blocks of short mappings are among them.
    blocks: bool,
}

/// How far to go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trim {
    /// Chunks without areas stay, up to a number, for the next areas.
    Surplus,
    /// All chunks without areas go.
    All,
}

impl<'a, K: Kernel, const CPUS: usize> Vmalloc<'a, K, CPUS> {
    /// Flushes, and gives back all that was freed before the call: frames, addresses, and chunks without areas with their tables and books.
    /// When another CPU purges, waits until it is done. In atomic context, where nobody may wait, does nothing.
    pub fn purge(&self) -> Purged {
        if self.platform().is_atomic() {
            return Purged::default();
        }
        while self.purging.swap(true, Ordering::Acquire) {
            self.wait_for_purger();
        }
        let purged = self.purge_all(Trim::All);
        self.purging.store(false, Ordering::Release);
        purged
    }

    /// As [`purge`](Self::purge), for the zones when memory is short
    /// ([`Hooks::reclaim`](kspace_frames::zone::Hooks::reclaim)): returns how many frames were freed.
    pub fn reclaim(&self, shortage: &zone::Shortage) -> u64 {
        if shortage.may_wait && !self.purging.load(Ordering::Relaxed) {
            self.purge().frames
        } else {
            0
        }
    }

    /// Purges because it is time to, unless somebody does already.
    #[cold]
    #[inline(never)]
    pub(super) fn purge_if_nobody_does(&self) {
        if !self.purging.swap(true, Ordering::Acquire) {
            self.purge_all(Trim::Surplus);
            self.purging.store(false, Ordering::Release);
        }
    }

    /// Purges, after whoever does already.
    #[cold]
    pub(super) fn purge_surplus(&self) {
        while self.purging.swap(true, Ordering::Acquire) {
            self.wait_for_purger();
        }
        self.purge_all(Trim::Surplus);
        self.purging.store(false, Ordering::Release);
    }

    /// What `attempt` comes to after a purge. It is tried again as long as purges give back more than the attempt itself had got: on other
    /// CPUs areas are made and freed all the while, and what they gave back may be with them before it is here.
    pub(super) fn after_purges<T>(
        &self,
        attempt: impl Fn() -> Result<T, Shortage>,
    ) -> Result<T, Shortage> {
        self.purge();
        let mut tries = 0;
        loop {
            let shortage = match attempt() {
                Ok(made) => return Ok(made),
                Err(shortage) => shortage,
            };
            tries += 1;
            let before = self.purges.load(Ordering::Relaxed);
            // Even if it was the last attempt: what it had got is needed elsewhere.
            let purged = self.purge();
            let by_others = self.purges.load(Ordering::Relaxed).wrapping_sub(before) > 1;
            let gained = by_others || purged.frames > shortage.filled() + OVERHEAD;
            if tries == TRIES || !gained {
                return Err(shortage);
            }
        }
    }

    /// One turn of waiting. The purger waits for this CPU, so it serves.
    fn wait_for_purger(&self) {
        let _off = self.off();
        self.shootdown().serve();
        self.platform().serve_others();
        self.platform().relax();
    }

    /// Only the purger calls this.
    fn purge_all(&self, trim: Trim) -> Purged {
        if trim == Trim::All {
            self.close_blocks();
        }
        let batch = self.gather();
        let mut purged = Purged::default();
        let large = self.gather_large();
        if batch.first != 0 || large.is_some() {
            let small = (batch.first != 0).then(|| self.stale(&batch));
            self.shootdown()
                .invalidate_all(small.into_iter().chain(large.flatten()));
            self.purges.fetch_add(1, Ordering::Relaxed);
            if self.modes.poison {
                self.check_poison(&batch);
            }
            self.release(&batch, &mut purged);
            self.release_large(&mut purged);
            self.lazy.fetch_sub(purged.pages, Ordering::Relaxed);
        }
        match trim {
            Trim::All => {
                self.trim(0, &mut purged);
                self.trim_tables(&mut purged);
            }
            Trim::Surplus => self.trim(self.kept_chunks(), &mut purged),
        }
        purged
    }

    /// How many chunks without areas stay: as many as one bound's worth of pages needs if every area has one page.
    const fn kept_chunks(&self) -> u64 {
        2 * self.bound / super::pages::CHUNK_PAGES + 2 * CPUS as u64
    }

    /// What the CPUs must forget about a batch that is not empty.
    fn stale(&self, batch: &Batch) -> Invalidation {
        Invalidation::Range(Stale {
            range: self.span_of(batch).unwrap_or(self.area()),
            page: PageSize::Size4K,
            global: true,
            tables: false,
            root: false,
        })
    }

    /// Where the areas of a batch lie, if their pages are few enough to be forgotten one by one.
    fn span_of(&self, batch: &Batch) -> Option<VirtRange> {
        // Blocks have hundreds of mappings.
        if batch.blocks || batch.areas > PAGE_LIMIT {
            return None;
        }
        let mut span: Option<VirtRange> = None;
        let mut next = batch.first;
        while let Some(chunk) = self.linked(next) {
            next = chunk.purge_next().load(Ordering::Relaxed);
            areas_of(chunk, |slot, word| {
                let range = self.range_of(chunk.number(), word.first(slot), word.pages());
                span = Some(span.map_or(range, |span| hull(span, range)));
            });
        }
        span.filter(|span| span.size() <= u64::from(PAGE_LIMIT) * FRAME_SIZE)
    }

    /// Step 1.
    fn gather(&self) -> Batch {
        let mut batch = Batch {
            first: 0,
            areas: 0,
            blocks: false,
        };
        let mut next = self.dirty.take();
        while let Some(chunk) = self.linked(next) {
            next = chunk.dirty_next().load(Ordering::Relaxed);
            let lazy = take_lazy(chunk.lazy(), chunk.mark());
            let block = self.take_account(chunk);
            batch.blocks |= block;
            if !block && lazy.iter().all(|word| *word == 0) {
                continue;
            }
            chunk.set_batch(lazy);
            chunk.purge_next().store(batch.first, Ordering::Relaxed);
            batch.first = chunk.frame().as_u64();
            batch.areas += lazy.iter().map(|word| word.count_ones()).sum::<u32>();
        }
        batch
    }

    /// Looks whether what was freed is still as its freer left it. All CPUs have been flushed.
    fn check_poison(&self, batch: &Batch) {
        let mut next = batch.first;
        while let Some(chunk) = self.linked(next) {
            next = chunk.purge_next().load(Ordering::Relaxed);
            areas_of(chunk, |slot, word| self.check_area(chunk, slot, word));
        }
    }

    /// Step 3.
    fn release(&self, batch: &Batch, purged: &mut Purged) {
        let mut next = batch.first;
        while let Some(chunk) = self.linked(next) {
            next = chunk.purge_next().load(Ordering::Relaxed);
            if !self.release_block(chunk, purged) {
                self.release_chunk(chunk, purged);
            }
        }
    }

    /// Gives back all that the areas of a chunk in the purge under way had.
    #[inline(never)]
    fn release_chunk(&self, chunk: Chunk<'a>, purged: &mut Purged) {
        let off = self.off();
        let (table, base) = (self.leaf_table(chunk), self.slot_of(chunk, 0));
        let mut pages = Collected::NONE;
        let mut singles = Singles::NONE;
        for (index, mut bits) in (0..).zip(chunk.batch()) {
            purged.areas += u64::from(bits.count_ones());
            purged.pages += u64::from(bits.count_ones());
            while bits != 0 {
                let slot = (64 * index + u64::from(bits.trailing_zeros())) % SLOTS as u64;
                bits &= bits - 1;
                let area = chunk.area(2 * slot);
                let word = AreaWord::load(area);
                if !word.is_one_page() {
                    self.release_area(&off, chunk, slot, &mut pages, &mut singles, purged);
                    continue;
                }
                // Most areas, in a few instructions.
                let first = word.first(slot);
                // SAFETY: the area was parked before its lazy bit was set, and all CPUs have been flushed since the bit was taken.
                let frame = unsafe { table.collect_one(base + first as usize) };
                if frame.is_some_and(|frame| singles.is_full_with(frame)) {
                    purged.frames += self.give_singles(&off, &mut singles);
                }
                pages.add(first, first + 2);
                word.release(area);
            }
        }
        purged.frames += self.give_singles(&off, &mut singles);
        self.with_pool(&off, |pool| pool.give(self, chunk, pages.all()));
    }

    /// Gives back all that an area had, whatever it is. One page is counted already.
    #[inline(never)]
    fn release_area(
        &self,
        off: &Off<K>,
        chunk: Chunk<'a>,
        slot: u64,
        pages: &mut Collected,
        singles: &mut Singles,
        purged: &mut Purged,
    ) {
        let word = AreaWord::load(chunk.area(2 * slot));
        let (first, count) = (word.first(slot), word.pages());
        let owned = Kind::raw_owns_frames(word.kind());
        let (table, at) = (self.leaf_table(chunk), self.slot_of(chunk, first));
        if owned && count <= FEW {
            // Mostly taken one by one. Those of a block stay together, and room for one more remains.
            if singles.room() <= count {
                purged.frames += self.give_singles(off, singles);
            }
            let each = |frame| {
                singles.is_full_with(frame);
            };
            // SAFETY: as in `release_chunk`.
            unsafe { table.collect_each(at, count as usize, each) };
        } else {
            let each = |frame: Pfn, frames: usize| {
                if owned && frames > 1 {
                    purged.frames += self.give_frames(off, frame, frames as u64);
                } else if owned && singles.is_full_with(frame) {
                    purged.frames += self.give_singles(off, singles);
                }
            };
            // SAFETY: as in `release_chunk`.
            unsafe { table.collect(at, count as usize, each) };
        }
        purged.pages += count - 1;
        pages.add(first - word.lead(), first + count + 1);
        word.release(chunk.area(first));
    }

    /// Gives single frames back, and has none left. Returns how many they were.
    #[inline(never)]
    fn give_singles(&self, off: &Off<K>, singles: &mut Singles) -> u64 {
        // SAFETY: an area's frames were taken for it, its entries do not lead there any more, and all CPUs have been flushed.
        let (given, lost) = unsafe { self.frames().give_many(off, singles.take()) };
        if lost != 0 {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
        given
    }

    /// Gives back blocks that lie one behind the other, as they were taken. Returns how many frames they had.
    #[inline(never)]
    pub(super) fn give_frames(&self, off: &Off<K>, first: Pfn, count: u64) -> u64 {
        // SAFETY: as above.
        let given = unsafe { self.frames().give_run(off, first, count) };
        if given != count {
            self.lost.fetch_add(count - given, Ordering::Relaxed);
        }
        given
    }
}

/// Frames that come alone, and are given back in one call.
struct Singles {
    frames: [Pfn; Self::ROOM],
    count: usize,
}

impl Singles {
    const ROOM: usize = 32;

    const NONE: Self = Self {
        frames: [Pfn::new(0); Self::ROOM],
        count: 0,
    };

    /// For how many more there is room.
    const fn room(&self) -> u64 {
        (Self::ROOM - self.count) as u64
    }

    /// Adds one more, for which there is room. Whether it was the last.
    #[inline(always)]
    fn is_full_with(&mut self, frame: Pfn) -> bool {
        let at = self.count % Self::ROOM;
        self.frames[at] = frame;
        self.count = at + 1;
        self.count == Self::ROOM
    }

    fn take(&mut self) -> &[Pfn] {
        let count = core::mem::take(&mut self.count);
        &self.frames[..count]
    }
}

/// Pages of a chunk, collected run by run: areas often lie one behind the other.
struct Collected {
    pages: Pages,
    first: u64,
    end: u64,
}

impl Collected {
    const NONE: Self = Self {
        pages: Pages::NONE,
        first: 0,
        end: 0,
    };

    /// Adds the pages from `first` on, before `end`.
    #[inline(always)]
    fn add(&mut self, first: u64, end: u64) {
        if first != self.end {
            self.close(first);
        }
        self.end = end;
    }

    #[inline(never)]
    fn close(&mut self, first: u64) {
        self.pages.insert_run(self.first, self.end);
        self.first = first;
    }

    fn all(mut self) -> Pages {
        self.close(0);
        self.pages
    }
}

/// Calls `each` for every area of a chunk that is in the purge under way.
#[inline]
fn areas_of(chunk: Chunk<'_>, mut each: impl FnMut(u64, AreaWord)) {
    for (word, mut bits) in (0..).zip(chunk.batch()) {
        while bits != 0 {
            let slot = 64 * word + u64::from(bits.trailing_zeros());
            bits &= bits - 1;
            each(slot, AreaWord::load(chunk.area(2 * slot)));
        }
    }
}

/// What covers both.
fn hull(one: VirtRange, other: VirtRange) -> VirtRange {
    let start = one.start().min(other.start());
    let last = one.last().max(other.last());
    // Both lie in one area, so nothing between them is missing.
    VirtRange::try_from_bounds(start, last).unwrap_or(one)
}
