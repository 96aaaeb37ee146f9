//! [`LayoutBuilder`]: the one door to a [`Layout`], and all the checks behind it.
//!
//! Linux's own layouts pass through here too, so a kernel with other bases gets exactly the same checks.

use crate::{
    Area, AreaKind, AreaState, FRAME_SIZE, KernelImage, Layout, LayoutError, MAX_AREAS, PagingMode,
    PhysAddr, Section, SectionKind, VirtRange, layout::frame_records_bytes,
};

/// Bytes of Linux's record for a frame, `struct page`, on 64 bits.
pub const LINUX_FRAME_DATA: u64 = 64;

/// Collects areas, in any order, and makes a checked [`Layout`] of them.
///
/// ```
/// # use kspace_layout::*;
/// let layout = LayoutBuilder::new(PagingMode::FourLevel, PhysAddr::new((1 << 30) - 1))
///     .built(AreaKind::DirectMap, VirtRange::new(VirtAddr::new(0xffff_c000_0000_0000), 1 << 40))
///     .reserved(AreaKind::Vmalloc, VirtRange::new(VirtAddr::new(0xffff_e000_0000_0000), 1 << 40))
///     .build()?;
/// assert_eq!(layout.phys_to_virt(PhysAddr::new(0x1000))?, VirtAddr::new(0xffff_c000_0000_1000));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct LayoutBuilder {
    mode: PagingMode,
    areas: [Area; MAX_AREAS],
    len: usize,
    /// The first area that found no room.
    rejected: Option<Area>,
    last_ram: PhysAddr,
    frame_data: u64,
    image: Option<KernelImage>,
}

/// What the unused places of an array of areas hold.
const NO_AREA: Area = Area::new(
    AreaKind::User,
    VirtRange::new(crate::VirtAddr::ZERO, 1),
    AreaState::Reserved,
);

impl LayoutBuilder {
    /// Begins a layout for `mode` on a machine whose RAM ends with the byte `last_ram`.
    pub const fn new(mode: PagingMode, last_ram: PhysAddr) -> Self {
        Self {
            mode,
            areas: [NO_AREA; MAX_AREAS],
            len: 0,
            rejected: None,
            last_ram,
            frame_data: LINUX_FRAME_DATA,
            image: None,
        }
    }

    /// Adds an area.
    pub const fn area(mut self, kind: AreaKind, range: VirtRange, state: AreaState) -> Self {
        let area = Area::new(kind, range, state);
        if self.len < MAX_AREAS {
            self.areas[self.len] = area;
            self.len += 1;
        } else if self.rejected.is_none() {
            self.rejected = Some(area);
        }
        self
    }

    /// Adds an area in which the kernel maps something.
    pub const fn built(self, kind: AreaKind, range: VirtRange) -> Self {
        self.area(kind, range, AreaState::Built)
    }

    /// Adds an area that is kept free.
    pub const fn reserved(self, kind: AreaKind, range: VirtRange) -> Self {
        self.area(kind, range, AreaState::Reserved)
    }

    /// Sets the size of one frame's record in vmemmap, in bytes; 64 unless set.
    pub const fn frame_data(mut self, bytes: u64) -> Self {
        self.frame_data = bytes;
        self
    }

    /// Sets the kernel image.
    pub const fn image(mut self, image: KernelImage) -> Self {
        self.image = Some(image);
        self
    }

    /// Checks everything and makes the layout.
    ///
    /// # Errors
    ///
    /// [`LayoutError`], the first thing found wrong.
    pub fn build(mut self) -> Result<Layout, LayoutError> {
        if let Some(area) = self.rejected {
            return Err(LayoutError::TooManyAreas {
                area,
                capacity: MAX_AREAS,
            });
        }
        // Of two areas that start together the larger comes first, so that the smaller is reported to lie inside it.
        self.areas[..self.len].sort_unstable_by_key(|area| {
            (
                area.range().start(),
                core::cmp::Reverse(area.range().size()),
            )
        });
        self.check_areas()?;
        self.check_memory()?;
        let layout = Layout {
            mode: self.mode,
            areas: self.areas,
            len: self.len,
            last_ram: self.last_ram,
            frame_data: self.frame_data,
            image: self.image,
        };
        if let Some(image) = &self.image {
            check_image(&layout, image)?;
        }
        Ok(layout)
    }

