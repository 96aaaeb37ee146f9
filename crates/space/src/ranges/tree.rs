//! A balanced search tree over nodes of the slab: a treap.
//!
//! A node is above another when its priority, a number that looks random, is higher. The tree is therefore the one that
//! inserting the nodes in random order would have made: about 2 ln n nodes deep, without a word on balance in the code. A node's
//! priority is its id, mixed; so every run is alike.
//!
//! ```text
//!   word    0      1        2      3      4         5      6      7
//!           start  pages    below  above  parent    below  above  parent
//!                           in the tree by address  in a tree by size
//! ```
//!
//! Nodes that are only in a tree by address have words 5 to 7 for their user.
//!
//! To find a place takes a way down. To take a node out, or to put one in whose neighbours are known, takes no search, and about two
//! rotations.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kspace_layout::{FRAME_SIZE, VirtAddr, VirtRange};
use kspace_paging::{FrameSource, PhysMemory};

use crate::words::{NodeId, Slab, Words};

const START: usize = 0;
const PAGES: usize = 1;

/// The number of the page that `address` lies in.
pub(crate) const fn page(address: VirtAddr) -> u64 {
    address.as_u64() / FRAME_SIZE
}

/// A range of pages, by number. Never empty, and inside one half of the address space, as the range that it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) pages: u64,
}

impl Span {
    /// The pages of `range`; `None` when one of them is cut.
    pub(crate) const fn of(range: VirtRange) -> Option<Self> {
        if !range.is_aligned(FRAME_SIZE) {
            return None;
        }
        Some(Self {
            start: page(range.start()),
            pages: range.size() / FRAME_SIZE,
        })
    }

    /// The pages from `start` up to `end`, which is not part of them.
    pub(crate) const fn between(start: u64, end: u64) -> Self {
        Self {
            start,
            pages: end - start,
        }
    }

    /// The first page after these. At most 2^52.
    pub(crate) const fn end(self) -> u64 {
        self.start + self.pages
    }

    pub(crate) const fn range(self) -> VirtRange {
        VirtRange::new(
            VirtAddr::new(self.start * FRAME_SIZE),
            self.pages * FRAME_SIZE,
        )
    }

    pub(crate) const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// The largest n for which 2^n pages lie inside, at a multiple of 2^n.
    pub(crate) const fn order(self) -> u32 {
        let order = self.pages.ilog2();
        let aligned = self.start.next_multiple_of(1 << order);
        if aligned + (1 << order) <= self.end() {
            order
        } else {
            // Of any 2^n pages, one half at least is such a block, or a block lies across the middle.
            order - 1
        }
    }

    pub(crate) fn load(words: &Words) -> Self {
        Self {
            start: words[START].load(Relaxed),
            pages: words[PAGES].load(Relaxed),
        }
    }

    pub(crate) fn store(self, words: &Words) {
        words[START].store(self.start, Relaxed);
        words[PAGES].store(self.pages, Relaxed);
    }
}

/// What a tree is sorted by, and where in a node its links are.
pub(crate) trait Sorting {
    type Key: Ord + Copy;
    /// The word that links to what is below the node; the next two link to what is above, and to the parent.
    const BELOW: usize;
    const ABOVE: usize = Self::BELOW + 1;
    const PARENT: usize = Self::BELOW + 2;
    fn key(words: &Words) -> Self::Key;
}

/// Sorted by start page.
pub(crate) struct ByAddress;

impl Sorting for ByAddress {
    type Key = u64;
    const BELOW: usize = 2;

    #[inline]
    fn key(words: &Words) -> u64 {
        words[START].load(Relaxed)
    }
}

/// Sorted by pages, then start page.
pub(crate) struct BySize;

impl Sorting for BySize {
    /// Pages in the upper half, start in the lower: one comparison, without a branch between.
    type Key = u128;
    const BELOW: usize = 5;

    #[inline]
    fn key(words: &Words) -> u128 {
        size_key(words[PAGES].load(Relaxed), words[START].load(Relaxed))
    }
}

