//! A [`Layout`]: all areas of one address space as one checked value, and the questions it answers.
//!
//! Holding one proves that its areas are sorted, disjoint, aligned as their kinds need, and all inside the paging mode's range;
//! that the direct map reaches the end of RAM (on 32 bits: as far as lowmem goes); that the records of all frames fit in
//! vmemmap; and that the kernel image and its sections lie where they must. It does not prove that anything is mapped.
//!
//! It is a plain value without pointers to this crate's data, so a kernel may copy it across its own relocation.

use core::fmt;

use crate::{
    Area, AreaKind, AreaState, Block, ByteSize, CpuEntryArea, FRAME_SIZE, Fixmap, KernelImage,
    PagingMode, Pfn, PhysAddr, PhysRange, Picture, TranslateError, VirtAddr, VirtRange,
};

/// How many areas a layout has room for. Linux's largest has 15.
pub const MAX_AREAS: usize = 24;

/// The checked layout of one address space.
///
/// Made by [`X86_64`](crate::X86_64), [`I386`](crate::I386) or, for other bases, [`LayoutBuilder`](crate::LayoutBuilder).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub(crate) mode: PagingMode,
    pub(crate) areas: [Area; MAX_AREAS],
    pub(crate) len: usize,
    pub(crate) last_ram: PhysAddr,
    pub(crate) frame_data: u64,
    pub(crate) image: Option<KernelImage>,
}

impl Layout {
    /// The paging mode that the layout is for.
    #[must_use]
    pub const fn mode(&self) -> PagingMode {
        self.mode
    }

    /// All areas, lowest first. What lies between them are holes.
    #[must_use]
    pub fn areas(&self) -> &[Area] {
        &self.areas[..self.len]
    }

    /// The area of this kind, if the layout has one.
    #[must_use]
    pub fn area(&self, kind: AreaKind) -> Option<Area> {
        self.areas()
            .iter()
            .copied()
            .find(|area| area.kind() == kind)
    }

    /// The last byte of RAM that the layout was made for.
    #[must_use]
    pub const fn last_ram(&self) -> PhysAddr {
        self.last_ram
    }

    /// The size of one frame's record in vmemmap, in bytes.
    #[must_use]
    pub const fn frame_data_bytes(&self) -> u64 {
        self.frame_data
    }

    /// The kernel image, if the layout was made with one.
    #[must_use]
    pub const fn image(&self) -> Option<&KernelImage> {
        self.image.as_ref()
    }

    /// The same layout with the area of this kind built or only reserved.
    #[must_use]
    pub fn with_state(mut self, kind: AreaKind, state: AreaState) -> Self {
        for area in &mut self.areas[..self.len] {
            if area.kind() == kind {
                *area = Area::new(kind, area.range(), state);
            }
        }
        self
    }

    /// What lies at `address`: an area, or the hole between two.
    #[must_use]
    pub fn find(&self, address: VirtAddr) -> Place {
        if !self.mode.contains(address) {
            return Place::OutsideMode(self.mode);
        }
        let areas = self.areas();
        let above = areas.partition_point(|area| area.range().last() < address);
        match areas.get(above) {
            Some(&area) if area.range().contains(address) => {
                let offset = address.as_u64() - area.range().start().as_u64();
                Place::Area { area, offset }
            }
            _ => Place::Hole(self.hole_below(above, address)),
        }
    }

