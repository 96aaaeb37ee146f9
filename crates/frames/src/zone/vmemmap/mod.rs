//! Where the allocators' books lie in area vmemmap, and which parts of it are backed by memory: pure arithmetic.
//!
//! ```text
//!   vmemmap  | records of frames, by frame number    :  |slots|trees|huges of zones|bits of zones|
//!            0              4 bytes each           reach*4    dense      sparse         sparse
//!
//!   frames     0       16M            1G        3G    4G                             128 TiB of addresses
//!   RAM        [########################]       |     [########]
//!   records    |4K.....|2M ...........|4K|            |4K|2M...|                     backed where a record of RAM is
//!   bits       |4K....................|               |4K......|                     64 bytes for each 2 MiB with RAM
//!   huges      |4K|                                   |4K|                           64 bytes for each 64 MiB with RAM
//! ```
//!
//! All arrays are as long as memory can ever become, and only virtual: nothing moves when memory is plugged in, its part is
//! backed then. [`VmemmapPlan`] says which pages are: 2 MiB where a whole one is needed at boot, 4 KiB elsewhere. Linux backs 2 MiB
//! for each 128 MiB in which there is any RAM; a machine of 64 MiB pays 72 KiB here.
//!
//! **Records are one array for all zones**: each belongs to one frame and so to one zone, and the way from a frame's number to its
//! record is arithmetic. **The other arrays are each zone's own.** A word of bits holds 64 frames, a pair of counters 1024, a
//! tree 16384; where zones meet at other places (DMA ends at 16 MiB, firmware may divide nodes at any page, nodes interleave), two
//! allocators would write to one word, each taking the other's frames for its own. They are packed by cache lines, so that small
//! zones share pages. (What is left of that: where two nodes meet inside a huge frame, an allocator that is asked to free a
//! frame of the other one's by number reads the other's record. The zone of a frame is for the caller to know, see
//! [`Nodes::zone_of`](super::Nodes::zone_of).)
//!
//! **What is read is backed.** An allocator reads all of its slots and trees; so these are backed whole. It reads the counters of a
//! tree only once memory of the tree was added, and bits and records only of a huge frame of which memory was added
//! (`allocator::add` has the protocol). Memory that is added is RAM of the zone.

mod plan;
mod runs;

use core::fmt;
#[cfg(not(feature = "loom"))]
use core::ptr::NonNull;

use kspace_layout::{ByteSize, FRAME_SIZE, Pfn, PhysRange};

use super::{MAX_NODES, NodeId, PossibleZone, ZoneKind};
use crate::MetadataSize;
#[cfg(not(feature = "loom"))]
use crate::{BitWord, CpuSlot, HugePair, Metadata, Record, Tree};

pub use plan::VmemmapPlan;
pub use runs::VmemmapRun;

/// Bytes of a frame's record.
pub const RECORD_BYTES: u64 = 4;

/// How many zones there can be: one or two of each node, and DMA and DMA32.
pub const MAX_ZONES: usize = 2 * MAX_NODES + 2;

/// Bytes of a cache line, at a multiple of which each zone's arrays begin.
const LINE: u64 = MetadataSize::ALIGN as u64;

/// Where the zones' arrays begin after the records: at a large page.
const LARGE: u64 = 2 << 20;

/// Bytes of counters for each tree: one cache line.
const TREE_COUNTERS: u64 = 64;

/// Bytes of bits for each huge frame: one cache line.
const HUGE_BITS: u64 = 64;

#[cfg(not(feature = "loom"))]
const _: () = {
    assert!(size_of::<Record>() as u64 == RECORD_BYTES);
    assert!((size_of::<HugePair>() * crate::TREE_HUGES / 2) as u64 == TREE_COUNTERS);
    assert!((size_of::<BitWord>() * crate::HUGE_FRAMES / 64) as u64 == HUGE_BITS);
    assert!((size_of::<CpuSlot>() as u64).is_multiple_of(LINE) && LINE == 64);
    assert!(size_of::<Tree>() == 8);
};

