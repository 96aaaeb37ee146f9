//! Why memory was not added.

use core::fmt;

use kspace_frames::zone::{NodeError, NodeId, ZoneKind};
use kspace_frames::{AddError, MapError};
use kspace_layout::{LayoutError, PhysRange};
use kspace_paging::{EditError, Obstacle, Run};

use crate::image::ImageError;
use crate::vmemmap;

/// Why memory was not added. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HotAddError {
    /// It is not whole sections, or there is RAM already, or too many ranges.
    Nodes(NodeError),
    /// The memory map says that something else is there.
    Map(MapError),
    /// The layout has no room for it.
    Layout(LayoutError),
    /// The layout has no direct map or no vmemmap, or they do not reach so far.
    NoArea,
    /// The image of the layout cannot be mapped.
    Image(ImageError),
    /// It lies outside what its zone was made for.
    OutsideZone {
        /// The node.
        node: NodeId,
        /// The kind of zone.
        kind: ZoneKind,
        /// The part of the range that would be of this zone.
        part: PhysRange,
        /// What the zone was made for; `None` when there is no such zone.
        possible: Option<PhysRange>,
    },
    /// A part of it is of no zone.
    NoZone {
        /// The range.
        range: PhysRange,
    },
    /// RAM of another zone would become one of a different kind.
    ZoneMoves {
        /// The other zone's node.
        node: NodeId,
        /// Its kind.
        kind: ZoneKind,
        /// The range.
        range: PhysRange,
    },
    /// The zone's allocator does not take it.
    Zone(AddError),
    /// Something is mapped where its direct map belongs.
    Mapped {
        /// The first of it.
        found: Run,
    },
    /// The page tables cannot be read.
    Unreadable(Obstacle),
    /// Its part of vmemmap cannot be backed.
    Vmemmap(vmemmap::BuildError),
    /// Too few frames for page tables.
    OutOfTables {
        /// How many are needed at most.
        needed: u64,
        /// How many there were.
        had: u64,
    },
    /// The memory that page tables are edited through does not reach the range.
    Unreachable {
        /// The range.
        range: PhysRange,
    },
    /// The tables changed under the edit.
    Edit(EditError),
}

impl fmt::Display for HotAddError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hot add: ")?;
        match *self {
            Self::Nodes(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::Layout(error) => write!(f, "{error}; nothing was changed"),
            Self::NoArea => f.write_str(
                "the layout has no direct map or vmemmap that reaches so far; plug in lower; nothing was changed",
            ),
            Self::Image(error) => write!(f, "{error}; nothing was changed"),
            Self::OutsideZone {
                node,
                kind,
                part,
                possible: Some(possible),
            } => write!(
                f,
                "{part} is outside what node {node} zone {kind} was made for, {possible}; plug in there, or have the firmware \
                 name it as hot-pluggable (SRAT) and boot again; nothing was changed"
            ),
            Self::OutsideZone {
                node,
                kind,
                part,
                possible: None,
            } => write!(
                f,
                "{part} would be of node {node} zone {kind}, which there is not; have the firmware name it as hot-pluggable \
                 (SRAT) and boot again; nothing was changed"
            ),
            Self::NoZone { range } => write!(
                f,
                "a part of {range} is of no zone; nothing was changed"
            ),
            Self::ZoneMoves { node, kind, range } => write!(
                f,
                "with {range}, RAM of node {node} zone {kind} would be of another kind; plug in lower; nothing was changed"
            ),
            Self::Zone(error) => error.fmt(f),
            Self::Mapped { found } => write!(
                f,
                "{found} is mapped already where its direct map belongs; unmap it first; nothing was changed"
            ),
            Self::Unreadable(obstacle) => write!(f, "{obstacle}; nothing was changed"),
            Self::Vmemmap(error) => error.fmt(f),
            Self::OutOfTables { needed, had } => write!(
                f,
                "up to {needed} page tables are needed, and there are frames for {had}; free some memory; nothing was changed"
            ),
            Self::Unreachable { range } => write!(
                f,
                "page tables in {range} could not be reached; nothing was changed"
            ),
            Self::Edit(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for HotAddError {}
