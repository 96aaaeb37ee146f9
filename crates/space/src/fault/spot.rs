//! What lies at an address, as precisely as layout, kernel image and memory map can say.

use core::fmt;

use kspace_frames::{MemoryKind, MemoryMap};
use kspace_layout::{
    Area, AreaKind, AreaState, ByteSize, EntryPlace, FRAME_SIZE, Fixmap, FixmapSlot, Hole,
    KernelImage, Layout, PagingMode, PhysAddr, Place, Section, SectionKind, VirtAddr,
};

use super::AreaSpot;
use crate::direct_map::FIRST_MIB;
use crate::fixmap::SlotSpot;

/// What lies at an address. Its `Display` names it: `kernel text, 4.1 KiB into .text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// The first page of the address space, where null pointers lead.
    Null {
        /// How far from zero.
        offset: u64,
    },
    /// A section of the kernel image.
    Section {
        /// Which.
        kind: SectionKind,
        /// How far into it.
        offset: u64,
    },
    /// Inside the kernel image, between two sections, or before the first or behind the last.
    BetweenSections {
        /// The one below.
        below: Option<SectionKind>,
        /// The one above.
        above: Option<SectionKind>,
    },
    /// In the area of the kernel image, outside the image.
    BesideImage {
        /// How far behind the image's last byte; `None` below the image.
        behind: Option<u64>,
    },
    /// The direct map.
    DirectMap {
        /// Of which physical address.
        phys: PhysAddr,
        /// What that is.
        backing: Backing,
    },
    /// The CPU entry area.
    CpuEntry(EntryPlace),
    /// The fixmap.
    Fixmap(Option<FixmapSlot>),
    /// A slot of the fixmap, and what it shows.
    Slot(SlotSpot),
    /// An area that is mapped on demand, or was, or its guard page.
    OnDemand(AreaSpot),
    /// Any other area.
    Area {
        /// The area.
        area: Area,
        /// How far into it.
        offset: u64,
    },
    /// No area.
    Hole(Hole),
    /// Not an address of the paging mode.
    OutsideMode(PagingMode),
}

/// What a physical address behind the direct map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// RAM, or part of the first MiB, which is always mapped.
    Mapped {
        /// The section of the kernel image that lies there too.
        section: Option<SectionKind>,
    },
    /// Not RAM: what the firmware says it is, if anything.
    NotRam(Option<MemoryKind>),
    /// Behind all RAM that is mapped.
    Beyond {
        /// The last byte that the direct map covers.
        last: PhysAddr,
    },
}

impl Spot {
    /// What lies at `address`.
    #[must_use]
    pub fn of(layout: &Layout, map: &MemoryMap, address: VirtAddr) -> Self {
        if address.as_u64() < FRAME_SIZE {
            return Self::Null {
                offset: address.as_u64(),
            };
        }
        // On 32 bits the image is part of the direct map, and the more precise answer.
        if let Some(image) = layout.image()
            && image.virt().contains(address)
        {
            return Self::in_image(image, address);
        }
        match layout.find(address) {
            Place::OutsideMode(mode) => Self::OutsideMode(mode),
            Place::Hole(hole) => Self::Hole(hole),
            Place::Area { area, offset } => Self::in_area(layout, map, area, offset, address),
        }
    }

    /// Whether it belongs to user mode.
    pub(super) fn is_user(&self) -> bool {
        match self {
            Self::Null { .. } => true,
            Self::Area { area, .. } => area.kind() == AreaKind::User,
            _ => false,
        }
    }

    fn in_area(
        layout: &Layout,
        map: &MemoryMap,
        area: Area,
        offset: u64,
        address: VirtAddr,
    ) -> Self {
        let precise = match area.kind() {
            AreaKind::DirectMap => PhysAddr::try_new(offset).ok().map(|phys| Self::DirectMap {
                phys,
                backing: Backing::of(layout, map, phys),
            }),
            AreaKind::KernelImage => layout.image().map(|image| Self::BesideImage {
                behind: address.offset_from(image.virt().last()),
            }),
            AreaKind::CpuEntry => layout
                .cpu_entry()
                .and_then(|area| area.locate(address))
                .map(Self::CpuEntry),
            AreaKind::Fixmap | AreaKind::EarlyFixmap => layout
                .fixmap()
                .map(|map| Self::Fixmap(map.slot_at(address))),
            _ => None,
        };
        precise.unwrap_or(Self::Area { area, offset })
    }

    fn in_image(image: &KernelImage, address: VirtAddr) -> Self {
        if let Some(Section { kind, range }) = image.section_at(address) {
            let offset = address.as_u64() - range.start().as_u64();
            return Self::Section { kind, offset };
        }
        let below = image
            .sections()
            .filter(|section| section.range.last() < address);
        let above = image
            .sections()
            .filter(|section| section.range.start() > address);
        Self::BetweenSections {
            below: below
                .max_by_key(|section| section.range.last())
                .map(|section| section.kind),
            above: above
                .min_by_key(|section| section.range.start())
                .map(|section| section.kind),
        }
    }
}

