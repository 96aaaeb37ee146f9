//! The sizes of page that x86 can map with one entry.

use core::fmt;

/// A page size of x86 paging (Intel SDM vol. 3, section 5.1.1). Ordered from small to large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4 KiB: every mode.
    Size4K,
    /// 2 MiB: PAE, 4-level and 5-level.
    Size2M,
    /// 4 MiB: 32-bit two-level paging with PSE.
    Size4M,
    /// 1 GiB: 4-level and 5-level, where the CPU has them (CPUID 80000001h, EDX bit 26).
    Size1G,
}

impl PageSize {
    /// The size in bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.bits()
    }

    /// The number of address bits inside a page: 12, 21, 22 or 30.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Size4K => 12,
            Self::Size2M => 21,
            Self::Size4M => 22,
            Self::Size1G => 30,
        }
    }

    /// The name Linux prints in its boot log: `4k`, `2M`, `4M`, `1G`.
    #[inline]
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Size4K => "4k",
            Self::Size2M => "2M",
            Self::Size4M => "4M",
            Self::Size1G => "1G",
        }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
