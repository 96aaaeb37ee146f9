//! The layouts of x86-64: one for 4-level and one for 5-level paging, as Linux has them.
//!
//! The addresses are those of Linux's `Documentation/arch/x86/x86_64/mm.rst` (unchanged from 6.1 to 6.12), for a kernel that may
//! move its image (`CONFIG_RANDOMIZE_BASE`): the window for the image is 1 GiB, and modules begin behind it.
//!
//! The upper part depends on the mode. The last 4 TiB are the same in both, so that code built for either finds the entry areas,
//! the image and the fixmap at one place. This file is the only one that knows any of these numbers; compile-time
//! assertions below hold them against the formulas of Linux's headers, which are written in page-table slots.

use crate::{
    AreaKind, AreaState, Fixmap, KernelImage, Layout, LayoutBuilder, LayoutError, PagingMode,
    PhysAddr, VirtAddr, VirtRange,
};

/// The family's name in messages.
const FAMILY: &str = "x86-64";

/// `vaddr_end` of Linux's `arch/x86/mm/kaslr.c`: the areas that KASLR moves stay below the CPU entry areas.
pub(crate) const MOVABLE_END: VirtAddr = VirtAddr::new(0xffff_fe00_0000_0000);

/// Where a kernel image that is not moved begins: `__START_KERNEL_map` plus `CONFIG_PHYSICAL_START` (16 MiB).
pub const DEFAULT_IMAGE_START: VirtAddr = VirtAddr::new(0xffff_ffff_8100_0000);

/// The window in which the kernel image lies: `KERNEL_IMAGE_SIZE`, 1 GiB, at `__START_KERNEL_map`.
pub const IMAGE_WINDOW: VirtRange = span(0xffff_ffff_8000_0000, 0xffff_ffff_bfff_ffff);

const fn span(start: u64, last: u64) -> VirtRange {
    match VirtRange::try_from_bounds(VirtAddr::new(start), VirtAddr::new(last)) {
        Ok(range) => range,
        Err(_) => panic!("not a range"),
    }
}

type Row = (AreaKind, VirtRange);

/// 4-level: everything below the common tail.
const UPPER_4: [Row; 7] = [
    (
        AreaKind::User,
        span(0x0000_0000_0000_0000, 0x0000_7fff_ffff_ffff),
    ),
    (
        AreaKind::GuardHole,
        span(0xffff_8000_0000_0000, 0xffff_87ff_ffff_ffff),
    ),
    (
        AreaKind::LdtRemap,
        span(0xffff_8800_0000_0000, 0xffff_887f_ffff_ffff),
    ),
    (
        AreaKind::DirectMap,
        span(0xffff_8880_0000_0000, 0xffff_c87f_ffff_ffff),
    ),
    (
        AreaKind::Vmalloc,
        span(0xffff_c900_0000_0000, 0xffff_e8ff_ffff_ffff),
    ),
    (
        AreaKind::Vmemmap,
        span(0xffff_ea00_0000_0000, 0xffff_eaff_ffff_ffff),
    ),
    (
        AreaKind::KasanShadow,
        span(0xffff_ec00_0000_0000, 0xffff_fbff_ffff_ffff),
    ),
];

/// 5-level: everything below the common tail.
const UPPER_5: [Row; 7] = [
    (
        AreaKind::User,
        span(0x0000_0000_0000_0000, 0x00ff_ffff_ffff_ffff),
    ),
    (
        AreaKind::GuardHole,
        span(0xff00_0000_0000_0000, 0xff0f_ffff_ffff_ffff),
    ),
    (
        AreaKind::LdtRemap,
        span(0xff10_0000_0000_0000, 0xff10_ffff_ffff_ffff),
    ),
    (
        AreaKind::DirectMap,
        span(0xff11_0000_0000_0000, 0xff90_ffff_ffff_ffff),
    ),
    (
        AreaKind::Vmalloc,
        span(0xffa0_0000_0000_0000, 0xffd1_ffff_ffff_ffff),
    ),
    (
        AreaKind::Vmemmap,
        span(0xffd4_0000_0000_0000, 0xffd5_ffff_ffff_ffff),
    ),
    (
        AreaKind::KasanShadow,
        span(0xffdf_0000_0000_0000, 0xffff_fbff_ffff_ffff),
    ),
];

/// The common tail of both modes.
const TAIL: [Row; 8] = [
    (
        AreaKind::CpuEntry,
        span(0xffff_fe00_0000_0000, 0xffff_fe7f_ffff_ffff),
    ),
    (
        AreaKind::EspFix,
        span(0xffff_ff00_0000_0000, 0xffff_ff7f_ffff_ffff),
    ),
    (
        AreaKind::EfiRuntime,
        span(0xffff_ffef_0000_0000, 0xffff_fffe_ffff_ffff),
    ),
    (AreaKind::KernelImage, IMAGE_WINDOW),
    (
        AreaKind::Modules,
        span(0xffff_ffff_c000_0000, 0xffff_ffff_feff_ffff),
    ),
    (AreaKind::EarlyFixmap, Fixmap::EARLY),
    (AreaKind::Fixmap, Fixmap::PERMANENT),
    (AreaKind::Vsyscall, Fixmap::VSYSCALL),
];

