//! Which node each address is near to: what the firmware says, and what is made of it.
//!
//! ```text
//!   affinities   0 [---------)  1 [-----------)  1 [----)   0 [--)  beyond RAM
//!                         overlap: the one listed first holds
//!   RAM            [#######]  [############]   [#########]
//!   blocks         [0.....]  [0|1...........]   [1...|1..]   what no affinity claims goes to the node below it
//! ```
//!
//! The list is hostile input: it is repaired, and each repair is reported. Linux throws a whole list with one conflict away
//! and goes on with a single node; so would a machine lose all its placement for one wrong entry.

use core::fmt;

use kspace_layout::{PhysAddr, PhysRange};

use super::{MAX_NODES, NodeId};
use crate::MAX_ENTRIES;
use crate::pieces::{above, below};

/// How many affinities are read at most: twice the number of nodes, as in Linux (`NR_NODE_MEMBLKS`,
/// arch/x86/include/asm/numa.h).
pub const MAX_AFFINITIES: usize = 2 * MAX_NODES;

/// How many separate ranges of RAM the nodes can have.
pub const MAX_BLOCKS: usize = MAX_ENTRIES + MAX_AFFINITIES;

/// Memory that the firmware says is near to one node (ACPI 6.5, section 5.2.16.2, Memory Affinity Structure). Only a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// The node's number. The firmware's proximity domains may have any numbers; who reads them counts them through.
    pub node: u32,
    /// The addresses.
    pub range: PhysRange,
    /// Whether memory can be plugged in and out there. Then there need not be any yet.
    pub hot_pluggable: bool,
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, last) = (self.range.start(), self.range.last());
        write!(f, "node {} [mem {start:#018x}-{last:#018x}]", self.node)?;
        f.write_str(if self.hot_pluggable { " hotplug" } else { "" })
    }
}

/// One thing about the affinities that was wrong, and what was done about it. `index` counts them from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRepair {
    /// A node number that is too large; ignored.
    NodeTooLarge {
        /// Which affinity.
        index: usize,
        /// The affinity.
        affinity: Affinity,
    },
    /// It starts below the one before it; sorted.
    OutOfOrder {
        /// Which affinity.
        index: usize,
        /// The affinity.
        affinity: Affinity,
    },
    /// An earlier one claims the same addresses; that one holds.
    Overlap {
        /// Which affinity came second.
        index: usize,
        /// The addresses that both claim.
        range: PhysRange,
        /// The node that has them.
        node: NodeId,
        /// The node that the second one says.
        claimed: u32,
    },
    /// Not whole pages; cut to whole pages.
    Trimmed {
        /// Which affinity.
        index: usize,
        /// The affinity.
        affinity: Affinity,
        /// The whole pages in it, if there are any.
        kept: Option<PhysRange>,
    },
    /// No RAM there, and none can be plugged in; ignored.
    NoRam {
        /// Which affinity.
        index: usize,
        /// The affinity.
        affinity: Affinity,
    },
    /// RAM that no affinity claims; given to the nearest node below it, or else above it.
    Unclaimed {
        /// The RAM.
        range: PhysRange,
        /// The node that got it.
        node: NodeId,
    },
}

impl fmt::Display for NodeRepair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NodeTooLarge { index, affinity } => write!(
                f,
                "nodes: affinity {index} {affinity}: the highest node is {}; ignored",
                MAX_NODES - 1
            ),
            Self::OutOfOrder { index, affinity } => write!(
                f,
                "nodes: affinity {index} {affinity}: starts below the one before it; sorted"
            ),
            Self::Overlap {
                index,
                range,
                node,
                claimed,
            } => write!(
                f,
                "nodes: affinity {index} says {range} is near node {claimed}, an earlier one node {node}; taken as node {node}"
            ),
            Self::Trimmed {
                index,
                affinity,
                kept: Some(kept),
            } => write!(
                f,
                "nodes: affinity {index} {affinity}: not whole pages; {kept} kept"
            ),
            Self::Trimmed {
                index,
                affinity,
                kept: None,
            } => write!(
                f,
                "nodes: affinity {index} {affinity}: holds no whole page; ignored"
            ),
            Self::NoRam { index, affinity } => {
                write!(
                    f,
                    "nodes: affinity {index} {affinity}: no RAM there; ignored"
                )
            }
            Self::Unclaimed { range, node } => write!(
                f,
                "nodes: RAM at {range} is near no node by the firmware; taken as node {node}"
            ),
        }
    }
}

