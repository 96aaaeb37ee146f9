//! What a zone may span one day: its RAM, and the ranges in which the firmware says that memory can be plugged in.
//!
//! ```text
//!   RAM          [##########]        [####]
//!   affinities   [----------]        [----][ - - - - - - - -)   no RAM yet: may be plugged in
//!   zone             DMA32   |           Normal             |   possible
//!   allocator    .......................................... |   made for all of it: its books can be backed later
//! ```
//!
//! An allocator cannot grow beyond the span that it was made for; so it is made for all that there may be.

use kspace_layout::{Pfn, PhysRange};

use super::{Affinity, MAX_AFFINITIES, NodeId, Nodes, ZoneKind, ZoneLimits};

/// How much memory may be plugged in, as a multiple of the RAM at boot: the books of a span cost 8 bytes for each 64 MiB of it,
/// RAM or not, and must not take more than 1/256 of the RAM because firmware has large words.
const MAX_GROWTH: u64 = 1 << 15;

/// The frames that a zone has, or may have when memory is plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PossibleZone {
    node: NodeId,
    kind: ZoneKind,
    start: u64,
    frames: usize,
}

impl PossibleZone {
    pub(super) const NONE: Self = Self {
        node: NodeId::ZERO,
        kind: ZoneKind::Dma,
        start: 0,
        frames: 0,
    };

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

    /// The first frame.
    #[must_use]
    pub const fn start(&self) -> Pfn {
        // The end was a frame number when this was made.
        Pfn::new(self.start)
    }

    /// How many frames there are from the first to the last.
    #[must_use]
    pub const fn frames(&self) -> usize {
        self.frames
    }

    /// The number of the frame after the last.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start + self.frames as u64
    }

    /// Its addresses.
    #[must_use]
    pub const fn range(&self) -> PhysRange {
        PhysRange::new(
            self.start().start(),
            self.frames as u64 * kspace_layout::FRAME_SIZE,
        )
    }
}

impl Nodes {
    /// The zones that there are, and those that there will be when memory is plugged in where `affinities` say that it can be; up
    /// to `last`, the last frame that the direct map can hold. In order of node and kind.
    pub fn possible_zones<'a>(
        &'a self,
        limits: &'a ZoneLimits,
        affinities: &'a [Affinity],
        last: Pfn,
    ) -> impl Iterator<Item = PossibleZone> + Clone + 'a {
        let ram: u64 = self
            .blocks()
            .map(|block| block.end() - block.frames().0.as_u64())
            .sum();
        let end = ram
            .saturating_mul(MAX_GROWTH)
            .max(self.end())
            .min(last.as_u64() + 1);
        NodeId::all().flat_map(move |node| {
            let bounds = self.possible_bounds(node, affinities, end);
            let kinds = limits.kinds().iter();
            kinds.filter_map(move |kind| self.possible_zone(limits, node, *kind, bounds?))
        })
    }

    fn possible_zone(
        &self,
        limits: &ZoneLimits,
        node: NodeId,
        kind: ZoneKind,
        bounds: (u64, u64),
    ) -> Option<PossibleZone> {
        let (start, end) = self.zone_bounds(limits, node, kind, bounds)?;
        let frames = usize::try_from(end.checked_sub(start)?).ok()?;
        (frames > 0).then_some(PossibleZone {
            node,
            kind,
            start,
            frames,
        })
    }

    /// The first frame that a node has or may have, and the one after the last, below `end`.
    fn possible_bounds(
        &self,
        node: NodeId,
        affinities: &[Affinity],
        end: u64,
    ) -> Option<(u64, u64)> {
        let near = affinities
            .iter()
            .take(MAX_AFFINITIES)
            .filter(|affinity| affinity.hot_pluggable)
            .filter(|affinity| affinity.node == u32::from(node.get()))
            .filter_map(|affinity| affinity.range.whole_pages())
            .map(|range| {
                let last = range.last().pfn().as_u64();
                (range.start().pfn().as_u64(), (last + 1).min(end))
            })
            .filter(|(start, end)| start < end);
        near.chain(self.bounds_of(node))
            .reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)))
    }

    /// Cuts a range of RAM by the zones that have it; parts that are no RAM are left out. What is free when boot ends goes to the
    /// zones this way.
    pub fn zones_in<'a>(
        &'a self,
        limits: &'a ZoneLimits,
        range: PhysRange,
    ) -> impl Iterator<Item = (NodeId, ZoneKind, PhysRange)> + 'a {
        self.blocks().flat_map(move |block| {
            let part = block.range().intersection(range);
            limits.kinds().iter().filter_map(move |kind| {
                let zone = self.zone(limits, block.node(), *kind).range()?;
                Some((block.node(), *kind, part?.intersection(zone)?))
            })
        })
    }
}
