//! Nodes: which RAM is near to which CPUs.

use core::fmt;

use kspace_layout::{FRAME_SIZE, Pfn, PhysAddr, PhysRange};

use super::affinity::{Affinity, Claims, MAX_AFFINITIES, MAX_BLOCKS, NodeRepair};
use super::section::SECTION_BYTES;
use crate::MemoryMap;
use crate::pieces::above;

/// How many nodes there can be: Linux's default on x86-64 (`CONFIG_NODES_SHIFT` 6).
pub const MAX_NODES: usize = 64;

/// The number of a node, below [`MAX_NODES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(u8);

impl NodeId {
    /// The first node, which every machine has.
    pub const ZERO: Self = Self(0);

    /// The node with this number; `None` from [`MAX_NODES`] on.
    #[must_use]
    pub const fn try_new(number: u32) -> Option<Self> {
        if number < MAX_NODES as u32 {
            Some(Self(number as u8))
        } else {
            None
        }
    }

    /// The number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The number, to index with.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        // It is below MAX_NODES already; with this the compiler knows.
        self.0 as usize % MAX_NODES
    }

    /// Every node that there can be.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> + Clone {
        (0..MAX_NODES as u8).map(Self)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A range of RAM that is near to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeBlock {
    pub(super) range: PhysRange,
    pub(super) node: NodeId,
}

impl NodeBlock {
    /// The RAM: whole pages.
    #[must_use]
    pub const fn range(self) -> PhysRange {
        self.range
    }

    /// The node.
    #[must_use]
    pub const fn node(self) -> NodeId {
        self.node
    }

    /// The first frame, and the one after the last, as a number because it may be 2^40.
    #[must_use]
    pub const fn frames(self) -> (Pfn, u64) {
        (self.range.start().pfn(), self.end())
    }

    pub(super) const fn end(self) -> u64 {
        self.range.last().pfn().as_u64() + 1
    }
}

/// All RAM, by node. Linux: the node numbers in memblock.
///
/// # Invariants
///
/// Blocks are sorted, disjoint, of whole pages; no two that touch are of the same node. There is at least one.
#[derive(Clone, Copy)]
pub struct Nodes {
    blocks: [NodeBlock; MAX_BLOCKS],
    len: usize,
}

impl Nodes {
    /// All RAM of `map`, as the affinities divide it. Without any, all is node 0. What had to be changed goes to `report`.
    ///
    /// # Errors
    ///
    /// [`NodeError::TooManyAffinities`], [`NodeError::TooManyRanges`].
    pub fn new(
        map: &MemoryMap,
        affinities: &[Affinity],
        mut report: impl FnMut(NodeRepair),
    ) -> Result<Self, NodeError> {
        let given = affinities.len();
        if given > MAX_AFFINITIES {
            return Err(NodeError::TooManyAffinities { given });
        }
        let has_ram = |range: PhysRange| map.ram().any(|ram| ram.overlaps(range));
        let claims = Claims::read(affinities, has_ram, &mut report)
            .ok_or(NodeError::TooManyAffinities { given })?;
        let mut nodes = Self {
            blocks: [NodeBlock {
                range: PhysRange::new(PhysAddr::ZERO, FRAME_SIZE),
                node: NodeId::ZERO,
            }; MAX_BLOCKS],
            len: 0,
        };
        for ram in map.ram() {
            let mut rest = Some(ram);
            while let Some(part) = rest {
                let (node, range) = claims.first_of(part);
                let node = node.unwrap_or_else(|| {
                    let node = claims.nearest(range.start());
                    if !claims.as_slice().is_empty() {
                        report(NodeRepair::Unclaimed { range, node });
                    }
                    node
                });
                let at = nodes.len;
                nodes.insert(at, NodeBlock { range, node })?;
                rest = above(part, range.last());
            }
        }
        Ok(nodes)
    }