impl Backing {
    fn of(layout: &Layout, map: &MemoryMap, phys: PhysAddr) -> Self {
        match layout.direct_mapped() {
            Some(covered) if !covered.contains(phys) && !FIRST_MIB.contains(phys) => {
                return Self::Beyond {
                    last: covered.last(),
                };
            }
            _ => {}
        }
        let kind = map.kind_at(phys);
        if kind != Some(MemoryKind::Ram) && !FIRST_MIB.contains(phys) {
            return Self::NotRam(kind);
        }
        let image = layout.image();
        let section = image.and_then(|image| image.section_at(image.phys_to_virt(phys)?));
        Self::Mapped {
            section: section.map(|section| section.kind),
        }
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Null { offset: 0 } => f.write_str("null pointer"),
            Self::Null { offset } => write!(f, "null pointer plus {}", ByteSize(offset)),
            Self::Section { kind, offset } => {
                write!(
                    f,
                    "{}, {}",
                    words(kind),
                    Inside {
                        offset,
                        name: kind.name()
                    }
                )
            }
            Self::BetweenSections {
                below: Some(below),
                above: Some(above),
            } => {
                write!(f, "kernel image, between {below} and {above}")
            }
            Self::BetweenSections {
                below: Some(below),
                above: None,
            } => {
                write!(f, "kernel image, behind {below}")
            }
            Self::BetweenSections {
                below: None,
                above: Some(above),
            } => {
                write!(f, "kernel image, before {above}")
            }
            Self::BetweenSections {
                below: None,
                above: None,
            } => f.write_str("kernel image, which has no sections"),
            Self::BesideImage {
                behind: Some(bytes),
            } => {
                write!(f, "{} behind the end of the kernel image", ByteSize(bytes))
            }
            Self::BesideImage { behind: None } => {
                f.write_str("below the kernel image, in the area kept for it")
            }
            Self::DirectMap { phys, backing } => write_direct_map(f, phys, backing),
            Self::CpuEntry(EntryPlace::Part { cpu, part, offset }) => {
                write!(f, "CPU {cpu}'s {part}, {} into it", ByteSize(offset))
            }
            Self::CpuEntry(place) => place.fmt(f),
            Self::Fixmap(Some(slot)) => write_slot(f, slot),
            Self::Slot(spot) => spot.fmt(f),
            Self::Fixmap(None) => f.write_str("fixmap, where no slot is"),
            Self::OnDemand(spot) => spot.fmt(f),
            Self::Area { area, offset } => {
                Inside {
                    offset,
                    name: area.name(),
                }
                .fmt(f)?;
                if area.kind() == AreaKind::User {
                    return Ok(());
                }
                match area.state() {
                    AreaState::Built => Ok(()),
                    AreaState::Reserved => {
                        f.write_str(", a reserved area in which nothing is built")
                    }
                }
            }
            Self::Hole(hole) => hole.fmt(f),
            Self::OutsideMode(mode) => write!(f, "not an address of {mode} paging"),
        }
    }
}

/// `slot 514 (local APIC) of the fixmap`.
pub(crate) fn write_slot(f: &mut fmt::Formatter<'_>, slot: FixmapSlot) -> fmt::Result {
    match Fixmap.number(slot) {
        Some(number) => write!(f, "slot {number} ({slot}) of the fixmap"),
        None => write!(f, "no slot of the fixmap ({slot})"),
    }
}

fn write_direct_map(f: &mut fmt::Formatter<'_>, phys: PhysAddr, backing: Backing) -> fmt::Result {
    match backing {
        Backing::Mapped {
            section: Some(section),
        } => {
            write!(f, "direct map of physical {phys}, where {section} lies")
        }
        Backing::Mapped { section: None } => write!(f, "direct map of physical {phys}"),
        Backing::NotRam(Some(kind)) => {
            write!(
                f,
                "direct map, but physical {phys} is not RAM, it is {kind}"
            )
        }
        Backing::NotRam(None) => {
            write!(
                f,
                "direct map, but physical {phys} is not RAM, it is in no entry of the memory map"
            )
        }
        Backing::Beyond { last } => {
            write!(
                f,
                "direct map, but physical {phys} is behind the end of RAM, {last}"
            )
        }
    }
}

/// `4.1 KiB into .text`.
struct Inside {
    offset: u64,
    name: &'static str,
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            0 => write!(f, "the start of {}", self.name),
            offset => write!(f, "{} into {}", ByteSize(offset), self.name),
        }
    }
}

const fn words(kind: SectionKind) -> &'static str {
    match kind {
        SectionKind::Text => "kernel text",
        SectionKind::Rodata => "kernel constants",
        SectionKind::Data | SectionKind::Bss => "kernel data",
        SectionKind::InitText => "kernel text for booting",
        SectionKind::InitData => "kernel data for booting",
    }
}