/// The three areas that KASLR moves, with their reserved sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Regions {
    /// Linux's `page_offset_base` and what is kept for the direct map.
    pub direct_map: VirtRange,
    /// Linux's `vmalloc_base` and the vmalloc area.
    pub vmalloc: VirtRange,
    /// Linux's `vmemmap_base` and what is kept for the records of frames.
    pub vmemmap: VirtRange,
}

impl Regions {
    /// Where the three areas lie without KASLR; `None` in a 32-bit mode.
    #[must_use]
    pub const fn fixed(mode: PagingMode) -> Option<Self> {
        let upper = match mode {
            PagingMode::TwoLevel | PagingMode::Pae => return None,
            PagingMode::FourLevel => &UPPER_4,
            PagingMode::FiveLevel => &UPPER_5,
        };
        Some(Self {
            direct_map: upper[3].1,
            vmalloc: upper[4].1,
            vmemmap: upper[5].1,
        })
    }
}

/// The last physical address that the direct map of `mode` may ever cover: Linux's `MAX_PHYSMEM_BITS`, 46 or 52 bits.
#[must_use]
pub(crate) const fn last_mappable(mode: PagingMode) -> PhysAddr {
    match mode {
        PagingMode::FourLevel => PhysAddr::new((1 << 46) - 1),
        _ => PhysAddr::LAST,
    }
}

/// The parameters of an x86-64 layout.
///
/// ```
/// # use kspace_layout::*;
/// let layout = X86_64::new(PagingMode::FourLevel, PhysAddr::new((4 << 30) - 1)).build()?;
/// let vmalloc = layout.area(AreaKind::Vmalloc).unwrap();
/// assert_eq!(vmalloc.range().start(), VirtAddr::new(0xffffc90000000000));
/// # Ok::<(), LayoutError>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct X86_64 {
    mode: PagingMode,
    last_ram: PhysAddr,
    frame_data: u64,
    regions: Option<Regions>,
    image: Option<KernelImage>,
}

impl X86_64 {
    /// Linux's default layout for `mode` on a machine whose RAM ends with the byte `last_ram`.
    pub const fn new(mode: PagingMode, last_ram: PhysAddr) -> Self {
        Self {
            mode,
            last_ram,
            frame_data: crate::LINUX_FRAME_DATA,
            regions: None,
            image: None,
        }
    }

