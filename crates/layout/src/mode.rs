//! The four paging modes of x86 and the constants of each.
//!
//! ```text
//!   mode        levels   entries per table (top .. leaf)   virtual bits   widest physical   page sizes
//!   TwoLevel       2          1024 1024                        32              40 (PSE-36)    4K 4M
//!   Pae            3          4 512 512                        32              52             4K 2M
//!   FourLevel      4          512 512 512 512                  48              52             4K 2M 1G
//!   FiveLevel      5          512 512 512 512 512              57              52             4K 2M 1G
//! ```

use core::fmt;

use crate::{PageSize, VirtAddr};

/// How the CPU translates addresses (Intel SDM vol. 3, section 5.1.1).
///
/// Levels are counted from the leaf: level 1 is the page table whose entries map 4 KiB, level 5 the PML5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PagingMode {
    /// 32-bit paging: two levels of 1024 4-byte entries.
    TwoLevel,
    /// PAE paging: four page-directory pointers, then two levels of 512 8-byte entries.
    Pae,
    /// 4-level paging: 48-bit addresses, four levels of 512 8-byte entries.
    FourLevel,
    /// 5-level paging (LA57): 57-bit addresses, five levels of 512 8-byte entries.
    FiveLevel,
}

impl PagingMode {
    /// All modes, narrowest first.
    pub const ALL: [Self; 4] = [Self::TwoLevel, Self::Pae, Self::FourLevel, Self::FiveLevel];

    /// Number of table levels: 2 to 5.
    #[inline]
    #[must_use]
    pub const fn levels(self) -> u8 {
        match self {
            Self::TwoLevel => 2,
            Self::Pae => 3,
            Self::FourLevel => 4,
            Self::FiveLevel => 5,
        }
    }

    /// Bits of a virtual address: 32, 48 or 57.
    #[inline]
    #[must_use]
    pub const fn virt_bits(self) -> u32 {
        match self {
            Self::TwoLevel | Self::Pae => 32,
            Self::FourLevel => 48,
            Self::FiveLevel => 57,
        }
    }

    /// Bits of the widest physical address that an entry can name: 40 with PSE-36 in two-level paging (4M pages only; 4K pages
    /// reach 32), else 52 (Intel SDM vol. 3, sections 5.3 to 5.5).
    #[inline]
    #[must_use]
    pub const fn max_phys_bits(self) -> u32 {
        match self {
            Self::TwoLevel => 40,
            Self::Pae | Self::FourLevel | Self::FiveLevel => 52,
        }
    }

    /// Bytes of one entry: 4 in two-level paging, else 8.
    #[inline]
    #[must_use]
    pub const fn entry_bytes(self) -> u64 {
        match self {
            Self::TwoLevel => 4,
            Self::Pae | Self::FourLevel | Self::FiveLevel => 8,
        }
    }

    /// Entries of a table at `level`: 1024 in two-level paging, 4 for the top of PAE, else 512.
    ///
    /// # Panics
    ///
    /// When the mode has no such level.
    #[inline]
    #[must_use]
    pub const fn entries(self, level: u8) -> u64 {
        assert!(
            level >= 1 && level <= self.levels(),
            "no such level in this paging mode"
        );
        match self {
            Self::TwoLevel => 1024,
            Self::Pae if level == 3 => 4,
            Self::Pae | Self::FourLevel | Self::FiveLevel => 512,
        }
    }

    /// The lowest address bit that selects an entry at `level`; 2 to that power is what one entry spans.
    ///
    /// # Panics
    ///
    /// When the mode has no such level.
    #[inline]
    #[must_use]
    pub const fn level_shift(self, level: u8) -> u32 {
        assert!(
            level >= 1 && level <= self.levels(),
            "no such level in this paging mode"
        );
        match self {
            Self::TwoLevel => 12 + 10 * (level as u32 - 1),
            Self::Pae | Self::FourLevel | Self::FiveLevel => 12 + 9 * (level as u32 - 1),
        }
    }

    /// Which entry of a table at `level` translates `address`.
    ///
    /// # Panics
    ///
    /// When the mode has no such level.
    #[inline]
    #[must_use]
    pub const fn index(self, address: VirtAddr, level: u8) -> u64 {
        (address.as_u64() >> self.level_shift(level)) & (self.entries(level) - 1)
    }

    /// The page size that a leaf at `level` maps; `None` where the mode has no leaves.
    #[inline]
    #[must_use]
    pub const fn leaf_size(self, level: u8) -> Option<PageSize> {
        match (self, level) {
            (_, 1) => Some(PageSize::Size4K),
            (Self::TwoLevel, 2) => Some(PageSize::Size4M),
            (Self::Pae | Self::FourLevel | Self::FiveLevel, 2) => Some(PageSize::Size2M),
            (Self::FourLevel | Self::FiveLevel, 3) => Some(PageSize::Size1G),
            _ => None,
        }
    }

    /// The level whose leaves have this size; `None` when the mode has no such pages.
    #[inline]
    #[must_use]
    pub const fn leaf_level(self, size: PageSize) -> Option<u8> {
        match (self, size) {
            (_, PageSize::Size4K) => Some(1),
            (Self::TwoLevel, PageSize::Size4M) => Some(2),
            (Self::Pae | Self::FourLevel | Self::FiveLevel, PageSize::Size2M) => Some(2),
            (Self::FourLevel | Self::FiveLevel, PageSize::Size1G) => Some(3),
            _ => None,
        }
    }

    /// Whether `address` is one that this mode can translate: below 4 GiB on 32 bits, canonical for 48 or 57 bits else.
    #[inline]
    #[must_use]
    pub const fn contains(self, address: VirtAddr) -> bool {
        let value = address.as_u64();
        match self {
            Self::TwoLevel | Self::Pae => value >> 32 == 0,
            Self::FourLevel => (((value << 16) as i64) >> 16) as u64 == value,
            Self::FiveLevel => true,
        }
    }

    /// The last address of the lower half, which user space gets: 2^47 - 1 or 2^56 - 1. On 32 bits there is one half: 2^32 - 1.
    #[inline]
    #[must_use]
    pub const fn lower_half_last(self) -> VirtAddr {
        VirtAddr::new(match self {
            Self::TwoLevel | Self::Pae => (1 << 32) - 1,
            Self::FourLevel => (1 << 47) - 1,
            Self::FiveLevel => (1 << 56) - 1,
        })
    }

    /// The first address of the upper half, which the kernel gets; `None` on 32 bits, where the split is the layout's choice.
    #[inline]
    #[must_use]
    pub const fn upper_half_start(self) -> Option<VirtAddr> {
        match self {
            Self::TwoLevel | Self::Pae => None,
            Self::FourLevel => Some(VirtAddr::new(0xffff_8000_0000_0000)),
            Self::FiveLevel => Some(VirtAddr::new(0xff00_0000_0000_0000)),
        }
    }
}

impl fmt::Display for PagingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TwoLevel => "32-bit",
            Self::Pae => "PAE",
            Self::FourLevel => "4-level",
            Self::FiveLevel => "5-level",
        })
    }
}
