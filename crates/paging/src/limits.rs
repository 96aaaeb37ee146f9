//! What the machine at hand can do with page-table entries.

use kspace_layout::{PHYS_ADDR_BITS, PageSize, PagingMode};

use crate::Pat;

/// The machine's side of paging: which bits of an entry it reserves, which page sizes it has, what its cache bits mean.
///
/// [`WIDEST`](Self::WIDEST) forbids nothing; a kernel narrows it by what CPUID says, an inspector by what the dump says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    phys_bits: u32,
    no_execute: bool,
    large_pages: bool,
    gigabyte_pages: bool,
    encryption_mask: u64,
    pat: Pat,
}

impl Limits {
    /// 52 physical bits, no-execute, every page size, no encryption bit, Linux's PAT.
    pub const WIDEST: Self = Self {
        phys_bits: PHYS_ADDR_BITS,
        no_execute: true,
        large_pages: true,
        gigabyte_pages: true,
        encryption_mask: 0,
        pat: Pat::LINUX,
    };

    /// MAXPHYADDR, from CPUID 80000008h EAX bits 0 to 7; wider bits of an entry are reserved. Brought into 32 to 52, the only
    /// values that x86 knows.
    #[must_use]
    pub const fn with_phys_bits(self, bits: u32) -> Self {
        let bits = if bits < 32 {
            32
        } else if bits > PHYS_ADDR_BITS {
            PHYS_ADDR_BITS
        } else {
            bits
        };
        Self {
            phys_bits: bits,
            ..self
        }
    }

    /// Whether EFER.NXE is set. Without it bit 63 of an entry is reserved, and everything mapped is executable.
    #[must_use]
    pub const fn with_no_execute(self, enabled: bool) -> Self {
        Self {
            no_execute: enabled,
            ..self
        }
    }

    /// Whether CR4.PSE is set: 4 MiB pages in 32-bit two-level paging. The other modes have 2 MiB pages without it.
    #[must_use]
    pub const fn with_large_pages(self, enabled: bool) -> Self {
        Self {
            large_pages: enabled,
            ..self
        }
    }

    /// Whether the CPU has 1 GiB pages (CPUID 80000001h EDX bit 26). Without them the bit that asks for one is reserved.
    #[must_use]
    pub const fn with_gigabyte_pages(self, enabled: bool) -> Self {
        Self {
            gigabyte_pages: enabled,
            ..self
        }
    }

    /// Physical-address bits that say "encrypted" instead (AMD SME and SEV: the C-bit, CPUID 8000001Fh EBX bits 0 to 5). They
    /// are neither address nor reserved.
    #[must_use]
    pub const fn with_encryption_mask(self, mask: u64) -> Self {
        Self {
            encryption_mask: mask,
            ..self
        }
    }

    /// The page attribute table in force.
    #[must_use]
    pub const fn with_pat(self, pat: Pat) -> Self {
        Self { pat, ..self }
    }

    /// MAXPHYADDR.
    #[inline]
    #[must_use]
    pub const fn phys_bits(self) -> u32 {
        self.phys_bits
    }

    /// Whether no-execute is enabled.
    #[inline]
    #[must_use]
    pub const fn no_execute(self) -> bool {
        self.no_execute
    }

    /// Whether two-level paging has 4 MiB pages.
    #[inline]
    #[must_use]
    pub const fn large_pages(self) -> bool {
        self.large_pages
    }

    /// Whether there are 1 GiB pages.
    #[inline]
    #[must_use]
    pub const fn gigabyte_pages(self) -> bool {
        self.gigabyte_pages
    }

    /// The physical-address bits that mean "encrypted".
    #[inline]
    #[must_use]
    pub const fn encryption_mask(self) -> u64 {
        self.encryption_mask
    }

    /// The page attribute table.
    #[inline]
    #[must_use]
    pub const fn pat(self) -> Pat {
        self.pat
    }

    /// The level of the largest page that `mode` has on this machine and that is not larger than `cap`.
    #[inline]
    #[must_use]
    pub const fn largest_leaf_level(self, mode: PagingMode, cap: PageSize) -> u8 {
        let mut level = mode.levels();
        while level > 1 {
            if let Some(size) = mode.leaf_size(level)
                && size.bytes() <= cap.bytes()
                && match size {
                    PageSize::Size1G => self.gigabyte_pages,
                    PageSize::Size4M => self.large_pages,
                    PageSize::Size4K | PageSize::Size2M => true,
                }
            {
                return level;
            }
            level -= 1;
        }
        1
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::WIDEST
    }
}