    fn check_areas(&self) -> Result<(), LayoutError> {
        let areas = &self.areas[..self.len];
        // Names are compared, not kinds, so that no message can mean two areas by one name.
        for (index, &area) in areas.iter().enumerate() {
            let align = area.kind().alignment(self.mode);
            let range = area.range();
            if !range.start().is_aligned(align) || range.size() % FRAME_SIZE != 0 {
                return Err(LayoutError::Misaligned { area, align });
            }
            if !self.mode.contains(range.start()) || !self.mode.contains(range.last()) {
                return Err(LayoutError::OutsideMode {
                    area,
                    mode: self.mode,
                });
            }
            if let Some(&second) = areas[index + 1..]
                .iter()
                .find(|other| area.name() == other.name())
            {
                return Err(LayoutError::Duplicate {
                    first: area,
                    second,
                });
            }
        }
        // Sorted by start, so the first overlap of all is one between neighbours.
        match areas
            .windows(2)
            .find(|pair| pair[0].range().overlaps(pair[1].range()))
        {
            Some(pair) => Err(LayoutError::Overlap {
                lower: pair[0],
                upper: pair[1],
            }),
            None => Ok(()),
        }
    }

    fn check_memory(&self) -> Result<(), LayoutError> {
        let last_ram = self.last_ram;
        if self.frame_data == 0 || self.frame_data > FRAME_SIZE {
            return Err(LayoutError::FrameData(self.frame_data));
        }
        for &area in &self.areas[..self.len] {
            let size = area.range().size();
            let needed = frame_records_bytes(last_ram, self.frame_data);
            match area.kind() {
                // On 32 bits what lowmem cannot hold is high memory.
                AreaKind::DirectMap if self.mode.virt_bits() > 32 && size <= last_ram.as_u64() => {
                    return Err(LayoutError::DirectMapTooSmall { area, last_ram });
                }
                AreaKind::Vmemmap if size < needed => {
                    let frame_data = self.frame_data;
                    return Err(LayoutError::VmemmapTooSmall {
                        area,
                        needed,
                        frame_data,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Layout {
    /// The same layout on a machine whose RAM ends with the byte `last_ram`: after memory was plugged in.
    ///
    /// # Errors
    ///
    /// [`LayoutError`], when the areas for it are too small.
    pub fn with_last_ram(&self, last_ram: PhysAddr) -> Result<Self, LayoutError> {
        let mut builder = LayoutBuilder::new(self.mode, last_ram).frame_data(self.frame_data);
        for area in self.areas() {
            builder = builder.area(area.kind(), area.range(), area.state());
        }
        if let Some(image) = self.image {
            builder = builder.image(image);
        }
        builder.build()
    }
}

fn check_image(layout: &Layout, image: &KernelImage) -> Result<(), LayoutError> {
    let (virt, phys) = (image.virt(), image.phys());
    if !virt.start().is_aligned(FRAME_SIZE) || !phys.start().is_aligned(FRAME_SIZE) {
        return Err(LayoutError::ImageMisaligned { virt, phys });
    }
    if phys.last() > layout.last_ram {
        return Err(LayoutError::ImageNotInRam {
            phys,
            last_ram: layout.last_ram,
        });
    }
    // A 32-bit kernel runs inside its direct map; a 64-bit one has an area of its own.
    let in_direct_map = layout.area(AreaKind::KernelImage).is_none();
    let home = if in_direct_map {
        AreaKind::DirectMap
    } else {
        AreaKind::KernelImage
    };
    let area = layout.area(home);
    if !area.is_some_and(|area| area.range().contains_range(virt)) {
        return Err(LayoutError::ImageOutside { image: virt, area });
    }
    if in_direct_map {
        let mapped = layout.phys_to_virt(phys.start()).ok();
        if mapped != Some(virt.start()) {
            return Err(LayoutError::ImageOffset {
                image: virt,
                mapped,
                phys,
            });
        }
    }
    check_sections(image)
}

fn check_sections(image: &KernelImage) -> Result<(), LayoutError> {
    for section in image.sections() {
        if !image.virt().contains_range(section.range) {
            return Err(LayoutError::SectionOutside {
                section,
                image: image.virt(),
            });
        }
        // Each pair is met twice; the one that starts first is reported as the lower.
        if let Some(other) = first_overlap(image, section) {
            let mut pair = [section, other];
            pair.sort_unstable_by_key(|section| section.range.start());
            return Err(LayoutError::SectionsOverlap {
                lower: pair[0],
                upper: pair[1],
            });
        }
    }
    Ok(())
}

fn first_overlap(image: &KernelImage, section: Section) -> Option<Section> {
    let later = |other: &Section| (other.kind as usize) > section.kind as usize;
    image
        .sections()
        .filter(later)
        .find(|other| other.range.overlaps(section.range))
}

// `KernelImage` indexes its sections by kind, in this order.
const _: () = assert!(SectionKind::InitData as usize + 1 == SectionKind::ALL.len());
