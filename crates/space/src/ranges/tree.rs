//! A balanced search tree over nodes of the slab: a treap.
//!
//! A node is above another when its priority, a number that looks random, is higher. The tree is therefore the one that
//! inserting the nodes in random order would have made: about 2 ln n nodes deep, without a word on balance in the code. The
//! priorities come from the nodes' own addresses, so every run is alike.
//!
//! ```text
//!   word    0      1        2 3                4 5              6
//!           start  pages    below, above in    the same in      priority
//!                           the tree by        a tree by
//!                           address            size
//! ```

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kspace_layout::{FRAME_SIZE, VirtAddr, VirtRange};
use kspace_paging::{FrameSource, PhysMemory};

use crate::words::{NodeId, Slab, Words};

const START: usize = 0;
const PAGES: usize = 1;
const PRIORITY: usize = 6;

/// The number of the page that `address` lies in.
pub(super) const fn page(address: VirtAddr) -> u64 {
    address.as_u64() / FRAME_SIZE
}

/// A range of pages, by number. Never empty, and inside one half of the address space, as the range that it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) pages: u64,
}

impl Span {
    /// The pages of `range`; `None` when one of them is cut.
    pub(super) const fn of(range: VirtRange) -> Option<Self> {
        if !range.is_aligned(FRAME_SIZE) {
            return None;
        }
        Some(Self {
            start: page(range.start()),
            pages: range.size() / FRAME_SIZE,
        })
    }

    /// The pages from `start` up to `end`, which is not part of them.
    pub(super) const fn between(start: u64, end: u64) -> Self {
        Self {
            start,
            pages: end - start,
        }
    }

    /// The first page after these. At most 2^52.
    pub(super) const fn end(self) -> u64 {
        self.start + self.pages
    }

    pub(super) const fn range(self) -> VirtRange {
        VirtRange::new(
            VirtAddr::new(self.start * FRAME_SIZE),
            self.pages * FRAME_SIZE,
        )
    }

    pub(super) const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// The largest n for which 2^n pages lie inside, at a multiple of 2^n.
    pub(super) const fn order(self) -> u32 {
        let order = self.pages.ilog2();
        let aligned = self.start.next_multiple_of(1 << order);
        if aligned + (1 << order) <= self.end() {
            order
        } else {
            // Of any 2^n pages, one half at least is such a block, or a block lies across the middle.
            order - 1
        }
    }

    pub(super) fn load(words: &Words) -> Self {
        Self {
            start: words[START].load(Relaxed),
            pages: words[PAGES].load(Relaxed),
        }
    }

    pub(super) fn store(self, words: &Words) {
        words[START].store(self.start, Relaxed);
        words[PAGES].store(self.pages, Relaxed);
    }
}

/// What a tree is sorted by, and where in a node its links are.
pub(super) trait Sorting {
    type Key: Ord + Copy;
    /// The word that links to what is below the node; the next one links to what is above.
    const BELOW: usize;
    fn key(words: &Words) -> Self::Key;
}

/// Sorted by start page.
pub(super) struct ByAddress;

impl Sorting for ByAddress {
    type Key = u64;
    const BELOW: usize = 2;

    #[inline]
    fn key(words: &Words) -> u64 {
        words[START].load(Relaxed)
    }
}

/// Sorted by pages, then start page.
pub(super) struct BySize;

impl Sorting for BySize {
    /// Pages in the upper half, start in the lower: one comparison, without a branch between.
    type Key = u128;
    const BELOW: usize = 4;

    #[inline]
    fn key(words: &Words) -> u128 {
        size_key(words[PAGES].load(Relaxed), words[START].load(Relaxed))
    }
}

/// The key of a range of `pages` pages at `start`, in a tree by size.
#[inline]
pub(super) const fn size_key(pages: u64, start: u64) -> u128 {
    (pages as u128) << 64 | start as u128
}

/// A tree. The nodes belong to the caller, who keeps them all in one slab.
pub(super) struct Tree<S> {
    root: AtomicU64,
    sorting: PhantomData<S>,
}

fn load(link: &AtomicU64) -> Option<NodeId> {
    NodeId::from_word(link.load(Relaxed))
}

fn store(link: &AtomicU64, node: Option<NodeId>) {
    link.store(NodeId::to_word(node), Relaxed);
}

