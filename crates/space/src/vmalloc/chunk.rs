//! Chunks: 2 MiB of addresses with a page table, and one frame of books on the areas in them.
//!
//! ```text
//!   word    0  number     1  table      2  mark       3  next on the dirty stack     who may write: see below
//!           4  next on the purger's list             5, 6  neighbours in the pool    7  place in the pool
//!           8  lazy areas, one bit each (4 words)
//!          12  areas in the purge under way (4 words)
//!          16  free pages, one bit each (8 words)
//!          24  index nodes that go with it (4 words), count in 28; addresses held with it: first in 29, last in 30
//!          32  account of a block of short mappings         33  what a purge has taken of it
//!          34  the frame of the books themselves
//!         128  who made the areas that were freed, where that is kept: two to a word (128 words)
//!         256  areas, one word each (256 words)
//! ```
//!
//! | words | written by |
//! |---|---|
//! | 0, 1, 34 | who makes the chunk, before others know it |
//! | 2, 3, 8 to 11 | as `lazy` says |
//! | 4, 12 to 15, 24 to 30, 33 | the purger |
//! | 5 to 7, 16 to 23 | who holds the pool |
//! | 32 | as `map_ram` says |
//! | 128 to 255 | who frees an area, its half of a word |
//! | 256 to 511 | as `slot` says |

use kspace_layout::{PhysAddr, VirtAddr, VirtRange};

use super::lazy::LAZY_WORDS;
use super::pages::{CHUNK_PAGES, PAGE_WORDS, Pages};
use super::sync::{AtomicU64, Ordering};

/// 64-bit words in a frame.
pub(super) const FRAME_WORDS: usize = 512;
/// Areas that a chunk has room for: each is two pages long at least.
pub(super) const SLOTS: usize = CHUNK_PAGES as usize / 2;

const NUMBER: usize = 0;
const TABLE: usize = 1;
const MARK: usize = 2;
const DIRTY_NEXT: usize = 3;
const PURGE_NEXT: usize = 4;
const POOL_PREVIOUS: usize = 5;
const POOL_NEXT: usize = 6;
const POOL_PLACE: usize = 7;
const LAZY: usize = 8;
const BATCH: usize = 12;
const FREE: usize = 16;
const RETIRED: usize = 24;
const RETIRED_COUNT: usize = 28;
const HOLD_FIRST: usize = 29;
const HOLD_LAST: usize = 30;
const ACCOUNT: usize = 32;
const TAKEN: usize = 33;
const FRAME: usize = 34;
const MAKERS: usize = 128;
const AREAS: usize = 256;

/// Index nodes that can go with a chunk: one for each level but the root's.
pub(super) const MAX_RETIRED: usize = RETIRED_COUNT - RETIRED;

/// A frame of words.
pub(super) type Words = [AtomicU64; FRAME_WORDS];

/// The books on one chunk.
#[derive(Clone, Copy)]
pub(super) struct Chunk<'a> {
    words: &'a Words,
}

impl<'a> Chunk<'a> {
    #[inline(always)]
    pub(super) const fn new(words: &'a Words) -> Self {
        Self { words }
    }

