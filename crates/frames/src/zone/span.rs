//! The zones of each node: how many frames each spans, has, and manages.
//!
//! ```text
//!   node      [#####]   [##################]      RAM
//!   zone  |      DMA      |      DMA32     |
//!   spanned  |------------|----------------|      from the node's first to its last frame, holes and all
//!   present  |###|   |####|################|      frames of RAM
//!   managed    ##     ###  ################       those that nobody had taken before the allocator
//! ```
//!
//! Counted as Linux does (`calculate_node_totalpages`, mm/mm_init.c).

use kspace_layout::{FRAME_SIZE, Pfn, PhysRange};

use super::{NodeId, Nodes, ZoneKind, ZoneLimits};
use crate::MemoryMap;

/// The frames of one zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneSpan {
    pub(super) node: NodeId,
    pub(super) kind: ZoneKind,
    pub(super) start: u64,
    pub(super) spanned: u64,
    pub(super) present: u64,
}

impl ZoneSpan {
    /// A zone without frames.
    #[must_use]
    pub const fn empty(node: NodeId, kind: ZoneKind) -> Self {
        Self {
            node,
            kind,
            start: 0,
            spanned: 0,
            present: 0,
        }
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The kind of zone.
    #[must_use]
    pub const fn kind(&self) -> ZoneKind {
        self.kind
    }

    /// The first frame; 0 when it spans none.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// The number of the frame after the last.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start + self.spanned
    }

    /// Frames from the first to the last, holes included.
    #[must_use]
    pub const fn spanned(&self) -> u64 {
        self.spanned
    }

    /// Frames of RAM.
    #[must_use]
    pub const fn present(&self) -> u64 {
        self.present
    }

    /// Whether it has RAM.
    #[must_use]
    pub const fn is_populated(&self) -> bool {
        self.present > 0
    }

    /// Its addresses; `None` when it spans no frame.
    #[must_use]
    pub fn range(&self) -> Option<PhysRange> {
        let start = Pfn::try_new(self.start).ok()?.start();
        PhysRange::try_new(start, self.spanned.checked_mul(FRAME_SIZE)?).ok()
    }

    /// Frames that records of `record_bytes` for each frame take, as Linux counts them: for the whole span, unless more than
    /// a sixteenth of it is holes (`calc_memmap_size`).
    #[must_use]
    pub const fn record_frames(&self, record_bytes: u64) -> u64 {
        let sparse = self.spanned > self.present + (self.present >> 4);
        let frames = if sparse { self.present } else { self.spanned };
        (frames * record_bytes).div_ceil(FRAME_SIZE)
    }
}

impl Nodes {
    /// The zone of a node and kind; without frames when the node has no memory there.
    #[must_use]
    pub fn zone(&self, limits: &ZoneLimits, node: NodeId, kind: ZoneKind) -> ZoneSpan {
        let bounds = self
            .bounds_of(node)
            .and_then(|bounds| self.zone_bounds(limits, node, kind, bounds));
        let (start, end) = bounds.filter(|(start, end)| start < end).unwrap_or((0, 0));
        let inside = self.blocks_of(node).map(|block| {
            let first = block.range.start().pfn().as_u64().max(start);
            block.end().min(end).saturating_sub(first)
        });
        ZoneSpan {
            node,
            kind,
            start,
            spanned: end - start,
            present: inside.sum(),
        }
    }

    /// The frames of a kind between the bounds of a node's memory: the first and the one after the last, which may lie below it.
    pub(super) fn zone_bounds(
        &self,
        limits: &ZoneLimits,
        node: NodeId,
        kind: ZoneKind,
        (node_start, node_end): (u64, u64),
    ) -> Option<(u64, u64)> {
        let movable = limits
            .movable_start(node, self.end())
            .filter(|first| *first < node_end);
        let (low, high) = match kind {
            ZoneKind::Movable => (movable?, u64::MAX),
            _ => {
                let (low, high) = limits.bounds(kind)?;
                (low, high.min(movable.unwrap_or(u64::MAX)))
            }
        };
        Some((node_start.max(low), node_end.min(high)))
    }

    /// The node and kind of the zone that has a frame; `None` where there is no RAM. Zones of different nodes may span the same
    /// frames, but only one has each.
    #[must_use]
    pub fn zone_of(&self, limits: &ZoneLimits, frame: Pfn) -> Option<(NodeId, ZoneKind)> {
        let node = self.node_of(frame.start())?;
        let has = |kind: &ZoneKind| {
            let zone = self.zone(limits, node, *kind);
            (zone.start..zone.end()).contains(&frame.as_u64())
        };
        Some((node, limits.kinds().iter().copied().find(has)?))
    }

    /// The zones of all nodes that have RAM, in order of node and kind; those without frames, too.
    pub fn zones<'a>(
        &'a self,
        limits: &'a ZoneLimits,
    ) -> impl Iterator<Item = ZoneSpan> + Clone + 'a {
        self.nodes().flat_map(move |node| {
            let kinds = limits.kinds().iter();
            kinds.map(move |kind| self.zone(limits, node, *kind))
        })
    }

    /// The RAM of a zone that nobody has reserved in `map`, from the highest address down: what its allocator is to manage.
    pub fn free_of<'a>(
        &'a self,
        span: ZoneSpan,
        map: &'a MemoryMap,
    ) -> impl Iterator<Item = PhysRange> + Clone + 'a {
        map.free_from_top().flat_map(move |free| {
            let in_zone = span.range().and_then(|range| range.intersection(free));
            self.blocks_of(span.node)
                .rev()
                .filter_map(move |block| block.range.intersection(in_zone?))
        })
    }

    /// How many frames of a zone nobody has reserved in `map`.
    #[must_use]
    pub fn managed(&self, span: ZoneSpan, map: &MemoryMap) -> u64 {
        self.free_of(span, map)
            .map(|free| free.size() / FRAME_SIZE)
            .sum()
    }
}
