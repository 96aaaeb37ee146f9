//! Why a request is refused, and why zones cannot be put together.

use core::fmt;

use kspace_layout::{ByteSize, PhysAddr};

use super::{NodeId, ZoneKind, ZoneLimits};
use crate::{MemoryMap, Order};

/// Why a request got nothing. Nothing was changed, but that memory may have been reclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneError {
    pub(super) problem: ZoneProblem,
    pub(super) order: u32,
    pub(super) node: NodeId,
    pub(super) kind: ZoneKind,
    pub(super) state: Option<ZoneState>,
}

/// What was wrong with a request, or with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneProblem {
    /// Larger than order 10.
    OrderTooLarge,
    /// No pages were asked for.
    ZeroPages,
    /// The machine has no such kind of zone.
    NoSuchZone {
        /// The kinds that it has.
        kinds: &'static [ZoneKind],
    },
    /// Neither the zone nor any that may stand in for it has memory.
    NoMemory,
    /// All memory of these zones lies above the limit, or what lies below it is less than such a block.
    LimitBelowRam {
        /// The last byte that would do.
        last: PhysAddr,
        /// The first byte of RAM.
        first: PhysAddr,
    },
    /// Too little is free.
    Exhausted,
    /// Too little is free even for who may not wait, or is urgent otherwise.
    ReserveExhausted,
    /// Enough is free, but not in one block of that order, or not below the limit.
    Fragmented,
}

/// A zone as a request found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneState {
    /// Frames that were free.
    pub free: u64,
    /// Frames that CPUs kept for themselves, which only they can give: about.
    pub cached: u64,
    /// The mark that was to hold.
    pub mark: Mark,
    /// How many frames had to stay free: the mark and the protection.
    pub kept: u64,
}

/// A mark, or the part of it that holds for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The low mark.
    Low,
    /// The min mark.
    Min,
    /// Half of min.
    HalfMin,
    /// Three eighths of min.
    AtomicMin,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low mark",
            Self::Min => "min mark",
            Self::HalfMin => "half of the min mark",
            Self::AtomicMin => "three eighths of the min mark",
        })
    }
}

impl ZoneError {
    /// What was wrong.
    #[must_use]
    pub const fn problem(&self) -> ZoneProblem {
        self.problem
    }

    /// The order that was asked for.
    #[must_use]
    pub const fn order(&self) -> u32 {
        self.order
    }

    /// The node and the kind of zone that the error is about: where the request went first.
    #[must_use]
    pub const fn zone(&self) -> (NodeId, ZoneKind) {
        (self.node, self.kind)
    }

    /// How that zone was found; `None` when there is none.
    #[must_use]
    pub const fn state(&self) -> Option<ZoneState> {
        self.state
    }

    fn problem_text(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problem {
            ZoneProblem::OrderTooLarge => write!(
                f,
                "the largest block is {}; ask for less, or for a contiguous range",
                Order::MAX
            ),
            ZoneProblem::ZeroPages => f.write_str("no pages were asked for; ask for at least one"),
            ZoneProblem::NoSuchZone { kinds } => {
                f.write_str("this machine has no such zone; it has ")?;
                for (index, kind) in kinds.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{kind}")?;
                }
                Ok(())
            }
            ZoneProblem::NoMemory => {
                f.write_str("no memory there, nor in any zone that may stand in; allow more zones")
            }
            ZoneProblem::LimitBelowRam { last, first } => write!(
                f,
                "no such block lies below the limit {last}: memory of the zone begins at {first}; raise it"
            ),
            ZoneProblem::Exhausted => f.write_str("out of memory; free some"),
            ZoneProblem::ReserveExhausted => {
                f.write_str("the reserve for urgent requests is used up; wait, or free some")
            }
            ZoneProblem::Fragmented => {
                f.write_str("no free block within its limits is large enough; ask for smaller ones")
            }
        }
    }
}

impl fmt::Display for ZoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            order, node, kind, ..
        } = self;
        write!(f, "allocate order {order} from node {node}, zone {kind}: ")?;
        self.problem_text(f)?;
        let Some(state) = self.state else {
            return Ok(());
        };
        write!(
            f,
            "; {} pages are free, {} must stay free ({})",
            state.free, state.kept, state.mark
        )?;
        if state.cached > 0 {
            write!(f, ", CPUs keep {} more for themselves", state.cached)?;
        }
        Ok(())
    }
}

impl core::error::Error for ZoneError {}

/// Why zones cannot be put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZonesError {
    /// There are none.
    None,
    /// More than 255.
    TooMany {
        /// How many.
        given: usize,
    },
    /// Two of the same node and kind.
    Twice {
        /// The node.
        node: NodeId,
        /// The kind.
        kind: ZoneKind,
    },
    /// A kind that the machine does not have.
    NoSuchKind {
        /// The node.
        node: NodeId,
        /// The kind.
        kind: ZoneKind,
    },
}

impl fmt::Display for ZonesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::None => f.write_str("zones: there are none; memory is of no use without"),
            Self::TooMany { given } => {
                write!(
                    f,
                    "zones: {given} are given, at most 255 can be; join nodes"
                )
            }
            Self::Twice { node, kind } => {
                write!(
                    f,
                    "zones: node {node} has two zones {kind}; give each zone once"
                )
            }
            Self::NoSuchKind { node, kind } => write!(
                f,
                "zones: node {node} has a zone {kind}, but this machine has no such kind; use its own limits"
            ),
        }
    }
}

impl core::error::Error for ZonesError {}

/// Memory that is smaller than what its own books need: there is no use in going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotEnoughRam {
    needed: u64,
    free: u64,
}

impl NotEnoughRam {
    /// Whether the free RAM of `map` has room for `needed` bytes.
    ///
    /// # Errors
    ///
    /// The error itself, with both sizes.
    pub fn check(map: &MemoryMap, needed: u64) -> Result<(), Self> {
        Self::check_free(map.free_from_top().map(|range| range.size()).sum(), needed)
    }

    /// Whether `free` bytes of RAM have room for `needed`.
    ///
    /// # Errors
    ///
    /// The error itself.
    pub const fn check_free(free: u64, needed: u64) -> Result<(), Self> {
        if needed < free {
            Ok(())
        } else {
            Err(Self { needed, free })
        }
    }
}

impl fmt::Display for NotEnoughRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "frames: the allocator needs {} for itself, and RAM has {} free; give the machine more memory",
            ByteSize(self.needed),
            ByteSize(self.free)
        )
    }
}

impl core::error::Error for NotEnoughRam {}

/// The kinds of zone of a machine, as an error names them.
pub(super) fn no_such_zone(limits: &ZoneLimits) -> ZoneProblem {
    ZoneProblem::NoSuchZone {
        kinds: limits.kinds(),
    }
}