    /// The books' words.
    #[inline(always)]
    pub(super) const fn words(self) -> &'a Words {
        self.words
    }

    /// Writes down what a new chunk is, into `frame`, a frame of zeros.
    pub(super) fn begin(self, frame: PhysAddr, number: u64, table: PhysAddr) {
        self.words[FRAME].store(frame.as_u64(), Ordering::Relaxed);
        self.words[NUMBER].store(number, Ordering::Relaxed);
        self.words[TABLE].store(table.as_u64(), Ordering::Relaxed);
    }

    /// The frame of the books.
    #[inline]
    pub(super) fn frame(self) -> PhysAddr {
        address(&self.words[FRAME])
    }

    /// Which chunk it is, counted from address zero.
    #[inline]
    pub(super) fn number(self) -> u64 {
        self.words[NUMBER].load(Ordering::Relaxed)
    }

    /// Its page table.
    #[inline(always)]
    pub(super) fn table(self) -> PhysAddr {
        address(&self.words[TABLE])
    }

    #[inline]
    pub(super) fn mark(self) -> &'a AtomicU64 {
        &self.words[MARK]
    }

    #[inline]
    pub(super) fn dirty_next(self) -> &'a AtomicU64 {
        &self.words[DIRTY_NEXT]
    }

    #[inline]
    pub(super) fn purge_next(self) -> &'a AtomicU64 {
        &self.words[PURGE_NEXT]
    }

    pub(super) fn pool_previous(self) -> &'a AtomicU64 {
        &self.words[POOL_PREVIOUS]
    }

    pub(super) fn pool_next(self) -> &'a AtomicU64 {
        &self.words[POOL_NEXT]
    }

    pub(super) fn pool_place(self) -> &'a AtomicU64 {
        &self.words[POOL_PLACE]
    }

    #[inline]
    pub(super) fn lazy(self) -> &'a [AtomicU64; LAZY_WORDS] {
        four(self.words, LAZY)
    }

    /// The areas in the purge under way.
    pub(super) fn batch(self) -> [u64; LAZY_WORDS] {
        four(self.words, BATCH)
            .each_ref()
            .map(|word| word.load(Ordering::Relaxed))
    }

    pub(super) fn set_batch(self, batch: [u64; LAZY_WORDS]) {
        for (word, bits) in four(self.words, BATCH).iter().zip(batch) {
            word.store(bits, Ordering::Relaxed);
        }
    }

    pub(super) fn free(self) -> Pages {
        let mut pages = Pages::NONE;
        for (bits, word) in pages.0.iter_mut().zip(&self.words[FREE..FREE + PAGE_WORDS]) {
            *bits = word.load(Ordering::Relaxed);
        }
        pages
    }

    pub(super) fn set_free(self, pages: Pages) {
        for (word, bits) in self.words[FREE..FREE + PAGE_WORDS].iter().zip(pages.0) {
            word.store(bits, Ordering::Relaxed);
        }
    }

    /// Takes down an index node that is freed with this chunk.
    pub(super) fn retire(self, node: PhysAddr) {
        let count = self.words[RETIRED_COUNT].load(Ordering::Relaxed) as usize;
        self.words[RETIRED + count % MAX_RETIRED].store(node.as_u64(), Ordering::Relaxed);
        self.words[RETIRED_COUNT].store(count as u64 + 1, Ordering::Relaxed);
    }

    pub(super) fn retired(self) -> impl Iterator<Item = PhysAddr> + 'a {
        let count = self.words[RETIRED_COUNT].load(Ordering::Relaxed) as usize;
        self.words[RETIRED..]
            .iter()
            .take(count.min(MAX_RETIRED))
            .map(address)
    }

    /// Takes down which addresses are held while the chunk is given up. The first one is never zero.
    pub(super) fn set_hold(self, hold: Option<VirtRange>) {
        let (first, last) =
            hold.map_or((0, 0), |hold| (hold.start().as_u64(), hold.last().as_u64()));
        self.words[HOLD_FIRST].store(first, Ordering::Relaxed);
        self.words[HOLD_LAST].store(last, Ordering::Relaxed);
    }

    pub(super) fn hold(self) -> Option<VirtRange> {
        let word = |at: usize| VirtAddr::new(self.words[at].load(Ordering::Relaxed));
        let (first, last) = (word(HOLD_FIRST), word(HOLD_LAST));
        (first != VirtAddr::ZERO).then(|| VirtRange::try_from_bounds(first, last).ok())?
    }

    /// The account of a block, or zero.
    #[inline]
    pub(super) fn account(self) -> &'a AtomicU64 {
        &self.words[ACCOUNT]
    }

    /// What the purge under way has taken of it.
    pub(super) fn taken(self) -> u64 {
        self.words[TAKEN].load(Ordering::Relaxed)
    }

    pub(super) fn set_taken(self, taken: u64) {
        self.words[TAKEN].store(taken, Ordering::Relaxed);
    }

    /// The words of all areas.
    pub(super) fn areas(self) -> &'a [AtomicU64] {
        &self.words[AREAS..]
    }

    /// Who made the area in a slot, once it is freed: for debugging.
    pub(super) fn maker(self, slot: u64) -> u32 {
        let word = self.words[MAKERS + slot as usize / 2].load(Ordering::Relaxed);
        // The half of it that is the slot's.
        (word >> (32 * (slot % 2))) as u32
    }

    /// Takes down who made the area in a slot, which the caller is freeing.
    pub(super) fn set_maker(self, slot: u64, maker: u32) {
        let (word, shift) = (&self.words[MAKERS + slot as usize / 2], 32 * (slot % 2));
        // The neighbour's half may be changed at the same time.
        word.fetch_and(!(u64::from(u32::MAX) << shift), Ordering::Relaxed);
        word.fetch_or(u64::from(maker) << shift, Ordering::Relaxed);
    }

    /// The word of the area that begins in the page pair of `page`.
    #[inline(always)]
    pub(super) fn area(self, page: u64) -> &'a AtomicU64 {
        // Half the slots, so that the compiler sees that it is inside.
        &self.words[AREAS + page as usize / 2 % SLOTS]
    }
}

/// The four words from `at` on.
#[inline]
fn four(words: &Words, at: usize) -> &[AtomicU64; LAZY_WORDS] {
    match words[at..].first_chunk() {
        Some(four) => four,
        None => unreachable!(),
    }
}

/// An address that was stored as one.
#[inline(always)]
fn address(word: &AtomicU64) -> PhysAddr {
    // It is one as it is. This says so to the compiler.
    PhysAddr::new(word.load(Ordering::Relaxed) & PhysAddr::LAST.as_u64())
}
