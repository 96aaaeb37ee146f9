//! Large areas: more pages than a chunk takes, or a larger alignment. Each has a range of its own out of the free address space.
//!
//! ```text
//!   2M boundary                              2M boundary
//!   |                                        |
//!   | 2 MiB frame, one entry                 | order 7  | order 6 | 5 |..| guard |     addresses; the last page is never mapped
//!   |                                        |          |         |   |  |
//!   '-- a block of order 9, if there is one  '-- what is left, in blocks as large as there are
//! ```
//!
//! Frames are taken in blocks, the largest first. Where there is none of an order, the next smaller one is tried, and the larger ones are
//! not asked for again; so fragmented memory costs more entries, not a search for each page. From 2 MiB on an area is aligned to 2 MiB if
//! the address space has such a place, so that each block of 2 MiB becomes one large page; from 1 GiB on to 1 GiB, where the machine has
//! such pages and a node has so many frames in a row.
//!
//! What happens to an area is decided under one lock, which is held for a walk in a tree. Entries are filled and parked without it: an
//! area's addresses belong to who makes it, then to its owner, to who frees it, and to the purger, one after the other.
//!
//! A failure leaves nothing: what had been mapped is taken away and flushed before the error is returned.

mod allocate;
mod books;
mod fill;
mod free;
mod look;
mod moving;
mod purge;
mod resize;
mod user;

use core::fmt;

use kspace_paging::{FrameSource, PhysMemory};

use super::Kernel;
use super::lock::Lock;
use super::state::{Off, Vmalloc};
use books::Books;

/// What there is of large areas.
pub(super) struct Large<'a, M: PhysMemory, F: FrameSource> {
    books: Lock<Books<'a, M, F>>,
}

impl<'a, M: PhysMemory, F: FrameSource> Large<'a, M, F> {
    /// None. Frames for the books are taken when there are some.
    pub(super) const fn new(memory: &'a M, frames: &'a F) -> Self {
        Self {
            books: Lock::new(Books::new(memory, frames)),
        }
    }
}

impl<M: PhysMemory, F: FrameSource> fmt::Debug for Large<'_, M, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Large").finish_non_exhaustive()
    }
}

impl<'a, K: Kernel, const CPUS: usize> Vmalloc<'a, K, CPUS> {
    fn with_books<R>(
        &self,
        off: &Off<K>,
        body: impl FnOnce(&mut Books<'a, K::Memory, K::Frames>) -> R,
    ) -> R {
        self.large.books.with(self.platform(), off, body)
    }
}
