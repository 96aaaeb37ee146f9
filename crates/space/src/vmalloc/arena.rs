//! What each CPU has of its own: runs of free pages for its next areas, and its part of the counts.
//!
//! ```text
//!   run:   | page number of the chunk's books (40 bits) | end (10) | next (10) |       one word; zero is none
//! ```
//!
//! A run is taken from the pool whole. A CPU places its areas one after the other from `next` on, by changing the word in one step; so
//! the purger may take the rest of a run away from any CPU, by swapping the word. What the word says is the authority: a word that
//! was away and came back says the same as before.

use core::fmt;

use kspace_layout::{FRAME_SIZE, PhysAddr};

use super::sync::{AtomicU64, Ordering};

const PAGE_BITS: u32 = 10;
const PAGE_MASK: u64 = (1 << PAGE_BITS) - 1;

/// Areas of up to so many pages, guard included, have a run of their own, so that long ones do not break up short ones' chunks.
const SHORT: u64 = 9;

/// One CPU's own.
#[repr(align(64))]
pub(super) struct Arena {
    runs: [AtomicU64; 2],
    /// Pages of live areas, modulo 2^64: an area may be freed on another CPU. Only this CPU writes, with interrupts off.
    used: AtomicU64,
    /// Areas, likewise.
    areas: AtomicU64,
    /// Pages freed here that are not in the common count yet. Only this CPU writes, with interrupts off.
    lazy: AtomicU64,
}

/// What each of up to `CPUS` CPUs has of its own. It is apart from the rest, because it is larger than some kernels' stacks: a kernel has it in
/// a static.
pub struct Arenas<const CPUS: usize>(pub(super) [Arena; CPUS]);

impl<const CPUS: usize> Arenas<CPUS> {
    /// Of CPUs that have nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { Arena::new() }; CPUS])
    }
}

impl<const CPUS: usize> Default for Arenas<CPUS> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const CPUS: usize> fmt::Debug for Arenas<CPUS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arenas").finish_non_exhaustive()
    }
}

/// Free pages of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run(u64);

impl Run {
    pub(super) const NONE: Self = Self(0);

    pub(super) fn new(books: PhysAddr, next: u64, end: u64) -> Self {
        if next == end {
            return Self(0);
        }
        let number = books.as_u64() / FRAME_SIZE;
        Self(number << (2 * PAGE_BITS) | end << PAGE_BITS | next)
    }

    #[inline]
    pub(super) const fn books(self) -> PhysAddr {
        // 40 bits of frame number are left.
        PhysAddr::new((self.0 >> (2 * PAGE_BITS)) * FRAME_SIZE)
    }

    #[inline]
    pub(super) const fn next(self) -> u64 {
        self.0 & PAGE_MASK
    }

    #[inline]
    pub(super) const fn end(self) -> u64 {
        self.0 >> PAGE_BITS & PAGE_MASK
    }
}

impl Arena {
    pub(super) const fn new() -> Self {
        Self {
            runs: [const { AtomicU64::new(0) }; 2],
            used: AtomicU64::new(0),
            areas: AtomicU64::new(0),
            lazy: AtomicU64::new(0),
        }
    }

    #[inline]
    fn run(&self, need: u64) -> &AtomicU64 {
        &self.runs[usize::from(need > SHORT)]
    }

    /// Takes `need` pages of a run: the chunk's books and the first page.
    #[inline]
    pub(super) fn place(&self, need: u64) -> Option<(PhysAddr, u64)> {
        let word = self.run(need);
        let mut run = Run(word.load(Ordering::Acquire));
        loop {
            if run.next() + need > run.end() {
                return None;
            }
            // The end stays above, so nothing is carried into it.
            let rest = run.0 + need;
            match word.compare_exchange(run.0, rest, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some((run.books(), run.next())),
                Err(other) => run = Run(other),
            }
        }
    }

    /// The books of the chunk in which this CPU places short areas. As long as its run has pages left the chunk is not given up.
    #[inline]
    pub(super) fn filling(&self) -> Option<PhysAddr> {
        let run = Run(self.runs[0].load(Ordering::Acquire));
        (run.next() < run.end()).then(|| run.books())
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
        let full = lazy >= batch;
        self.lazy
            .store(if full { 0 } else { lazy }, Ordering::Relaxed);
        full.then_some(lazy)
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