/// The affinities, sorted and disjoint.
pub(super) struct Claims {
    slots: [Claim; MAX_AFFINITIES],
    len: usize,
}

#[derive(Clone, Copy)]
pub(super) struct Claim {
    pub(super) range: PhysRange,
    pub(super) node: NodeId,
}

impl Claims {
    /// Reads the list. `None` when the claims, cut to what is new in each, are too many.
    pub(super) fn read(
        affinities: &[Affinity],
        has_ram: impl Fn(PhysRange) -> bool,
        report: &mut impl FnMut(NodeRepair),
    ) -> Option<Self> {
        let unused = Claim {
            range: PhysRange::new(PhysAddr::ZERO, 1),
            node: NodeId::ZERO,
        };
        let mut claims = Self {
            slots: [unused; MAX_AFFINITIES],
            len: 0,
        };
        let mut previous = PhysAddr::ZERO;
        for (index, &affinity) in affinities.iter().enumerate() {
            if affinity.range.start() < previous {
                report(NodeRepair::OutOfOrder { index, affinity });
            }
            previous = affinity.range.start();
            if let Some(claim) = check(index, affinity, &has_ram, report) {
                claims.add(index, claim, report)?;
            }
        }
        Some(claims)
    }

    pub(super) fn as_slice(&self) -> &[Claim] {
        &self.slots[..self.len]
    }

    /// Adds what of `claim` nobody has claimed yet.
    fn add(
        &mut self,
        index: usize,
        claim: Claim,
        report: &mut impl FnMut(NodeRepair),
    ) -> Option<()> {
        let mut rest = Some(claim.range);
        let mut at = 0;
        while let Some(range) = rest {
            let Some(old) = self.as_slice().get(at).copied() else {
                return self.insert(at, Claim { range, ..claim });
            };
            if let Some(range) = below(range, old.range.start()) {
                self.insert(at, Claim { range, ..claim })?;
                at += 1;
            }
            if let Some(both) = range.intersection(old.range) {
                report(NodeRepair::Overlap {
                    index,
                    range: both,
                    node: old.node,
                    claimed: claim.node.get().into(),
                });
            }
            rest = above(range, old.range.last());
            at += 1;
        }
        Some(())
    }

    fn insert(&mut self, at: usize, claim: Claim) -> Option<()> {
        if self.len == MAX_AFFINITIES {
            return None;
        }
        self.slots.copy_within(at..self.len, at + 1);
        self.slots[at] = claim;
        self.len += 1;
        Some(())
    }

    /// The claim on the lowest address of `range`: its node, and how far up it holds.
    pub(super) fn first_of(&self, range: PhysRange) -> (Option<NodeId>, PhysRange) {
        let at = self
            .as_slice()
            .partition_point(|claim| claim.range.last() < range.start());
        match self.as_slice().get(at) {
            Some(claim) if claim.range.contains(range.start()) => {
                let both = claim.range.intersection(range).unwrap_or(range);
                (Some(claim.node), both)
            }
            Some(claim) => (None, below(range, claim.range.start()).unwrap_or(range)),
            None => (None, range),
        }
    }

    /// The node of the nearest claim below `address`, else above it; node 0 when there are no claims.
    pub(super) fn nearest(&self, address: PhysAddr) -> NodeId {
        let claims = self.as_slice();
        let at = claims.partition_point(|claim| claim.range.start() <= address);
        let near = at
            .checked_sub(1)
            .map_or(claims.first(), |below| claims.get(below));
        near.map_or(NodeId::ZERO, |claim| claim.node)
    }
}

/// What one affinity really claims; `None` when nothing.
fn check(
    index: usize,
    affinity: Affinity,
    has_ram: &impl Fn(PhysRange) -> bool,
    report: &mut impl FnMut(NodeRepair),
) -> Option<Claim> {
    let Some(node) = NodeId::try_new(affinity.node) else {
        report(NodeRepair::NodeTooLarge { index, affinity });
        return None;
    };
    let kept = affinity.range.whole_pages();
    if kept != Some(affinity.range) {
        report(NodeRepair::Trimmed {
            index,
            affinity,
            kept,
        });
    }
    let range = kept?;
    if !has_ram(range) {
        if !affinity.hot_pluggable {
            report(NodeRepair::NoRam { index, affinity });
        }
        return None;
    }
    Some(Claim { range, node })
}
