//! What a CPU has of its own: runs of free pages for its next areas, and its part of the counts.
//!
//! ```text
//!   run:   | number of the chunk (44 bits) | next (10) | left (10) |       one word; zero is none
//!
//!   pages  ...| area |G|lead| area   |G|      left      |...               lead: passed over, so that an area begins at its alignment
//!                                       ^ next
//! ```
//!
//! A run is taken from the pool whole. A CPU places its areas one after the other from `next` on, by changing the word in one step; so
//! the purger may take the rest of a run away from any CPU, by swapping the word. What the word says is the authority: a word that
//! was away and came back says the same as before.
//!
//! Pages that are passed over are the area's until it is purged. There are few: an area that would need more is placed elsewhere.

use super::map_ram::open::OpenBlock;
use super::near::Near;
use super::sync::{AtomicU64, Ordering};

const PAGE_MASK: u64 = (1 << NEXT_SHIFT) - 1;
const NEXT_SHIFT: u32 = 10;
const NUMBER_SHIFT: u32 = 20;

/// Areas of up to so many pages, guard included, have a run of their own, so that long ones do not break up short ones' chunks.
const SHORT: u64 = 9;

/// So many pages, or as many as an area has, may be passed over for its alignment.
pub(super) const LEAD: u64 = 8;

/// A CPU's own.
#[repr(align(64))]
pub(super) struct Arena {
    runs: [AtomicU64; 2],
    /// Where it maps for a short time.
    block: OpenBlock,
    /// The chunks that it used last.
    pub(super) near: Near,
    /// Pages of live areas, modulo 2^64: an area may be freed on another CPU. Only this CPU writes, with interrupts off.
    used: AtomicU64,
    /// Areas, likewise.
    areas: AtomicU64,
    /// Pages freed here that are not in the common count yet. Only this CPU writes, with interrupts off.
    lazy: AtomicU64,
}

/// Free pages of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run(u64);

impl Run {
    pub(super) const NONE: Self = Self(0);

    /// The pages from `next` on, before `end`, of the chunk with this number.
    pub(super) const fn new(number: u64, next: u64, end: u64) -> Self {
        if next == end {
            return Self(0);
        }
        Self(number << NUMBER_SHIFT | next << NEXT_SHIFT | (end - next))
    }

    /// The chunk's number.
    #[inline]
    pub(super) const fn number(self) -> u64 {
        self.0 >> NUMBER_SHIFT
    }

    #[inline]
    pub(super) const fn next(self) -> u64 {
        self.0 >> NEXT_SHIFT & PAGE_MASK
    }

    #[inline]
    pub(super) const fn left(self) -> u64 {
        self.0 & PAGE_MASK
    }

    /// Without its first `pages` pages. It has as many.
    #[inline]
    const fn without(self, pages: u64) -> Self {
        // What is left does not go below zero, and `next` not beyond a chunk, so nothing is carried from one to the other.
        Self(self.0 - pages + (pages << NEXT_SHIFT))
    }
}

/// A place for an area, guard included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// The chunk's number.
    pub(super) number: u64,
    /// The first page.
    pub(super) first: u64,
    /// How many pages before that one go with it.
    pub(super) lead: u64,
}

impl Arena {
    constructor! {
        pub(super) fn new() -> Self {
            Self {
                runs: [AtomicU64::new(0), AtomicU64::new(0)],
                block: OpenBlock::new(),
                near: Near::new(),
                used: AtomicU64::new(0),
                areas: AtomicU64::new(0),
                lazy: AtomicU64::new(0),
            }
        }
    }

    #[inline(always)]
    fn run(&self, need: u64) -> &AtomicU64 {
        &self.runs[usize::from(need > SHORT)]
    }

    /// Takes `need` pages of a run, the first at a multiple of `align`, a power of two.
    #[inline(always)]
    pub(super) fn place(&self, need: u64, align: u64) -> Option<Spot> {
        let word = self.run(need);
        let mut run = Run(word.load(Ordering::Acquire));
        loop {
            let lead = run.next().wrapping_neg() & (align - 1);
            if lead + need > run.left() || lead > need.max(LEAD) {
                return None;
            }
            let rest = run.without(lead + need);
            match word.compare_exchange(run.0, rest.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    return Some(Spot {
                        number: run.number(),
                        first: run.next() + lead,
                        lead,
                    });
                }
                Err(other) => run = Run(other),
            }
        }
    }

    /// Puts another run in the place of the one for such areas, and returns the rest of that. The pool is held.
    pub(super) fn exchange(&self, need: u64, run: Run) -> Run {
        Run(self.run(need).swap(run.0, Ordering::AcqRel))
    }

    /// Takes all runs away. The pool is held.
    pub(super) fn take_runs(&self) -> [Run; 2] {
        self.runs
            .each_ref()
            .map(|run| Run(run.swap(0, Ordering::AcqRel)))
    }

    /// The block in which this CPU maps for a short time.
    #[inline]
    pub(super) const fn block(&self) -> &OpenBlock {
        &self.block
    }

    /// Counts a new area of so many pages.
    #[inline]
    pub(super) fn count_new(&self, pages: u64) {
        add(&self.used, pages);
        add(&self.areas, 1);
    }

    /// Counts a freed area of so many pages. When `batch` pages have come together, returns and forgets their number.
    #[inline]
    pub(super) fn count_freed(&self, pages: u64, batch: u64) -> Option<u64> {
        add(&self.used, pages.wrapping_neg());
        add(&self.areas, 1_u64.wrapping_neg());
        let lazy = self.lazy.load(Ordering::Relaxed) + pages;
        if lazy >= batch {
            return Some(self.tell(lazy));
        }
        self.lazy.store(lazy, Ordering::Relaxed);
        None
    }

    /// Forgets what is told now.
    #[cold]
    #[inline(never)]
    fn tell(&self, lazy: u64) -> u64 {
        self.lazy.store(0, Ordering::Relaxed);
        lazy
    }

    /// Counts so many pages more, or less, modulo 2^64, of an area that has another size.
    pub(super) fn count_pages(&self, change: u64) {
        add(&self.used, change);
    }

    /// Counts an area of so many pages less, of which nothing waits for a purge.
    pub(super) fn count_moved(&self, pages: u64) {
        add(&self.used, pages.wrapping_neg());
        add(&self.areas, 1_u64.wrapping_neg());
    }

    /// Pages of live areas: of all CPUs together, it is never below zero.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Live areas, likewise.
    pub(super) fn areas(&self) -> u64 {
        self.areas.load(Ordering::Relaxed)
    }

    /// Freed pages that are not in the common count.
    pub(super) fn lazy(&self) -> u64 {
        self.lazy.load(Ordering::Relaxed)
    }
}

/// Adds to a count that only this CPU writes.
#[inline]
fn add(count: &AtomicU64, change: u64) {
    let sum = count.load(Ordering::Relaxed).wrapping_add(change);
    count.store(sum, Ordering::Relaxed);
}