/// Where each zone's books lie in area vmemmap, as offsets from its start. See the module's picture.
#[derive(Clone, Copy, Debug)]
pub struct Vmemmap {
    zones: [PossibleZone; MAX_ZONES],
    len: usize,
    cpus: usize,
    /// How many frames have a record's place.
    reach: u64,
}

/// Where one zone's own arrays begin, and how much of each there is.
#[derive(Clone, Copy, Debug)]
struct Books {
    zone: PossibleZone,
    size: MetadataSize,
    cpus: u64,
    trees: u64,
    huges: u64,
    bits: u64,
}

impl Books {
    /// The first frame that the books count from.
    fn base(&self) -> u64 {
        self.zone.end() - self.size.records as u64
    }
}

impl Vmemmap {
    /// Places the books of these zones, used by `cpus` CPUs, in an area of `area_bytes`, with records for all frames of `reach`: what the
    /// direct map can hold.
    ///
    /// # Errors
    ///
    /// [`VmemmapError`].
    pub fn new(
        zones: impl IntoIterator<Item = PossibleZone>,
        cpus: usize,
        reach: PhysRange,
        area_bytes: u64,
    ) -> Result<Self, VmemmapError> {
        let mut vmemmap = Self {
            zones: [PossibleZone::NONE; MAX_ZONES],
            len: 0,
            cpus,
            reach: reach.last().pfn().as_u64() + 1,
        };
        for zone in zones {
            if zone.end() > vmemmap.reach {
                return Err(VmemmapError::BeyondReach { zone, reach });
            }
            let slot = vmemmap.zones.get_mut(vmemmap.len);
            *slot.ok_or(VmemmapError::TooManyZones)? = zone;
            vmemmap.len += 1;
        }
        let needed = vmemmap.bytes();
        if needed > area_bytes {
            return Err(VmemmapError::TooSmall { needed, area_bytes });
        }
        Ok(vmemmap)
    }