    /// Puts the three movable areas elsewhere, usually where [`Kaslr`](crate::Kaslr) drew them. The KASAN shadow is then left
    /// out, as in Linux, where a kernel with the sanitizer does not move its areas.
    pub const fn regions(mut self, regions: Regions) -> Self {
        self.regions = Some(regions);
        self
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

    /// Checks the parameters and makes the layout.
    ///
    /// # Errors
    ///
    /// [`LayoutError`], the first thing found wrong.
    pub fn build(self) -> Result<Layout, LayoutError> {
        let mode = self.mode;
        let upper = match mode {
            PagingMode::FourLevel => UPPER_4,
            PagingMode::FiveLevel => UPPER_5,
            PagingMode::TwoLevel | PagingMode::Pae => {
                return Err(LayoutError::WrongMode {
                    family: FAMILY,
                    mode,
                });
            }
        };
        let limit = last_mappable(mode);
        if self.last_ram > limit {
            return Err(LayoutError::RamBeyondMode {
                last_ram: self.last_ram,
                limit,
                mode,
            });
        }
        let mut builder = LayoutBuilder::new(mode, self.last_ram).frame_data(self.frame_data);
        for (kind, range) in upper.into_iter().chain(TAIL) {
            let range = match (kind, self.regions) {
                (AreaKind::DirectMap, Some(regions)) => regions.direct_map,
                (AreaKind::Vmalloc, Some(regions)) => regions.vmalloc,
                (AreaKind::Vmemmap, Some(regions)) => regions.vmemmap,
                (AreaKind::KasanShadow, Some(_)) => continue,
                _ => range,
            };
            builder = builder.area(kind, range, state(kind));
        }
        if let Some(image) = self.image {
            builder = builder.image(image);
        }
        builder.build()
    }
}

/// What kspace builds on x86-64; everything else it reserves as Linux does.
const fn state(kind: AreaKind) -> AreaState {
    match kind {
        AreaKind::DirectMap | AreaKind::CpuEntry | AreaKind::KernelImage | AreaKind::Fixmap => {
            AreaState::Built
        }
        _ => AreaState::Reserved,
    }
}

/// Linux's headers name many areas by the top-level slot they start at, counted from the end of the address space.
const fn slot_from_top(slot: i64, shift: u32) -> u64 {
    (slot << shift) as u64
}

const fn starts_at(row: Row, start: u64) -> bool {
    row.1.start().as_u64() == start
}

const fn ends_at(row: Row, end: u64) -> bool {
    row.1.end_u64() == end
}

/// Sorted, disjoint, page-aligned and inside the mode.
const fn well_formed(rows: &[Row], mode: PagingMode) -> bool {
    let mut index = 0;
    while index < rows.len() {
        let range = rows[index].1;
        if !range.is_aligned(crate::FRAME_SIZE)
            || !range.start().is_aligned(rows[index].0.alignment(mode))
            || !mode.contains(range.start())
            || !mode.contains(range.last())
            || (index > 0 && rows[index - 1].1.last().as_u64() >= range.start().as_u64())
        {
            return false;
        }
        index += 1;
    }
    true
}

const _: () = {
    assert!(well_formed(&UPPER_4, PagingMode::FourLevel));
    assert!(well_formed(&UPPER_5, PagingMode::FiveLevel));
    assert!(well_formed(&TAIL, PagingMode::FourLevel));
    assert!(UPPER_4[6].1.last().as_u64() < TAIL[0].1.start().as_u64());
    assert!(UPPER_5[6].1.last().as_u64() < TAIL[0].1.start().as_u64());
};

// asm/pgtable_64_types.h and asm/page_64_types.h, 4-level: slots of 2^39.
const _: () = {
    const TIB: u64 = 1 << 40;
    assert!(starts_at(UPPER_4[1], slot_from_top(-256, 39)) && UPPER_4[1].1.size() == 16 << 39);
    assert!(starts_at(UPPER_4[2], slot_from_top(-240, 39)) && UPPER_4[2].1.size() == 1 << 39);
    assert!(UPPER_4[3].1.start().as_u64() == slot_from_top(273 - 512, 39));
    assert!(UPPER_4[3].1.size() == 64 * TIB && UPPER_4[3].1.size() == 1 << 46);
    assert!(UPPER_4[4].1.size() == 32 * TIB);
    // One 64-byte record for each 4 KiB frame that 46 bits can name.
    assert!(UPPER_4[5].1.size() == (1 << (46 - 12)) * 64);
    // One shadow byte for every eight of the upper half of 2^47 bytes.
    assert!(UPPER_4[6].1.size() == 1 << (47 - 3));
    assert!(ends_at(UPPER_4[6], 0xffff_fc00_0000_0000));
};

// The same, 5-level: slots of 2^48.
const _: () = {
    const TIB: u64 = 1 << 40;
    assert!(starts_at(UPPER_5[1], slot_from_top(-256, 48)) && UPPER_5[1].1.size() == 16 << 48);
    assert!(starts_at(UPPER_5[2], slot_from_top(-240, 48)) && UPPER_5[2].1.size() == 1 << 48);
    assert!(UPPER_5[3].1.start().as_u64() == slot_from_top(273 - 512, 48));
    assert!(UPPER_5[3].1.size() == 32 << 50);
    assert!(UPPER_5[4].1.size() == 12800 * TIB);
    assert!(UPPER_5[5].1.size() == 1 << 49);
    assert!(UPPER_5[5].1.size() >= (1 << (52 - 12)) * 64);
    assert!(ends_at(UPPER_5[6], 0xffff_fc00_0000_0000));
};

// The tail: CPU_ENTRY_AREA_PGD -4, ESPFIX_PGD_ENTRY -2, EFI_VA_START -4G down to EFI_VA_END -68G, the image in the last 2 GiB.
const _: () = {
    const GIB: u64 = 1 << 30;
    assert!(starts_at(TAIL[0], slot_from_top(-4, 39)) && TAIL[0].1.size() == 1 << 39);
    assert!(starts_at(TAIL[1], slot_from_top(-2, 39)) && TAIL[1].1.size() == 1 << 39);
    assert!(starts_at(TAIL[2], 0u64.wrapping_sub(68 * GIB)) && TAIL[2].1.size() == 64 * GIB);
    assert!(starts_at(TAIL[3], 0u64.wrapping_sub(2 * GIB)) && TAIL[3].1.size() == GIB);
    assert!(starts_at(TAIL[4], 0u64.wrapping_sub(GIB)) && TAIL[4].1.size() == 1008 << 20);
    assert!(starts_at(TAIL[7], 0u64.wrapping_sub(10 << 20)) && TAIL[7].1.size() == 4096);
    assert!(MOVABLE_END.as_u64() == TAIL[0].1.start().as_u64());
    assert!(DEFAULT_IMAGE_START.as_u64() == IMAGE_WINDOW.start().as_u64() + (16 << 20));
};