    /// The RAM, in order of address.
    pub fn blocks(
        &self,
    ) -> impl DoubleEndedIterator<Item = NodeBlock> + ExactSizeIterator + Clone + '_ {
        self.blocks[..self.len].iter().copied()
    }

    /// The RAM of one node, in order of address.
    pub fn blocks_of(
        &self,
        node: NodeId,
    ) -> impl DoubleEndedIterator<Item = NodeBlock> + Clone + '_ {
        self.blocks().filter(move |block| block.node == node)
    }

    /// The nodes with RAM, in order of number.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> + Clone + '_ {
        NodeId::all().filter(|node| self.blocks().any(|block| block.node == *node))
    }

    /// The node that RAM at this address is near to; `None` where there is no RAM.
    #[must_use]
    pub fn node_of(&self, address: PhysAddr) -> Option<NodeId> {
        let after = self.blocks[..self.len].partition_point(|block| block.range.start() <= address);
        let block = self.blocks[..self.len].get(after.checked_sub(1)?)?;
        block.range.contains(address).then_some(block.node)
    }

    /// The first frame of a node's RAM, and the one after the last; `None` without RAM.
    pub(super) fn bounds_of(&self, node: NodeId) -> Option<(u64, u64)> {
        let mut blocks = self.blocks_of(node);
        let first = blocks.next()?;
        let last = blocks.next_back().unwrap_or(first);
        Some((first.range.start().pfn().as_u64(), last.end()))
    }

    /// The first frame of RAM.
    pub(super) fn first(&self) -> u64 {
        self.blocks()
            .next()
            .map_or(0, |block| block.range.start().pfn().as_u64())
    }

    /// The number of the frame after the last one of RAM.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.blocks().next_back().map_or(0, NodeBlock::end)
    }

    /// Takes in RAM that was plugged in, near to `node`. It must be whole sections of 128 MiB, because records of frames are
    /// mapped for whole sections then, and no RAM may be known there.
    ///
    /// # Errors
    ///
    /// [`NodeError::NotSections`], [`NodeError::KnownRam`], [`NodeError::TooManyRanges`]; nothing is changed.
    pub fn add(&mut self, node: NodeId, range: PhysRange) -> Result<(), NodeError> {
        if !range.is_aligned(SECTION_BYTES) {
            return Err(NodeError::NotSections { range });
        }
        // The range is whole sections, so RAM that shares a section with it, and with it pages of records, overlaps it.
        if let Some(known) = self.blocks().find(|block| block.range.overlaps(range)) {
            return Err(NodeError::KnownRam {
                range,
                known: known.range,
            });
        }
        let at =
            self.blocks[..self.len].partition_point(|block| block.range.start() < range.start());
        self.insert(at, NodeBlock { range, node })
    }

    /// Inserts a block between others, joining it with neighbours of its node that it touches.
    fn insert(&mut self, at: usize, block: NodeBlock) -> Result<(), NodeError> {
        let joins = |low: NodeBlock, high: NodeBlock| {
            low.node == high.node && low.range.end_u64() == high.range.start().as_u64()
        };
        let below = at
            .checked_sub(1)
            .filter(|&low| joins(self.blocks[low], block));
        let above = (at < self.len)
            .then_some(at)
            .filter(|&high| joins(block, self.blocks[high]));
        match (below, above) {
            (Some(low), Some(high)) => {
                self.grow(low, self.blocks[high].range);
                self.blocks.copy_within(high + 1..self.len, high);
                self.len -= 1;
            }
            (Some(near), None) | (None, Some(near)) => self.grow(near, block.range),
            (None, None) if self.len == MAX_BLOCKS => {
                return Err(NodeError::TooManyRanges { range: block.range });
            }
            (None, None) => {
                self.blocks.copy_within(at..self.len, at + 1);
                self.blocks[at] = block;
                self.len += 1;
            }
        }
        Ok(())
    }

    /// Makes a block reach to the end of `range` as well.
    fn grow(&mut self, at: usize, range: PhysRange) {
        let old = self.blocks[at].range;
        let start = old.start().min(range.start());
        let last = old.last().max(range.last());
        self.blocks[at].range = PhysRange::new(start, last.as_u64() - start.as_u64() + 1);
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.blocks()).finish()
    }
}

/// Why RAM is not divided into nodes, or not taken in. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeError {
    /// More affinities than any machine has.
    TooManyAffinities {
        /// How many.
        given: usize,
    },
    /// RAM and affinities cut each other into too many pieces.
    TooManyRanges {
        /// The RAM that did not fit.
        range: PhysRange,
    },
    /// RAM that is plugged in comes in whole sections.
    NotSections {
        /// The RAM.
        range: PhysRange,
    },
    /// RAM that is plugged in lies where there is some.
    KnownRam {
        /// The new RAM.
        range: PhysRange,
        /// The RAM that is known.
        known: PhysRange,
    },
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooManyAffinities { given } => write!(
                f,
                "nodes: {given} affinities, which claim more than {MAX_AFFINITIES} ranges; go on with none: all is node 0"
            ),
            Self::TooManyRanges { range } => write!(
                f,
                "nodes: {range} makes more than {MAX_BLOCKS} ranges of RAM; nothing was changed"
            ),
            Self::NotSections { range } => write!(
                f,
                "nodes: add {range}: not whole sections of 128 MiB; nothing was changed"
            ),
            Self::KnownRam { range, known } => write!(
                f,
                "nodes: add {range}: there is RAM already at {known}; nothing was changed"
            ),
        }
    }
}

impl core::error::Error for NodeError {}
