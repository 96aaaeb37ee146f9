//! What can be wrong with a layout, and with a question put to one.

use core::fmt;

use crate::{
    AddressError, Area, ByteSize, PagingMode, PhysAddr, PhysRange, Place, Section, VirtAddr,
    VirtRange,
};

/// Why areas and an image do not make a layout. Nothing is changed by a failed build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// More areas than a layout has room for.
    TooManyAreas {
        /// The first that found no room.
        area: Area,
        /// How many fit.
        capacity: usize,
    },
    /// Two areas of one kind (custom areas: of one name).
    Duplicate {
        /// The lower of the two.
        first: Area,
        /// The higher.
        second: Area,
    },
    /// An area starts or ends between the boundaries its kind needs.
    Misaligned {
        /// The area.
        area: Area,
        /// What its start must be a multiple of, in bytes. Its size must be one of 4 KiB.
        align: u64,
    },
    /// An area has addresses that the paging mode does not.
    OutsideMode {
        /// The area.
        area: Area,
        /// The mode.
        mode: PagingMode,
    },
    /// Two areas share addresses.
    Overlap {
        /// The one that starts first; of two that start together, the larger.
        lower: Area,
        /// The other.
        upper: Area,
    },
    /// The direct map of a 64-bit mode does not reach the end of RAM.
    DirectMapTooSmall {
        /// The direct map.
        area: Area,
        /// The last byte of RAM.
        last_ram: PhysAddr,
    },
    /// The records for all frames do not fit in vmemmap.
    VmemmapTooSmall {
        /// The vmemmap area.
        area: Area,
        /// Bytes of all records.
        needed: u64,
        /// Bytes of each record.
        frame_data: u64,
    },
    /// A record of no bytes, or of more than a frame.
    FrameData(u64),
    /// The paging mode is not one that this family of layouts has.
    WrongMode {
        /// The family, `x86-64` or `i386`.
        family: &'static str,
        /// The mode asked for.
        mode: PagingMode,
    },
    /// RAM lies where the mode's direct map cannot reach.
    RamBeyondMode {
        /// The last byte of RAM.
        last_ram: PhysAddr,
        /// The last byte that can be reached.
        limit: PhysAddr,
        /// The mode.
        mode: PagingMode,
    },
    /// The kernel image does not start on a page, in virtual or in physical memory.
    ImageMisaligned {
        /// Where it lies in virtual memory.
        virt: VirtRange,
        /// Where it lies in physical memory.
        phys: PhysRange,
    },
    /// The kernel image lies outside the area meant for it.
    ImageOutside {
        /// Where the image lies.
        image: VirtRange,
        /// The area that must hold it; `None` when the layout has no such area.
        area: Option<Area>,
    },
    /// The image of a 32-bit kernel does not lie where the direct map puts the memory behind it.
    ImageOffset {
        /// Where the image lies.
        image: VirtRange,
        /// Where the direct map has its memory; `None` when that is high memory.
        mapped: Option<VirtAddr>,
        /// Where its memory is.
        phys: PhysRange,
    },
    /// The image lies beyond the last byte of RAM.
    ImageNotInRam {
        /// Where its memory is said to be.
        phys: PhysRange,
        /// The last byte of RAM.
        last_ram: PhysAddr,
    },
    /// A section reaches out of the image.
    SectionOutside {
        /// The section.
        section: Section,
        /// The image.
        image: VirtRange,
    },
    /// Two sections share addresses.
    SectionsOverlap {
        /// The one that starts first.
        lower: Section,
        /// The other.
        upper: Section,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("layout: ")?;
        match *self {
            Self::TooManyAreas { area, capacity } => {
                write!(
                    f,
                    "{area} is one area too many; at most {capacity} fit, leave out or join some"
                )
            }
            Self::Duplicate { first, second } => {
                let kind = first.kind();
                write!(
                    f,
                    "{kind} is there twice, {} and {}; leave one out",
                    first.range(),
                    second.range()
                )
            }
            Self::Misaligned { area, align } => write_misaligned(f, area, align),
            Self::OutsideMode { area, mode } => {
                write!(
                    f,
                    "{area} is not all within the {} bits of {mode} paging; move or shrink it",
                    mode.virt_bits()
                )
            }
            Self::Overlap { lower, upper } => write_overlap(f, lower, upper),
            Self::DirectMapTooSmall { area, last_ram } => write!(
                f,
                "{area} covers {} of physical memory, but RAM ends at {last_ram}; enlarge it or use less RAM (mem=)",
                ByteSize(area.range().size()),
            ),
            Self::VmemmapTooSmall {
                area,
                needed,
                frame_data,
            } => write!(
                f,
                "{area} holds {}, but records of {} for all frames need {}; enlarge it or shrink the record",
                ByteSize(area.range().size()),
                ByteSize(frame_data),
                ByteSize(needed),
            ),
            Self::FrameData(bytes) => {
                write!(
                    f,
                    "a record of {} per frame is refused; ask for 1 to 4096 bytes",
                    ByteSize(bytes)
                )
            }
            Self::WrongMode { family, mode } => {
                write!(
                    f,
                    "{family} has no {mode} paging; choose a mode of {family}"
                )
            }
            Self::RamBeyondMode {
                last_ram,
                limit,
                mode,
            } => {
                write!(
                    f,
                    "RAM ends at {last_ram}, {mode} paging reaches {limit}; use less RAM (mem=)"
                )
            }
            Self::ImageMisaligned { virt, phys } => {
                write!(
                    f,
                    "kernel image {virt} at physical {phys} does not start on a page; link or load it at a multiple of 4 KiB"
                )
            }
            Self::ImageOutside {
                image,
                area: Some(area),
            } => {
                write!(
                    f,
                    "kernel image {image} is not inside {area}; link it there or move the area"
                )
            }
            Self::ImageOutside { image, area: None } => {
                write!(f, "kernel image {image} has no area to lie in; add one")
            }
            Self::ImageOffset {
                image,
                mapped: Some(mapped),
                phys,
            } => write!(
                f,
                "kernel image {image} is at physical {phys}, which the direct map has at {mapped}; link it there or load it elsewhere",
            ),
            Self::ImageOffset {
                image,
                mapped: None,
                phys,
            } => write!(
                f,
                "kernel image {image} is at physical {phys}, which is high memory; load it lower",
            ),
            Self::ImageNotInRam { phys, last_ram } => {
                write!(
                    f,
                    "kernel image at physical {phys}, but RAM ends at {last_ram}; give the image's real place"
                )
            }
            Self::SectionOutside { section, image } => {
                write!(
                    f,
                    "section {section} is not inside the kernel image {image}; check the linker script"
                )
            }
            Self::SectionsOverlap { lower, upper } => {
                write!(
                    f,
                    "sections {lower} and {upper} overlap; check the linker script"
                )
            }
        }
    }
}

