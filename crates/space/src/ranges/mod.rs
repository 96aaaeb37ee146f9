//! The free address space of one area, in pages: who gets which addresses.
//!
//! ```text
//!   area  |  free  |#####|   free   |##|########|         free            |      # live allocations
//!             |               |                              |
//!             +------- by address: one tree -----------------+                   who is beside what comes back?
//!
//!   block 2^0: -    2^1: o    2^2: o    ...    2^n: o                            where does a request fit best?
//!                       / \       / \               one tree for each size of
//!                      by size, then address        the largest aligned block inside
//! ```
//!
//! **Best fit**: an allocation comes from the smallest free range that holds it, the lowest among equals, and from its lowest
//! aligned page on. The trees of sizes are sorted into *orders*: a range is in the tree of the largest power of two of pages that it
//! holds *aligned*. So whether an aligned request fits is known from the tree, without looking at ranges that are large enough
//! but lie badly: 2^n pages aligned to 2^n fit into everything of order n and above, and into nothing else.
//!
//! **Only free ranges are written down**, each in a node of 64 bytes in frames of the caller's source. What is live
//! is the rest. `k` live allocations leave at most `k + 1` free ranges between them, so that many nodes are kept: an allocation that
//! cannot get its node fails, and [`Ranges::free`] needs none. The frames go back when allocations do.
//!
//! Promise: every call does all of its work or changes nothing, and a place that exists is found. Costs are logarithmic in the number of
//! free ranges, but for three that are linear: [`Request::random`]; [`Request::within`] when the best ranges by size lie outside;
//! and an alignment for which the best ranges by size lie badly, *and* no range is large enough to hold it however it lies.
//!
//! Guard pages, what an address is used for, and when it may be used again are the callers' business; so is the lock.

mod change;
mod error;
mod place;
mod request;
pub(crate) mod tree;

use kspace_layout::{FRAME_SIZE, VirtAddr, VirtRange};
use kspace_paging::{FrameSource, PhysMemory};

use crate::words::{NodeId, Slab};
use tree::{ByAddress, BySize, Gap, Span, Tree};

pub use error::{AllocateError, FreeError};
pub use request::Request;

/// Orders of blocks: page numbers have 52 bits.
const ORDERS: usize = 64 - FRAME_SIZE.trailing_zeros() as usize + 1;

/// The free address space of one area. See the [module](self).
///
/// Books are read through `M`, and kept in frames of `F`, which all go back when this is dropped.
pub struct Ranges<'a, M: PhysMemory, F: FrameSource> {
    area: Span,
    slab: Slab<'a, M, F>,
    by_address: Tree<ByAddress>,
    /// The free ranges whose largest aligned block has 2^index pages.
    by_size: [Tree<BySize>; ORDERS],
    /// Which trees of `by_size` have nodes.
    orders: u64,
    free_pages: u64,
    range_count: u64,
    allocations: u64,
    /// From the lowest to the highest address that was given back since somebody asked.
    given_back: Option<Span>,
}

impl<'a, M: PhysMemory, F: FrameSource> Ranges<'a, M, F> {
    /// All of `area` free. Takes a frame of `frames`, which must be reached through `memory`.
    ///
    /// # Errors
    ///
    /// [`AllocateError::Unaligned`] when `area` is not made of whole pages, [`AllocateError::NoFrame`].
    pub fn new(area: VirtRange, memory: &'a M, frames: F) -> Result<Self, AllocateError> {
        let Some(span) = Span::of(area) else {
            return Err(AllocateError::Unaligned(area));
        };
        let mut ranges = Self {
            area: span,
            slab: Slab::new(memory, frames),
            by_address: Tree::new(),
            by_size: [const { Tree::new() }; ORDERS],
            orders: 0,
            free_pages: span.pages,
            range_count: 0,
            allocations: 0,
            given_back: None,
        };
        ranges.keep_nodes_for(0)?;
        ranges.insert(span, Gap::ROOT);
        Ok(ranges)
    }

    /// The area whose addresses these are.
    #[must_use]
    pub fn area(&self) -> VirtRange {
        self.area.range()
    }

    /// Pages that are free.
    #[must_use]
    pub const fn free_pages(&self) -> u64 {
        self.free_pages
    }

    /// Pages of the largest free range: what can be had in one piece.
    #[must_use]
    pub fn largest_free(&self) -> u64 {
        // A range of one order is at most one page short of four blocks, so one of the next order can be smaller, but no
        // other.
        let Some(top) = self.orders.checked_ilog2() else {
            return 0;
        };
        [top.checked_sub(1), Some(top)]
            .into_iter()
            .flatten()
            .filter_map(|order| self.by_size[order as usize].last(&self.slab))
            .map(|node| self.span(node).pages)
            .max()
            .unwrap_or(0)
    }

    /// How many free ranges there are.
    #[must_use]
    pub const fn range_count(&self) -> u64 {
        self.range_count
    }

    /// How many allocations are live.
    #[must_use]
    pub const fn allocations(&self) -> u64 {
        self.allocations
    }

    /// From the lowest to the highest address that was given back since the last call: outside, no free range has grown.
    pub fn take_given_back(&mut self) -> Option<VirtRange> {
        self.given_back.take().map(Span::range)
    }

    /// The memory that the books take, in bytes.
    #[must_use]
    pub const fn book_bytes(&self) -> u64 {
        self.slab.bytes()
    }

    /// The free ranges, from the lowest address up. No two of them touch.
    pub fn iter(&self) -> impl Iterator<Item = VirtRange> + '_ {
        self.nodes_from(0).map(|node| self.span(node).range())
    }

    /// The free range that `address` lies in.
    #[must_use]
    pub fn free_range_at(&self, address: VirtAddr) -> Option<VirtRange> {
        let page = tree::page(address);
        let (below, _, _) = self.by_address.around(&self.slab, page);
        let span = self.span(below?);
        (page < span.end()).then(|| span.range())
    }

    /// The free range that `from` lies in, or else the first one above it.
    #[must_use]
    pub fn next_free(&self, from: VirtAddr) -> Option<VirtRange> {
        let above = || self.nodes_from(tree::page(from)).next();
        self.free_range_at(from)
            .or_else(|| above().map(|node| self.span(node).range()))
    }

    /// The nodes of the ranges that start at page `from` or above, ascending.
    fn nodes_from(&self, from: u64) -> impl Iterator<Item = NodeId> + '_ {
        let first = self.by_address.at_or_after(&self.slab, from);
        core::iter::successors(first, |node| Tree::<ByAddress>::next(&self.slab, *node))
    }

    fn span(&self, node: NodeId) -> Span {
        Span::load(self.slab.words(node))
    }
}
