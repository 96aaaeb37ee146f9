//! Memory types, and the page attribute table (PAT) that gives them three-bit names in the entries.
//!
//! ```text
//!   entry bits PAT PCD PWT   index   Linux's table     after reset
//!              0   0   0     0       write-back        write-back
//!              0   0   1     1       write-combining   write-through
//!              0   1   0     2       uncached-minus    uncached-minus
//!              0   1   1     3       uncached          uncached
//!              1   0   0     4       write-back        write-back
//!              1   0   1     5       write-protected   write-through
//!              1   1   0     6       uncached-minus    uncached-minus
//!              1   1   1     7       write-through     uncached
//! ```

use core::fmt;

/// How the CPU caches a page (Intel SDM vol. 3, section 13.3 and table 13-10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum CacheType {
    /// Ordinary memory.
    #[default]
    WriteBack,
    /// Reads are cached, writes go to memory at once.
    WriteThrough,
    /// Not cached, unless an MTRR says write-combining.
    UncachedMinus,
    /// Not cached, accesses in program order: device registers.
    Uncached,
    /// Not cached, writes gathered: frame buffers.
    WriteCombining,
    /// Reads are cached, writes go to memory and drop the line.
    WriteProtected,
}

impl CacheType {
    /// The byte that stands for this type in the PAT MSR (Intel SDM vol. 3, table 13-10).
    #[inline]
    #[must_use]
    pub const fn pat_code(self) -> u8 {
        match self {
            Self::Uncached => 0,
            Self::WriteCombining => 1,
            Self::WriteThrough => 4,
            Self::WriteProtected => 5,
            Self::WriteBack => 6,
            Self::UncachedMinus => 7,
        }
    }

    /// The type that a byte of the PAT MSR names; `None` for the reserved codes, which the CPU refuses to load.
    #[inline]
    #[must_use]
    pub const fn from_pat_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Uncached,
            1 => Self::WriteCombining,
            4 => Self::WriteThrough,
            5 => Self::WriteProtected,
            6 => Self::WriteBack,
            7 => Self::UncachedMinus,
            _ => return None,
        })
    }
}

impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::WriteBack => "write-back",
            Self::WriteThrough => "write-through",
            Self::UncachedMinus => "uncached-minus",
            Self::Uncached => "uncached",
            Self::WriteCombining => "write-combining",
            Self::WriteProtected => "write-protected",
        })
    }
}

/// The page attribute table: which [`CacheType`] each of the eight indices in an entry selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pat([CacheType; 8]);

impl Pat {
    /// The number of the MSR that holds the table, IA32_PAT (Intel SDM vol. 4, table 2-2).
    pub const MSR: u32 = 0x277;

    /// The table Linux programs (`pat_bp_init` in arch/x86/mm/pat/memtype.c), and ours: every type has an index, and index 0 is
    /// write-back, so that an entry without cache bits maps ordinary memory.
    pub const LINUX: Self = Self([
        CacheType::WriteBack,
        CacheType::WriteCombining,
        CacheType::UncachedMinus,
        CacheType::Uncached,
        CacheType::WriteBack,
        CacheType::WriteProtected,
        CacheType::UncachedMinus,
        CacheType::WriteThrough,
    ]);

    /// The table after a reset (Intel SDM vol. 3, section 13.12.4), in force until the kernel loads its own.
    pub const RESET: Self = Self([
        CacheType::WriteBack,
        CacheType::WriteThrough,
        CacheType::UncachedMinus,
        CacheType::Uncached,
        CacheType::WriteBack,
        CacheType::WriteThrough,
        CacheType::UncachedMinus,
        CacheType::Uncached,
    ]);

    /// Reads a value of the MSR; `None` when one of its bytes is a reserved code.
    #[must_use]
    pub const fn from_msr(value: u64) -> Option<Self> {
        let mut table = [CacheType::WriteBack; 8];
        let mut index = 0;
        while index < 8 {
            match CacheType::from_pat_code((value >> (8 * index)) as u8) {
                Some(cache) => table[index] = cache,
                None => return None,
            }
            index += 1;
        }
        Some(Self(table))
    }

    /// The value to load into the MSR.
    #[must_use]
    pub const fn msr(self) -> u64 {
        let mut value = 0;
        let mut index = 0;
        while index < 8 {
            value |= (self.0[index].pat_code() as u64) << (8 * index);
            index += 1;
        }
        value
    }

    /// The type that `index` selects. Only the low three bits of `index` count.
    #[inline]
    #[must_use]
    pub const fn cache(self, index: u8) -> CacheType {
        self.0[(index & 7) as usize]
    }

    /// The lowest index that selects `cache`; `None` when the table lacks the type.
    #[inline]
    #[must_use]
    pub const fn index(self, cache: CacheType) -> Option<u8> {
        let mut index = 0;
        while index < 8 {
            if self.0[index].pat_code() == cache.pat_code() {
                return Some(index as u8);
            }
            index += 1;
        }
        None
    }
}
