//! The kinds of zone, and which addresses each kind has on a machine.
//!
//! ```text
//!   64 bits   0 |DMA| 16M    DMA32      | 4G          Normal              |      Movable      |
//!   32 bits   0 |DMA| 16M    Normal     | end of low memory   HighMem     |      Movable      |
//! ```

use core::fmt;

use kspace_layout::{FRAME_SIZE, Pfn, PhysAddr};

use super::{MAX_NODES, NodeId};

/// Why memory of one kind is kept apart from the rest (Linux: `enum zone_type`, include/linux/mmzone.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ZoneKind {
    /// Below 16 MiB: what the DMA controller of the ISA bus reaches.
    Dma,
    /// Below 4 GiB, on 64 bits: what a device with 32 address bits reaches.
    Dma32,
    /// All that the kernel always has mapped and that is in no lower zone.
    Normal,
    /// What the kernel of 32 bits has no room to map permanently.
    HighMem,
    /// Only for content that can be moved elsewhere, so that it can be freed in large pieces, or unplugged.
    Movable,
    /// Memory of devices. Always empty here; Linux lists it, and programs that read the lists count the columns.
    Device,
}

impl ZoneKind {
    /// How many kinds there are.
    pub const COUNT: usize = 6;

    /// The kinds, from the lowest addresses to the highest.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Dma,
        Self::Dma32,
        Self::Normal,
        Self::HighMem,
        Self::Movable,
        Self::Device,
    ];

    /// Its place in [`ALL`](Self::ALL).
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Linux's name for it (`zone_names`, mm/page_alloc.c).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dma => "DMA",
            Self::Dma32 => "DMA32",
            Self::Normal => "Normal",
            Self::HighMem => "HighMem",
            Self::Movable => "Movable",
            Self::Device => "Device",
        }
    }
}

impl fmt::Display for ZoneKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The first frame that the ISA bus cannot reach: 16 MiB (Linux: `MAX_DMA_PFN`, arch/x86/include/asm/dma.h).
const DMA_END: u64 = (16 << 20) / FRAME_SIZE;

/// The first frame that 32 bits cannot name (Linux: `MAX_DMA32_PFN`).
const DMA32_END: u64 = (4 << 30) / FRAME_SIZE;

/// No frame has this number.
const NEVER: u64 = u64::MAX;

/// Which kinds of zone a machine has, and between which addresses. A node's zones are these, cut to the node's memory.
#[derive(Clone, Copy, Debug)]
pub struct ZoneLimits {
    width: Width,
    /// Per node, the frame from which on its memory is movable.
    movable: [u64; MAX_NODES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Bits64,
    Bits32 { low_end: u64 },
}

const KINDS_64: [ZoneKind; 5] = [
    ZoneKind::Dma,
    ZoneKind::Dma32,
    ZoneKind::Normal,
    ZoneKind::Movable,
    ZoneKind::Device,
];

const KINDS_32: [ZoneKind; 4] = [
    ZoneKind::Dma,
    ZoneKind::Normal,
    ZoneKind::HighMem,
    ZoneKind::Movable,
];

impl ZoneLimits {
    /// The zones of x86-64: DMA, DMA32, Normal; and Movable, at first without memory.
    #[must_use]
    pub const fn x86_64() -> Self {
        Self {
            width: Width::Bits64,
            movable: [NEVER; MAX_NODES],
        }
    }

    /// The zones of 32 bits: DMA, Normal up to `low_last`, the last byte that the direct map covers, HighMem above it, and
    /// Movable. A frame of which `low_last` is not the last byte is high.
    #[must_use]
    pub const fn i386(low_last: PhysAddr) -> Self {
        Self {
            width: Width::Bits32 {
                low_end: (low_last.as_u64() + 1) / FRAME_SIZE,
            },
            movable: [NEVER; MAX_NODES],
        }
    }

    /// The same, with the memory of `node` movable from the frame `first` on. Linux rounds it up to whole blocks of order
    /// 10, so that no block lies in two zones; so does this. It has no effect on memory below the highest zone.
    #[must_use]
    pub const fn with_movable_from(mut self, node: NodeId, first: Pfn) -> Self {
        self.movable[node.index()] = first.as_u64().next_multiple_of(1024);
        self
    }

    /// The kinds of zone that there are, from the lowest addresses to the highest, with memory or without.
    #[must_use]
    pub fn kinds(&self) -> &'static [ZoneKind] {
        match self.width {
            Width::Bits64 => &KINDS_64,
            Width::Bits32 { .. } => &KINDS_32,
        }
    }

    /// Whether there is this kind of zone.
    #[must_use]
    pub fn has(&self, kind: ZoneKind) -> bool {
        self.kinds().contains(&kind)
    }

    /// The frames of a kind, as the first and the one after the last, if addresses decide it: not for Movable and Device.
    #[must_use]
    pub(super) const fn bounds(&self, kind: ZoneKind) -> Option<(u64, u64)> {
        match (self.width, kind) {
            (Width::Bits64, ZoneKind::Dma) => Some((0, DMA_END)),
            (Width::Bits64, ZoneKind::Dma32) => Some((DMA_END, DMA32_END)),
            (Width::Bits64, ZoneKind::Normal) => Some((DMA32_END, NEVER)),
            (Width::Bits32 { low_end }, ZoneKind::Dma) => Some((0, min(DMA_END, low_end))),
            (Width::Bits32 { low_end }, ZoneKind::Normal) => Some((min(DMA_END, low_end), low_end)),
            (Width::Bits32 { low_end }, ZoneKind::HighMem) => Some((low_end, NEVER)),
            _ => None,
        }
    }

    /// The first frame of the highest zone that has memory when RAM ends at frame `end`: memory can be movable from here
    /// on (Linux: `movable_zone`).
    pub(super) fn highest_start(&self, end: u64) -> u64 {
        self.kinds()
            .iter()
            .filter_map(|kind| self.bounds(*kind))
            .filter(|(start, _)| *start < end)
            .map(|(start, _)| start)
            .max()
            .unwrap_or(0)
    }

    /// From which frame on a node's memory is movable, in a machine whose RAM ends at frame `end`.
    pub(super) fn movable_start(&self, node: NodeId, end: u64) -> Option<u64> {
        match self.movable[node.index()] {
            NEVER => None,
            first => Some(first.max(self.highest_start(end))),
        }
    }
}

/// `Ord::min` in constants.
const fn min(one: u64, other: u64) -> u64 {
    if one < other { one } else { other }
}