/// The key of a range of `pages` pages at `start`, in a tree by size.
#[inline]
pub(crate) const fn size_key(pages: u64, start: u64) -> u128 {
    (pages as u128) << 64 | start as u128
}

/// A tree. The nodes belong to the caller, who keeps them all in one slab.
pub(crate) struct Tree<S> {
    root: AtomicU64,
    sorting: PhantomData<S>,
}

/// Where a node can be added: under `parent` (as the root when there is none), below or above it.
#[derive(Clone, Copy)]
pub(crate) struct Gap {
    parent: Option<NodeId>,
    above: bool,
}

impl Gap {
    /// That of an empty tree.
    pub(crate) const ROOT: Self = Self {
        parent: None,
        above: false,
    };
}

impl<S: Sorting> Tree<S> {
    pub(crate) const fn new() -> Self {
        Self {
            root: AtomicU64::new(0),
            sorting: PhantomData,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        load(&self.root).is_none()
    }

    /// Whether a node of a tree is its only one.
    pub(super) fn is_alone(words: &Words) -> bool {
        let link = |index: usize| words[index].load(Relaxed);
        link(S::BELOW) | link(S::ABOVE) | link(S::PARENT) == 0
    }

    /// The first node whose key is `key` or more.
    pub(crate) fn at_or_after<M: PhysMemory, F: FrameSource>(
        &self,
        slab: &Slab<'_, M, F>,
        key: S::Key,
    ) -> Option<NodeId> {
        let mut found = None;
        let mut next = load(&self.root);
        while let Some(node) = next {
            let words = slab.words(node);
            if S::key(words) < key {
                next = load(&words[S::ABOVE]);
            } else {
                found = next;
                next = load(&words[S::BELOW]);
            }
        }
        found
    }

    /// The last node whose key is `key` or less, the first whose key is more, and the gap between them.
    pub(crate) fn around<M: PhysMemory, F: FrameSource>(
        &self,
        slab: &Slab<'_, M, F>,
        key: S::Key,
    ) -> (Option<NodeId>, Option<NodeId>, Gap) {
        let (mut below, mut above) = (None, None);
        let mut gap = Gap::ROOT;
        let mut next = load(&self.root);
        while let Some(node) = next {
            let words = slab.words(node);
            gap.parent = next;
            gap.above = S::key(words) <= key;
            if gap.above {
                below = next;
                next = load(&words[S::ABOVE]);
            } else {
                above = next;
                next = load(&words[S::BELOW]);
            }
        }
        (below, above, gap)
    }

    /// The node with the highest key.
    pub(crate) fn last<M: PhysMemory, F: FrameSource>(
        &self,
        slab: &Slab<'_, M, F>,
    ) -> Option<NodeId> {
        let mut last = None;
        let mut next = load(&self.root);
        while let Some(node) = next {
            last = next;
            next = load(&slab.words(node)[S::ABOVE]);
        }
        last
    }

    /// The node with the next higher key.
    pub(crate) fn next<M: PhysMemory, F: FrameSource>(
        slab: &Slab<'_, M, F>,
        node: NodeId,
    ) -> Option<NodeId> {
        let mut words = slab.words(node);
        if let Some(mut least) = load(&words[S::ABOVE]) {
            while let Some(below) = load(&slab.words(least)[S::BELOW]) {
                least = below;
            }
            return Some(least);
        }
        let mut child = node;
        loop {
            let parent = load(&words[S::PARENT])?;
            words = slab.words(parent);
            if load(&words[S::BELOW]) == Some(child) {
                return Some(parent);
            }
            child = parent;
        }
    }

    /// Adds a node, whose span is written.
    pub(crate) fn insert<M: PhysMemory, F: FrameSource>(&self, slab: &Slab<'_, M, F>, new: NodeId) {
        let key = S::key(slab.words(new));
        let mut gap = Gap::ROOT;
        let mut next = load(&self.root);
        while let Some(node) = next {
            let words = slab.words(node);
            gap.parent = next;
            gap.above = S::key(words) < key;
            next = load(&words[S::BELOW + usize::from(gap.above)]);
        }
        self.insert_at(slab, new, gap);
    }

    /// Adds a node in the gap that is its place: as a leaf, which then rises above all parents of lower priority.
    pub(crate) fn insert_at<M: PhysMemory, F: FrameSource>(
        &self,
        slab: &Slab<'_, M, F>,
        new: NodeId,
        gap: Gap,
    ) {
        let words = slab.words(new);
        store(&words[S::BELOW], None);
        store(&words[S::ABOVE], None);
        store(&words[S::PARENT], gap.parent);
        let Some(mut parent) = gap.parent else {
            store(&self.root, Some(new));
            return;
        };
        store(
            &slab.words(parent)[S::BELOW + usize::from(gap.above)],
            Some(new),
        );
        let own = priority(new);
        while own > priority(parent) {
            self.rise(slab, new, parent);
            let Some(next) = load(&words[S::PARENT]) else {
                return;
            };
            parent = next;
        }
    }

    /// Turns a node and its parent, so that it becomes the parent.
    fn rise<M: PhysMemory, F: FrameSource>(
        &self,
        slab: &Slab<'_, M, F>,
        node: NodeId,
        parent: NodeId,
    ) {
        let (words, parent_words) = (slab.words(node), slab.words(parent));
        let place = self.place_of(slab, parent, parent_words);
        // What lies between the two changes sides.
        let (toward, away) = if load(&parent_words[S::BELOW]) == Some(node) {
            (S::BELOW, S::ABOVE)
        } else {
            (S::ABOVE, S::BELOW)
        };
        let between = load(&words[away]);
        store(&parent_words[toward], between);
        if let Some(between) = between {
            store(&slab.words(between)[S::PARENT], Some(parent));
        }
        store(place, Some(node));
        store(&words[S::PARENT], load(&parent_words[S::PARENT]));
        store(&words[away], Some(parent));
        store(&parent_words[S::PARENT], Some(node));
    }

    /// Takes a node out: what is below it and what is above are merged in its place, by priority.
    pub(crate) fn remove<M: PhysMemory, F: FrameSource>(&self, slab: &Slab<'_, M, F>, old: NodeId) {
        let words = slab.words(old);
        let mut place = self.place_of(slab, old, words);
        let mut parent = load(&words[S::PARENT]);
        let (mut below, mut above) = (load(&words[S::BELOW]), load(&words[S::ABOVE]));
        while let (Some(left), Some(right)) = (below, above) {
            let left_rises = priority(left) > priority(right);
            let risen = if left_rises { left } else { right };
            let words = slab.words(risen);
            store(place, Some(risen));
            store(&words[S::PARENT], parent);
            parent = Some(risen);
            if left_rises {
                place = &words[S::ABOVE];
                below = load(place);
            } else {
                place = &words[S::BELOW];
                above = load(place);
            }
        }
        let rest = below.or(above);
        store(place, rest);
        if let Some(rest) = rest {
            store(&slab.words(rest)[S::PARENT], parent);
        }
    }

    /// The link that leads to a node.
    fn place_of<'s, M: PhysMemory, F: FrameSource>(
        &'s self,
        slab: &Slab<'s, M, F>,
        node: NodeId,
        words: &Words,
    ) -> &'s AtomicU64 {
        let Some(parent) = load(&words[S::PARENT]) else {
            return &self.root;
        };
        let words = slab.words(parent);
        let below = load(&words[S::BELOW]) == Some(node);
        &words[if below { S::BELOW } else { S::ABOVE }]
    }
}

#[inline]
fn load(link: &AtomicU64) -> Option<NodeId> {
    NodeId::from_word(link.load(Relaxed))
}

#[inline]
fn store(link: &AtomicU64, node: Option<NodeId>) {
    link.store(NodeId::to_word(node), Relaxed);
}

/// A node's id, mixed until each bit depends on all (the finalizer of SplitMix64, Steele and others 2014).
fn priority(node: NodeId) -> u64 {
    let mut mixed = NodeId::to_word(Some(node));
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests;
