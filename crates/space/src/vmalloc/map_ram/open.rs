//! The block in which a CPU maps: one word.
//!
//! ```text
//!   63                                12 11       0
//!   | frame of the chunk's books        |   next   |       no block: no frame, and no page left
//! ```
//!
//! As with the runs of `arena`, what the word says is the authority: a CPU goes on in one step, and the purger takes the block away by
//! swapping the word.

use super::super::sync::{AtomicU64, Ordering};
use super::account::BLOCK_PAGES;

const NEXT: u64 = 0xfff;
/// What an address of a frame has at most: 52 bits of it are physical (Intel SDM vol. 3, section 4.1.4).
const FRAME: u64 = (1 << 52) - 1 - NEXT;

/// A CPU's block.
pub(in super::super) struct OpenBlock(AtomicU64);

/// What was taken away from a CPU: it places nothing more there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Closed {
    /// The address of the chunk's books.
    pub(in super::super) books: u64,
    /// The first page that was never placed.
    pub(in super::super) next: u64,
}

impl OpenBlock {
    constructor! {
        pub(in super::super) fn new() -> Self {
            Self(AtomicU64::new(BLOCK_PAGES))
        }
    }

    /// Takes `need` pages, at least one and at most a block's: the address of the books, and the first page.
    #[inline]
    pub(in super::super) fn place(&self, need: u64) -> Option<(u64, u64)> {
        let mut word = self.0.load(Ordering::Acquire);
        loop {
            if (word & NEXT) + need > BLOCK_PAGES {
                return None;
            }
            match self
                .0
                .compare_exchange(word, word + need, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Some((word & FRAME, word & NEXT)),
                Err(other) => word = other,
            }
        }
    }

    /// The address of the books of the chunk in which this CPU maps. The chunk stays as long as interrupts are off.
    #[inline]
    pub(in super::super) fn books(&self) -> Option<u64> {
        let books = self.0.load(Ordering::Acquire) & FRAME;
        (books != 0).then_some(books)
    }

    /// Goes over to another block, or with zero to none.
    pub(in super::super) fn exchange(&self, books: u64) -> Option<Closed> {
        let word = if books == 0 { BLOCK_PAGES } else { books };
        let old = self.0.swap(word, Ordering::AcqRel);
        (old & FRAME != 0).then_some(Closed {
            books: old & FRAME,
            next: old & NEXT,
        })
    }
}
