//! Sections: memory in pieces of 128 MiB, of which Linux notes whether there is RAM at all (`SECTION_SIZE_BITS`,
//! arch/x86/include/asm/sparsemem.h). Plugged-in memory comes in whole sections.

use kspace_layout::{PhysAddr, PhysRange};

use super::Nodes;

/// Bytes of a section, on 64 bits.
pub const SECTION_BYTES: u64 = 1 << 27;

/// A section, by number: its address divided by 128 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Section(u32);

impl Section {
    /// The section that holds an address.
    #[must_use]
    pub const fn of(address: PhysAddr) -> Self {
        // 52 bits of address are 25 bits of section.
        Self((address.as_u64() / SECTION_BYTES) as u32)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Its addresses.
    #[must_use]
    pub const fn range(self) -> PhysRange {
        PhysRange::new(PhysAddr::new(self.0 as u64 * SECTION_BYTES), SECTION_BYTES)
    }
}

impl Nodes {
    /// The sections in which there is RAM, in order.
    pub fn sections(&self) -> impl Iterator<Item = Section> + Clone + '_ {
        let mut next = 0;
        self.blocks()
            .flat_map(|block| {
                Section::of(block.range.start()).0..=Section::of(block.range.last()).0
            })
            .filter(move |number| {
                let new = *number >= next;
                next = next.max(number + 1);
                new
            })
            .map(Section)
    }

    /// Whether there is RAM in a section.
    #[must_use]
    pub fn is_populated(&self, section: Section) -> bool {
        self.blocks()
            .any(|block| block.range.overlaps(section.range()))
    }
}