    /// The zones.
    pub fn zones(&self) -> impl ExactSizeIterator<Item = PossibleZone> + Clone + '_ {
        self.zones[..self.len].iter().copied()
    }

    /// The zone of a node and kind.
    #[must_use]
    pub fn zone(&self, node: NodeId, kind: ZoneKind) -> Option<PossibleZone> {
        self.zones()
            .find(|zone| zone.node() == node && zone.kind() == kind)
    }

    /// Where a frame's record lies: bytes from the start of the area. `None` beyond what the direct map can hold.
    #[must_use]
    pub const fn record_of(&self, frame: Pfn) -> Option<u64> {
        if frame.as_u64() < self.reach {
            Some(frame.as_u64() * RECORD_BYTES)
        } else {
            None
        }
    }

    /// Bytes of the area that the arrays span, backed or not, in whole pages.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let last = self.books().last();
        let end = last.map_or(self.arrays(), |last| {
            last.bits + last.size.trees as u64 * TREE_BITS
        });
        end.next_multiple_of(FRAME_SIZE)
    }

    /// The books of a zone, for [`FrameAllocator::new`](crate::FrameAllocator::new) with the zone's
    /// [`start`](PossibleZone::start) and [`frames`](PossibleZone::frames); `None` when there is no such zone. `area` is the start of area
    /// vmemmap. Not a byte of it is touched.
    ///
    /// # Safety
    ///
    /// What a [`VmemmapPlan`] of this value backs is mapped, writable, all zero when its first allocator is made, and used by
    /// nothing but allocators, of which each zone has one; more of it may be mapped, zeroed, before more memory is added to an
    /// allocator. It stays so as long as `'m` lasts, and nothing else is ever mapped in the rest of the arrays.
    #[cfg(not(feature = "loom"))]
    #[must_use]
    #[allow(unsafe_code)] // Where addresses become the zone's arrays.
    pub unsafe fn metadata<'m>(
        &self,
        area: NonNull<u8>,
        node: NodeId,
        kind: ZoneKind,
    ) -> Option<Metadata<'m>> {
        let books = self
            .books()
            .find(|books| books.zone.node() == node && books.zone.kind() == kind)?;
        let offset = |bytes: u64| usize::try_from(bytes).ok();
        let offsets = [
            offset(books.cpus)?,
            offset(books.trees)?,
            offset(books.huges)?,
            offset(books.bits)?,
            offset(books.base() * RECORD_BYTES)?,
        ];
        // SAFETY: the offsets are multiples of a cache line from a page's start, a record's of four bytes. By the contract what is
        // looked at is mapped and zeroed; the zone's own arrays are used by its one allocator, and of the records, which are
        // atomics, each allocator uses those of its own zone's frames.
        Some(unsafe { Metadata::at(area, offsets, books.size) })
    }

    /// Where the zones' own arrays begin.
    const fn arrays(&self) -> u64 {
        (self.reach * RECORD_BYTES).next_multiple_of(LARGE)
    }

    /// Where the trees, the counters and the bits of all zones begin.
    fn parts(&self) -> [u64; 3] {
        let sizes = || self.zones().map(|zone| self.size_of(zone));
        let slots: u64 = sizes().map(|size| slot_bytes(&size)).sum();
        let trees: u64 = sizes().map(|size| tree_bytes(&size)).sum();
        let huges: u64 = sizes().map(|size| size.trees as u64 * TREE_COUNTERS).sum();
        let begin = self.arrays() + slots;
        [begin, begin + trees, begin + trees + huges]
    }

    fn size_of(&self, zone: PossibleZone) -> MetadataSize {
        MetadataSize::new(zone.start(), zone.frames(), self.cpus)
    }

    /// The books of every zone, in the order of their arrays.
    fn books(&self) -> impl Iterator<Item = Books> + Clone + '_ {
        let [trees, huges, bits] = self.parts();
        let mut next = [self.arrays(), trees, huges, bits];
        self.zones().map(move |zone| {
            let size = self.size_of(zone);
            let [cpus, trees, huges, bits] = next;
            next = [
                cpus + slot_bytes(&size),
                trees + tree_bytes(&size),
                huges + size.trees as u64 * TREE_COUNTERS,
                bits + size.trees as u64 * TREE_BITS,
            ];
            Books {
                zone,
                size,
                cpus,
                trees,
                huges,
                bits,
            }
        })
    }
}

/// Bytes of bits for each tree.
const TREE_BITS: u64 = HUGE_BITS * crate::TREE_HUGES as u64;

const fn slot_bytes(size: &MetadataSize) -> u64 {
    (size.cpus * size_of::<crate::CpuSlot>()) as u64
}

const fn tree_bytes(size: &MetadataSize) -> u64 {
    (size.trees as u64 * 8).next_multiple_of(LINE)
}

/// Why the books cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmemmapError {
    /// More zones than there is room for.
    TooManyZones,
    /// A zone has frames that the direct map cannot hold.
    BeyondReach {
        /// The zone.
        zone: PossibleZone,
        /// What the direct map can hold.
        reach: PhysRange,
    },
    /// The area is too small.
    TooSmall {
        /// Bytes that the arrays span.
        needed: u64,
        /// Bytes of the area.
        area_bytes: u64,
    },
    /// The layout has no such area, or no direct map to say how many frames it must hold.
    NoArea,
}

impl fmt::Display for VmemmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooManyZones => write!(
                f,
                "vmemmap: more than {MAX_ZONES} zones; go on without the firmware's nodes (numa=off)"
            ),
            Self::BeyondReach { zone, reach } => write!(
                f,
                "vmemmap: node {} zone {} reaches up to {}, the direct map holds only {reach}; use less RAM (mem=)",
                zone.node(),
                zone.kind(),
                zone.range().last()
            ),
            Self::TooSmall { needed, area_bytes } => write!(
                f,
                "vmemmap: the books span {}, the area has {}; make it larger",
                ByteSize(needed),
                ByteSize(area_bytes)
            ),
            Self::NoArea => f.write_str(
                "vmemmap: the layout has no such area, or no direct map; keep the books elsewhere",
            ),
        }
    }
}

impl core::error::Error for VmemmapError {}