    /// Areas and holes in order, lowest first: every address of the mode is in exactly one.
    #[must_use]
    pub const fn places(&self) -> Places<'_> {
        Places {
            layout: self,
            next: Some(VirtAddr::ZERO),
        }
    }

    /// The physical memory that the direct map covers: from zero to the end of RAM, or on 32 bits to the end of lowmem.
    /// Its holes (device memory between pieces of RAM) are not mapped; which they are, only the memory map knows.
    #[must_use]
    pub fn direct_mapped(&self) -> Option<PhysRange> {
        let area = self.area(AreaKind::DirectMap)?;
        let last = (area.range().size() - 1).min(self.last_ram.as_u64());
        PhysRange::try_new(PhysAddr::ZERO, last + 1).ok()
    }

    /// The virtual addresses at which the direct map has that memory. The area itself, [`area(DirectMap)`](Self::area), is
    /// usually larger: it is what is reserved.
    #[must_use]
    pub fn direct_map_covered(&self) -> Option<VirtRange> {
        let start = self.area(AreaKind::DirectMap)?.range().start();
        VirtRange::try_new(start, self.direct_mapped()?.size()).ok()
    }

    /// The direct map's address of a physical address.
    ///
    /// # Errors
    ///
    /// [`TranslateError::BeyondDirectMap`] past the end of RAM (on 32 bits: in high memory), [`TranslateError::NoDirectMap`].
    pub fn phys_to_virt(&self, phys: PhysAddr) -> Result<VirtAddr, TranslateError> {
        let (Some(memory), Some(covered)) = (self.direct_mapped(), self.direct_map_covered())
        else {
            return Err(TranslateError::NoDirectMap);
        };
        let beyond = TranslateError::BeyondDirectMap {
            phys,
            last: memory.last(),
        };
        if !memory.contains(phys) {
            return Err(beyond);
        }
        covered
            .start()
            .checked_add(phys.as_u64())
            .map_err(|_| beyond)
    }

    /// The physical address behind an address in the direct map or in the kernel image.
    ///
    /// # Errors
    ///
    /// [`TranslateError::NotLinear`], with the place, for every other address.
    pub fn virt_to_phys(&self, virt: VirtAddr) -> Result<PhysAddr, TranslateError> {
        let elsewhere = TranslateError::NotLinear {
            virt,
            place: self.find(virt),
        };
        if let Some(covered) = self.direct_map_covered()
            && covered.contains(virt)
        {
            let offset = virt.as_u64() - covered.start().as_u64();
            return PhysAddr::try_new(offset).map_err(|_| elsewhere);
        }
        self.image
            .and_then(|image| image.virt_to_phys(virt))
            .ok_or(elsewhere)
    }

    /// The kernel image's address of a physical address that the image occupies.
    #[must_use]
    pub fn phys_to_image(&self, phys: PhysAddr) -> Option<VirtAddr> {
        self.image?.phys_to_virt(phys)
    }

    /// Where vmemmap has the record of a frame; `None` past the end of RAM and in a layout without vmemmap.
    #[must_use]
    pub fn frame_record(&self, pfn: Pfn) -> Option<VirtAddr> {
        let area = self.area(AreaKind::Vmemmap)?;
        if pfn > self.last_ram.pfn() {
            return None;
        }
        area.range()
            .start()
            .checked_add(pfn.as_u64() * self.frame_data)
            .ok()
    }

    /// The part of vmemmap that holds the records of all frames up to the end of RAM.
    #[must_use]
    pub fn vmemmap_used(&self) -> Option<VirtRange> {
        let start = self.area(AreaKind::Vmemmap)?.range().start();
        VirtRange::try_new(start, frame_records_bytes(self.last_ram, self.frame_data)).ok()
    }

    /// The geometry of the per-CPU entry areas; `None` on 32 bits and in a layout without one.
    #[must_use]
    pub fn cpu_entry(&self) -> Option<CpuEntryArea> {
        match self.mode {
            PagingMode::TwoLevel | PagingMode::Pae => None,
            PagingMode::FourLevel | PagingMode::FiveLevel => {
                CpuEntryArea::new(self.area(AreaKind::CpuEntry)?.range())
            }
        }
    }

    /// The slots of the fixmap; `None` when the layout's fixmap does not lie where x86-64 has it.
    #[must_use]
    pub fn fixmap(&self) -> Option<Fixmap> {
        let area = self.area(AreaKind::Fixmap)?;
        (area.range() == Fixmap::PERMANENT).then_some(Fixmap)
    }

    /// The block that Linux used to print at boot.
    #[must_use]
    pub const fn block(&self) -> Block<'_> {
        Block::new(self)
    }

    /// A drawing of the layout, highest address first.
    #[must_use]
    pub const fn picture(&self) -> Picture<'_> {
        Picture::new(self)
    }

    /// The hole that holds `address`, whose upper neighbour would be `areas()[above]`.
    fn hole_below(&self, above: usize, address: VirtAddr) -> Hole {
        let areas = self.areas();
        let (first, last) = half_around(self.mode, address);
        // Neighbours in the other half are none: the non-canonical addresses lie between.
        let below = above
            .checked_sub(1)
            .map(|index| areas[index])
            .filter(|area| area.range().start() >= first);
        let above = areas
            .get(above)
            .copied()
            .filter(|area| area.range().start() <= last);
        let start = below.map_or(first.as_u64(), |area| area.range().end_u64());
        let end = above.map_or(last.as_u64(), |area| area.range().start().as_u64() - 1);
        let range = VirtAddr::try_new(start)
            .and_then(|start| VirtRange::try_from_bounds(start, VirtAddr::try_new(end)?))
            .expect("a hole holds the address it was found for");
        Hole {
            range,
            below,
            above,
        }
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layout")
            .field("mode", &self.mode)
            .field("areas", &self.areas())
            .field("last_ram", &self.last_ram)
            .field("frame_data", &self.frame_data)
            .field("image", &self.image)
            .finish()
    }
}

