//! The kernel image: where it was linked or moved to, where it lies in physical memory, and its sections.
//!
//! ```text
//!            virt                                        phys
//!   _text +--------------+ .text                     +--------------+
//!         |  InitText …  |        one offset  ---->  |              |
//!   _end  +--------------+ .bss                      +--------------+
//! ```
//!
//! A [`KernelImage`] is what the kernel knows about itself from its linker symbols. It is a claim until a
//! [`Layout`](crate::Layout) has been built with it, which checks that its sections are disjoint, inside the image, and the
//! image inside the area meant for it.

use core::fmt;

use crate::{AddressError, PhysAddr, PhysRange, VirtAddr, VirtRange};

/// What a section of the image holds, which decides how it may be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SectionKind {
    /// Code.
    Text,
    /// Constants.
    Rodata,
    /// Variables with an initial value.
    Data,
    /// Variables that start as zero.
    Bss,
    /// Code that is needed only while booting.
    InitText,
    /// Data that is needed only while booting.
    InitData,
}

impl SectionKind {
    /// All kinds, in the order of their declaration.
    pub const ALL: [Self; 6] = [
        Self::Text,
        Self::Rodata,
        Self::Data,
        Self::Bss,
        Self::InitText,
        Self::InitData,
    ];

    /// The section's usual name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => ".text",
            Self::Rodata => ".rodata",
            Self::Data => ".data",
            Self::Bss => ".bss",
            Self::InitText => ".init.text",
            Self::InitData => ".init.data",
        }
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A section of the image and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Section {
    /// What it holds.
    pub kind: SectionKind,
    /// Where it lies: from its first to its last byte, not rounded to pages.
    pub range: VirtRange,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.range)
    }
}

/// The kernel image: one piece of virtual memory backed by one piece of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KernelImage {
    virt: VirtRange,
    phys: PhysRange,
    sections: [Option<VirtRange>; SectionKind::ALL.len()],
}

impl KernelImage {
    /// The image that occupies `virt` and begins in physical memory at `phys`.
    ///
    /// # Errors
    ///
    /// [`AddressError::PhysOverflow`] when it would pass the last physical address.
    pub const fn try_new(virt: VirtRange, phys: PhysAddr) -> Result<Self, AddressError> {
        match PhysRange::try_new(phys, virt.size()) {
            Ok(phys) => Ok(Self {
                virt,
                phys,
                sections: [None; SectionKind::ALL.len()],
            }),
            Err(error) => Err(error),
        }
    }

    /// The image whose `sections` lie one behind the other, each up to the start of the next, and the last up to `end`; the first begins in
    /// physical memory at `phys`. A section of no bytes is left out.
    ///
    /// # Errors
    ///
    /// [`AddressError::EmptyRange`] without sections, [`AddressError::ReversedRange`] when they are not in ascending order,
    /// [`AddressError::PhysOverflow`] as [`try_new`](Self::try_new).
    pub fn try_from_sections(
        phys: PhysAddr,
        sections: &[(SectionKind, VirtAddr)],
        end: VirtAddr,
    ) -> Result<Self, AddressError> {
        let start = sections.first().map_or(end, |(_, start)| *start);
        let mut image = Self::try_new(span(start, end)?, phys)?;
        let ends = sections.iter().skip(1).map(|(_, start)| *start);
        for (&(kind, start), end) in sections.iter().zip(ends.chain([end])) {
            if start != end {
                image = image.with_section(kind, span(start, end)?);
            }
        }
        Ok(image)
    }

    /// The image with a section added, or put elsewhere if it had one of this kind.
    #[must_use]
    pub const fn with_section(mut self, kind: SectionKind, range: VirtRange) -> Self {
        self.sections[kind as usize] = Some(range);
        self
    }

    /// The same image with its first byte at other addresses, as KASLR moves it.
    ///
    /// # Errors
    ///
    /// [`AddressError`] when the image would not fit there.
    pub fn moved_to(self, virt: VirtAddr, phys: PhysAddr) -> Result<Self, AddressError> {
        let mut moved = Self::try_new(VirtRange::try_new(virt, self.virt.size())?, phys)?;
        for (from, to) in self.sections.iter().zip(&mut moved.sections) {
            if let Some(section) = from {
                // A section below its image has no offset; leave it where it is, for the layout to refuse by name.
                *to = match section.start().offset_from(self.virt.start()) {
                    Some(offset) => Some(VirtRange::try_new(
                        virt.checked_add(offset)?,
                        section.size(),
                    )?),
                    None => Some(*section),
                };
            }
        }
        Ok(moved)
    }

    /// Where the image lies in virtual memory.
    #[must_use]
    pub const fn virt(&self) -> VirtRange {
        self.virt
    }

    /// Where the image lies in physical memory.
    #[must_use]
    pub const fn phys(&self) -> PhysRange {
        self.phys
    }

    /// Where the section of this kind lies.
    #[must_use]
    pub const fn section(&self, kind: SectionKind) -> Option<VirtRange> {
        self.sections[kind as usize]
    }

    /// The sections the image has, in the order of [`SectionKind::ALL`].
    pub fn sections(&self) -> impl Iterator<Item = Section> + '_ {
        SectionKind::ALL
            .into_iter()
            .zip(self.sections)
            .filter_map(|(kind, range)| {
                Some(Section {
                    kind,
                    range: range?,
                })
            })
    }

    /// The section that holds `address`.
    #[must_use]
    pub fn section_at(&self, address: VirtAddr) -> Option<Section> {
        self.sections()
            .find(|section| section.range.contains(address))
    }

    /// The physical address behind `address`; `None` outside the image.
    #[must_use]
    pub fn virt_to_phys(&self, address: VirtAddr) -> Option<PhysAddr> {
        if !self.virt.contains(address) {
            return None;
        }
        let offset = address.offset_from(self.virt.start())?;
        self.phys.start().checked_add(offset).ok()
    }

    /// The virtual address in the image that `address` is behind; `None` outside the image.
    #[must_use]
    pub fn phys_to_virt(&self, address: PhysAddr) -> Option<VirtAddr> {
        if !self.phys.contains(address) {
            return None;
        }
        let offset = address.offset_from(self.phys.start())?;
        self.virt.start().checked_add(offset).ok()
    }
}

/// From `start` to the address before `end`.
fn span(start: VirtAddr, end: VirtAddr) -> Result<VirtRange, AddressError> {
    let (first, behind) = (start.as_u64(), end.as_u64());
    match behind.checked_sub(first) {
        Some(size) => VirtRange::try_new(start, size),
        None => Err(AddressError::ReversedRange {
            start: first,
            last: behind.wrapping_sub(1),
        }),
    }
}
