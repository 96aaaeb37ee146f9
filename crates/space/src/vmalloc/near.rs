//! The chunks that a CPU used last: most look-ups end here and not in the index.
//!
//! ```text
//!   way = number % WAYS     generation | number | where its books are | where its page table is         an array of each
//! ```
//!
//! An entry counts as long as its generation is the index's. Who takes chunks out of the index goes on to the next generation before the
//! shootdown after which their books are freed, so an entry is used only
//!
//! - in its own generation, when nothing was taken out since it was looked up; or
//! - by a CPU that has read the generation before it changed, and has had interrupts off since: the shootdown waits for it.
//!
//! Nothing of other CPUs' need be swept out. Only the CPU itself writes here, with interrupts off.

use core::ptr::null_mut;

use super::sync::{AtomicPtr, AtomicU64, Ordering};

/// Chunks that are remembered: those of short and of long areas that are made, and those where some are freed.
const WAYS: usize = 8;

/// Not all atomics can be made in constants.
macro_rules! each_way {
    ($($zero:tt)*) => {
        [
            $($zero)*, $($zero)*, $($zero)*, $($zero)*,
            $($zero)*, $($zero)*, $($zero)*, $($zero)*,
        ]
    };
}

/// A CPU's last chunks.
pub(super) struct Near {
    /// Zero is none: the index counts from one.
    generations: [AtomicU64; WAYS],
    numbers: [AtomicU64; WAYS],
    books: [AtomicPtr<()>; WAYS],
    slots: [AtomicPtr<()>; WAYS],
}

impl Near {
    constructor! {
        pub(super) fn new() -> Self {
            Self {
                generations: each_way!(AtomicU64::new(0)),
                numbers: each_way!(AtomicU64::new(0)),
                books: each_way!(AtomicPtr::new(null_mut())),
                slots: each_way!(AtomicPtr::new(null_mut())),
            }
        }
    }

    /// Where a chunk's books and page table are, if it is remembered. `generation` was read with interrupts off, and they have been so since.
    #[inline(always)]
    pub(super) fn get(&self, generation: u64, number: u64) -> Option<(*const (), *const ())> {
        let way = number as usize % WAYS;
        let is_it = self.numbers[way].load(Ordering::Relaxed) == number
            && self.generations[way].load(Ordering::Relaxed) == generation;
        is_it.then(|| {
            let books = self.books[way].load(Ordering::Relaxed);
            let slots = self.slots[way].load(Ordering::Relaxed);
            (books.cast_const(), slots.cast_const())
        })
    }

    /// Remembers what the index said after `generation` was read.
    pub(super) fn put(&self, generation: u64, number: u64, books: *const (), slots: *const ()) {
        let way = number as usize % WAYS;
        self.generations[way].store(generation, Ordering::Relaxed);
        self.numbers[way].store(number, Ordering::Relaxed);
        self.books[way].store(books.cast_mut(), Ordering::Relaxed);
        self.slots[way].store(slots.cast_mut(), Ordering::Relaxed);
    }
}