/// Bytes of the records of all frames up to `last_ram`. At most 2^40 records of 4096 bytes, so it cannot overflow.
pub(crate) const fn frame_records_bytes(last_ram: PhysAddr, frame_data: u64) -> u64 {
    (last_ram.as_u64() / FRAME_SIZE + 1) * frame_data
}

/// First and last address of the half of the address space that holds `address`.
fn half_around(mode: PagingMode, address: VirtAddr) -> (VirtAddr, VirtAddr) {
    match mode.upper_half_start() {
        Some(start) if address >= start => (start, VirtAddr::LAST),
        _ => (VirtAddr::ZERO, mode.lower_half_last()),
    }
}

/// What lies at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An area.
    Area {
        /// The area.
        area: Area,
        /// How many bytes into it.
        offset: u64,
    },
    /// Nothing: the space between two areas.
    Hole(Hole),
    /// The paging mode has no such address: it is not canonical, or on 32 bits not below 4 GiB.
    OutsideMode(PagingMode),
}

impl Place {
    /// All of the area or hole; `None` outside the mode.
    #[must_use]
    pub const fn range(self) -> Option<VirtRange> {
        match self {
            Self::Area { area, .. } => Some(area.range()),
            Self::Hole(hole) => Some(hole.range),
            Self::OutsideMode(_) => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Area { area, offset: 0 } => write!(f, "the start of {}", area.kind()),
            Self::Area { area, offset } => write!(f, "{} into {}", ByteSize(offset), area.kind()),
            Self::Hole(hole) => hole.fmt(f),
            Self::OutsideMode(mode) => write!(f, "not an address of {mode} paging"),
        }
    }
}

/// A hole: addresses that no area holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    range: VirtRange,
    below: Option<Area>,
    above: Option<Area>,
}

impl Hole {
    /// All of it.
    #[must_use]
    pub const fn range(self) -> VirtRange {
        self.range
    }

    /// The area right below; `None` when the hole begins with its half of the address space.
    #[must_use]
    pub const fn below(self) -> Option<Area> {
        self.below
    }

    /// The area right above; `None` when the hole ends with its half of the address space.
    #[must_use]
    pub const fn above(self) -> Option<Area> {
        self.above
    }
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.below, self.above) {
            (Some(below), Some(above)) => {
                write!(f, "the hole between {} and {}", below.kind(), above.kind())
            }
            (Some(below), None) => write!(f, "the hole above {}", below.kind()),
            (None, Some(above)) => write!(f, "the hole below {}", above.kind()),
            (None, None) => f.write_str("an address space without areas"),
        }
    }
}

/// Areas and holes of a layout in order; see [`Layout::places`].
#[derive(Clone, Debug)]
pub struct Places<'a> {
    layout: &'a Layout,
    /// The first address of the next place.
    next: Option<VirtAddr>,
}

impl Iterator for Places<'_> {
    type Item = Place;

    fn next(&mut self) -> Option<Place> {
        let start = self.next?;
        let place = self.layout.find(start);
        // `start` is always one of the mode's own addresses, so there is always a range.
        let last = place.range()?.last();
        self.next = if last == self.layout.mode.lower_half_last() {
            self.layout.mode.upper_half_start()
        } else {
            last.checked_add(1).ok()
        };
        Some(place)
    }
}