impl<S: Sorting> Tree<S> {
    pub(super) const fn new() -> Self {
        Self {
            root: AtomicU64::new(0),
            sorting: PhantomData,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        load(&self.root).is_none()
    }

    /// The first node whose key is `key` or more.
    pub(super) fn at_or_after<M: PhysMemory, F: FrameSource>(
        &self,
        slab: &Slab<'_, M, F>,
        key: S::Key,
    ) -> Option<NodeId> {
        let mut found = None;
        let mut next = load(&self.root);
        while let Some(node) = next {
            let words = slab.words(node);
            if S::key(words) < key {
                next = load(&words[S::BELOW + 1]);
            } else {
                found = Some(node);
                next = load(&words[S::BELOW]);
            }
        }
        found
    }

    /// The last node whose key is `key` or less, and the first whose key is more.
    pub(super) fn around<M: PhysMemory, F: FrameSource>(
        &self,
        slab: &Slab<'_, M, F>,
        key: S::Key,
    ) -> (Option<NodeId>, Option<NodeId>) {
        let (mut below, mut above) = (None, None);
        let mut next = load(&self.root);
        while let Some(node) = next {
            let words = slab.words(node);
            if S::key(words) <= key {
                below = Some(node);
                next = load(&words[S::BELOW + 1]);
            } else {
                above = Some(node);
                next = load(&words[S::BELOW]);
            }
        }
        (below, above)
    }

    /// The node with the highest key.
    pub(super) fn last<M: PhysMemory, F: FrameSource>(
        &self,
        slab: &Slab<'_, M, F>,
    ) -> Option<NodeId> {
        let mut last = None;
        let mut next = load(&self.root);
        while let Some(node) = next {
            last = next;
            next = load(&slab.words(node)[S::BELOW + 1]);
        }
        last
    }

    /// Adds a node, whose span and priority are written.
    ///
    /// Goes down to the first node of lower priority; the new one takes its place, and what is under it is parted into what
    /// is below the new one and what is above.
    pub(super) fn insert<M: PhysMemory, F: FrameSource>(&self, slab: &Slab<'_, M, F>, new: NodeId) {
        let words = slab.words(new);
        let key = S::key(words);
        let priority = words[PRIORITY].load(Relaxed);
        let mut place = &self.root;
        let mut rest = load(place);
        while let Some(node) = rest {
            let words = slab.words(node);
            if words[PRIORITY].load(Relaxed) < priority {
                break;
            }
            place = &words[S::BELOW + usize::from(S::key(words) < key)];
            rest = load(place);
        }
        store(place, Some(new));
        let (mut below, mut above) = (&words[S::BELOW], &words[S::BELOW + 1]);
        while let Some(node) = rest {
            let words = slab.words(node);
            if S::key(words) < key {
                store(below, rest);
                below = &words[S::BELOW + 1];
                rest = load(below);
            } else {
                store(above, rest);
                above = &words[S::BELOW];
                rest = load(above);
            }
        }
        store(below, None);
        store(above, None);
    }

    /// Takes a node out, whose span is as it was when it was added.
    ///
    /// Goes down to the node by its key; what is below it and what is above are merged in its place, by priority.
    ///
    /// # Panics
    ///
    /// When the node is not in the tree.
    pub(super) fn remove<M: PhysMemory, F: FrameSource>(&self, slab: &Slab<'_, M, F>, old: NodeId) {
        let words = slab.words(old);
        let key = S::key(words);
        let mut place = &self.root;
        loop {
            let node = load(place).expect("the node is in the tree");
            if node == old {
                break;
            }
            let words = slab.words(node);
            place = &words[S::BELOW + usize::from(S::key(words) < key)];
        }
        let (mut below, mut above) = (load(&words[S::BELOW]), load(&words[S::BELOW + 1]));
        while let (Some(left), Some(right)) = (below, above) {
            let (left_words, right_words) = (slab.words(left), slab.words(right));
            if left_words[PRIORITY].load(Relaxed) > right_words[PRIORITY].load(Relaxed) {
                store(place, below);
                place = &left_words[S::BELOW + 1];
                below = load(place);
            } else {
                store(place, above);
                place = &right_words[S::BELOW];
                above = load(place);
            }
        }
        store(place, below.or(above));
    }
}

/// Writes a new node's priority: its id, mixed until each bit depends on all (the finalizer of SplitMix64, Steele and others
/// 2014).
pub(super) fn write_priority(words: &Words, node: NodeId) {
    let mut mixed = NodeId::to_word(Some(node));
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    words[PRIORITY].store(mixed ^ mixed >> 31, Relaxed);
}
