//! The chunks that a CPU used last: most look-ups end here and not in the index.
//!
//! ```text
//!   way = number % WAYS     generation | number | books          one of three arrays each
//! ```
//!
//! An entry counts as long as its generation is the index's. Who takes chunks out of the index goes on to the next generation before the
//! shootdown after which their books are freed, so an entry is used only
//!
//! - in its own generation, when nothing was taken out since it was looked up; or
//! - by a CPU that has read the generation before it changed, and has had interrupts off since: the shootdown waits for it.
//!
//! Nothing of other CPUs' need be swept out. Only the CPU itself writes here, with interrupts off.

use kspace_layout::PhysAddr;

use super::sync::{AtomicU64, Ordering};

/// Chunks that are remembered: those of short and of long areas that are made, and those where some are freed.
const WAYS: usize = 4;

/// Not all atomics can be made in constants.
macro_rules! four_zeros {
    () => {
        [
            AtomicU64::new(0),
            AtomicU64::new(0),
            AtomicU64::new(0),
            AtomicU64::new(0),
        ]
    };
}

/// A CPU's last chunks.
pub(super) struct Near {
    /// Zero is none: the index counts from one.
    generations: [AtomicU64; WAYS],
    numbers: [AtomicU64; WAYS],
    books: [AtomicU64; WAYS],
}

impl Near {
    constructor! {
        pub(super) fn new() -> Self {
            Self {
                generations: four_zeros!(),
                numbers: four_zeros!(),
                books: four_zeros!(),
            }
        }
    }

    /// The frame of a chunk's books, if it is remembered. `generation` was read with interrupts off, and they have been so since.
    #[inline(always)]
    pub(super) fn get(&self, generation: u64, number: u64) -> Option<PhysAddr> {
        let way = number as usize % WAYS;
        let is_it = self.numbers[way].load(Ordering::Relaxed) == number
            && self.generations[way].load(Ordering::Relaxed) == generation;
        is_it.then(|| {
            let frame = self.books[way].load(Ordering::Relaxed);
            // As it was stored; said again for the compiler.
            PhysAddr::new(frame & PhysAddr::LAST.as_u64())
        })
    }

    /// Remembers what the index said after `generation` was read.
    pub(super) fn put(&self, generation: u64, number: u64, books: PhysAddr) {
        let way = number as usize % WAYS;
        self.generations[way].store(generation, Ordering::Relaxed);
        self.numbers[way].store(number, Ordering::Relaxed);
        self.books[way].store(books.as_u64(), Ordering::Relaxed);
    }
}