impl core::error::Error for LayoutError {}

fn write_misaligned(f: &mut fmt::Formatter<'_>, area: Area, align: u64) -> fmt::Result {
    if area.range().start().is_aligned(align) {
        write!(
            f,
            "{area} has a size of {:#x}; make it a multiple of 4 KiB",
            area.range().size()
        )
    } else {
        write!(
            f,
            "{area} does not start on a multiple of {}; move it down to {}",
            ByteSize(align),
            area.range().start().align_down(align),
        )
    }
}

fn write_overlap(f: &mut fmt::Formatter<'_>, lower: Area, upper: Area) -> fmt::Result {
    let (low, high) = (lower.range(), upper.range());
    let inside = low.contains_range(high);
    let how = if inside { "lies inside" } else { "overlaps" };
    write!(f, "{upper} {how} {lower}; ")?;
    match high.start().offset_from(low.start()) {
        // Shrinking the lower one to nothing would be no advice.
        None | Some(0) => write!(f, "move one of them"),
        Some(_) => {
            // Both hold `high.start()`, so the subtraction cannot wrap, and the sum is at most 2^63.
            let excess = low.last().as_u64() - high.start().as_u64() + 1;
            let (up, down) = (upper.name(), lower.name());
            write!(f, "move {up} up or shrink {down} by {}", ByteSize(excess))
        }
    }
}

/// Why an address has no translation by arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TranslateError {
    /// The layout has no direct map.
    NoDirectMap,
    /// The direct map does not reach this physical address.
    BeyondDirectMap {
        /// The address.
        phys: PhysAddr,
        /// The last physical address that the direct map covers.
        last: PhysAddr,
    },
    /// The virtual address is neither in the covered part of the direct map nor in the kernel image.
    NotLinear {
        /// The address.
        virt: VirtAddr,
        /// Where it lies instead.
        place: Place,
    },
}

impl fmt::Display for TranslateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoDirectMap => f.write_str("layout: there is no direct map; add an area for it"),
            Self::BeyondDirectMap { phys, last } => write!(
                f,
                "physical {phys}: the direct map ends at physical {last}; map the address into vmalloc instead",
            ),
            Self::NotLinear { virt, place } => write!(
                f,
                "{virt}: {place}, neither in what the direct map covers nor in the image; walk the page tables",
            ),
        }
    }
}

impl core::error::Error for TranslateError {}

/// Why a family's parameters do not make a layout of 32-bit x86.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum I386Error {
    /// The split puts user and kernel into one 1 GiB part, which PAE cannot do.
    SplitNeedsTwoLevel(crate::Split),
    /// `reservetop=` leaves no room for the kernel's fixed areas.
    ReserveTop {
        /// Bytes to be reserved.
        reserve: u64,
        /// The most that leaves room.
        most: u64,
    },
    /// `vmalloc=` leaves too little lowmem.
    Vmalloc {
        /// Bytes of the vmalloc area asked for.
        vmalloc: u64,
        /// The largest that leaves 64 MiB of lowmem.
        most: u64,
    },
    /// The fixmap or the CPU entry area is so large that no room is left between them and user space.
    NoRoom {
        /// Bytes that the fixmap, the CPU entry area and what lies between them need.
        needed: u64,
        /// Bytes between user space and the top.
        room: u64,
    },
    /// The checks of every layout found something.
    Layout(LayoutError),
    /// An address came out wrong.
    Address(AddressError),
}

impl fmt::Display for I386Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SplitNeedsTwoLevel(split) => write!(
                f,
                "layout: split {split} divides a part of 1 GiB between user and kernel, which PAE cannot; choose 3G, 2G or 1G, or no PAE",
            ),
            Self::ReserveTop { reserve, most } => write!(
                f,
                "layout: reservetop= of {} leaves no room for the kernel; give at most {}",
                ByteSize(reserve),
                ByteSize(most),
            ),
            Self::Vmalloc { vmalloc, most } => write!(
                f,
                "layout: vmalloc= of {} leaves less than 64 MiB of lowmem; give at most {}",
                ByteSize(vmalloc),
                ByteSize(most),
            ),
            Self::NoRoom { needed, room } => write!(
                f,
                "layout: fixmap and cpu_entry_area need {}, the kernel has {}; support fewer CPUs",
                ByteSize(needed),
                ByteSize(room),
            ),
            Self::Layout(error) => error.fmt(f),
            Self::Address(error) => write!(f, "layout: {error}"),
        }
    }
}

impl core::error::Error for I386Error {}

impl From<LayoutError> for I386Error {
    fn from(error: LayoutError) -> Self {
        Self::Layout(error)
    }
}

impl From<AddressError> for I386Error {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}
