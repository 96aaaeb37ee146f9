//! The bits of one entry, in every format: the single place that knows them, used by the walker and the editor alike.
//!
//! ```text
//!             63   62..52   51 .. 12                     12   11..9   8  7   6 5 4   3   2 1 0
//!   table     XD   ignored  address of the next table         ign.    .  .   . A PCD PWT U W P
//!   4K leaf   XD   ignored  address of the page               ign.    G  PAT D A PCD PWT U W P
//!   larger    XD   ignored  address of the page          PAT  ign.    G  1   D A PCD PWT U W P
//! ```
//!
//! Two-level entries are the low 32 bits of this, without XD; their 4M leaves keep address bits 32 to 39 in bits 13 to 20
//! (PSE-36). PAE reserves bits 52 to 62, and its four root entries have only P, PWT, PCD and an address. Sources: Intel SDM vol. 3,
//! tables 5-4 to 5-6 (two-level), 5-8 to 5-11 (PAE), 5-15 to 5-20 (4- and 5-level).

use kspace_layout::{PagingMode, PhysAddr};

use crate::{Access, Attributes, Limits, Protection, RawEntry};

/// Bit 0: the entry is in use; when it is clear the CPU ignores all the others.
pub(crate) const PRESENT: u64 = 1 << 0;
/// Bit 1: writes are allowed.
pub(crate) const WRITE: u64 = 1 << 1;
/// Bit 2: user mode is allowed.
pub(crate) const USER: u64 = 1 << 2;
/// Bits 3 and 4: the low bits of the PAT index (PWT, PCD).
const CACHE_LOW: u32 = 3;
/// Bit 5: the CPU has used the entry.
pub(crate) const ACCESSED: u64 = 1 << 5;
/// Bit 6: the CPU has written through the leaf.
pub(crate) const DIRTY: u64 = 1 << 6;
/// Bit 7 of a directory entry: it is a leaf itself.
const LARGE: u64 = 1 << 7;
/// Bit 7 of a 4K leaf: the high bit of the PAT index.
const PAT_SMALL: u64 = 1 << 7;
/// Bit 8: the translation is global.
pub(crate) const GLOBAL: u64 = 1 << 8;
/// Bits 9 to 11: the CPU ignores them in every entry of every format.
pub(crate) const SOFTWARE_SHIFT: u32 = 9;
/// Bit 11 of an entry that is not present: it is parked; see the module `parked`.
pub(crate) const PARKED: u64 = 1 << 11;
/// Bit 9 of an entry that is parked otherwise: it is hidden; see the module `hidden`.
pub(crate) const HIDDEN: u64 = 1 << 9;
/// Bit 12 of a larger leaf: the high bit of the PAT index.
const PAT_LARGE: u64 = 1 << 12;
/// Bit 63: no instruction fetch.
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 12 to 51: an address, in the 8-byte formats.
const ADDRESS_LONG: u64 = 0x000f_ffff_ffff_f000;
/// Bits 12 to 31: an address, in the 4-byte format.
const ADDRESS_SHORT: u64 = 0xffff_f000;
/// Physical bits that a 4M page can have with PSE-36 (Intel SDM vol. 3, section 5.3).
const PSE36_BITS: u32 = 40;

/// The four modes have three formats: 5-level entries are 4-level entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 4-byte entries of 32-bit paging.
    TwoLevel,
    /// 8-byte entries of PAE paging.
    Pae,
    /// 8-byte entries of 4-level and 5-level paging.
    Long,
}

/// A format fixed at compile time, for code that edits tables of one format only.
pub trait EntryFormat {
    /// The width of an entry.
    type Raw: RawEntry;
    /// Which format this is.
    const FORMAT: Format;
}

/// Entries of 32-bit two-level paging.
#[derive(Clone, Copy, Debug)]
pub enum TwoLevel {}

/// Entries of PAE paging.
#[derive(Clone, Copy, Debug)]
pub enum Pae {}

/// Entries of 4-level and 5-level paging.
#[derive(Clone, Copy, Debug)]
pub enum LongMode {}

impl EntryFormat for TwoLevel {
    type Raw = u32;
    const FORMAT: Format = Format::TwoLevel;
}

impl EntryFormat for Pae {
    type Raw = u64;
    const FORMAT: Format = Format::Pae;
}

impl EntryFormat for LongMode {
    type Raw = u64;
    const FORMAT: Format = Format::Long;
}

impl Format {
    /// The format that a mode uses.
    #[inline]
    #[must_use]
    pub const fn of(mode: PagingMode) -> Self {
        match mode {
            PagingMode::TwoLevel => Self::TwoLevel,
            PagingMode::Pae => Self::Pae,
            PagingMode::FourLevel | PagingMode::FiveLevel => Self::Long,
        }
    }

    /// Bytes of an entry.
    #[inline]
    pub(crate) const fn entry_bytes(self) -> u64 {
        match self {
            Self::TwoLevel => 4,
            Self::Pae | Self::Long => 8,
        }
    }

    /// The lowest address bit that selects an entry at `level`.
    #[inline]
    pub(crate) const fn shift(self, level: u8) -> u32 {
        match self {
            Self::TwoLevel => 12 + 10 * (level as u32 - 1),
            Self::Pae | Self::Long => 12 + 9 * (level as u32 - 1),
        }
    }

    /// Entries of a table at `level`.
    #[inline]
    pub(crate) const fn entries(self, level: u8) -> usize {
        match self {
            Self::TwoLevel => 1024,
            Self::Pae if level == 3 => 4,
            Self::Pae | Self::Long => 512,
        }
    }

    /// Whether this is one of PAE's four root entries, which have few bits.
    const fn is_pae_root(self, level: u8) -> bool {
        matches!(self, Self::Pae) && level == 3
    }

    /// Whether a present entry maps a page itself, instead of leading to a table.
    #[inline]
    pub(crate) const fn is_leaf(self, level: u8, raw: u64, limits: Limits) -> bool {
        match level {
            1 => true,
            2 => raw & LARGE != 0 && (!matches!(self, Self::TwoLevel) || limits.large_pages()),
            3 => raw & LARGE != 0 && matches!(self, Self::Long),
            _ => false,
        }
    }

    /// The table that a non-leaf entry leads to.
    #[inline]
    pub(crate) const fn table(self, raw: u64, limits: Limits) -> PhysAddr {
        // At most 52 bits are left, so this cannot fail.
        PhysAddr::new(raw & self.address_mask() & !limits.encryption_mask())
    }

    /// The page that a leaf at `level` maps.
    #[inline]
    pub(crate) const fn page(self, level: u8, raw: u64, limits: Limits) -> PhysAddr {
        let low = raw & self.address_mask() & !limits.encryption_mask();
        let address = low & !((1 << self.shift(level)) - 1);
        if matches!(self, Self::TwoLevel) && level == 2 {
            // PSE-36: bits 13 to 20 are address bits 32 to 39.
            return PhysAddr::new(address | ((raw >> 13) & 0xff) << 32);
        }
        PhysAddr::new(address)
    }

    /// The bits of an entry that can be address.
    #[inline]
    pub(crate) const fn address_mask(self) -> u64 {
        match self {
            Self::TwoLevel => ADDRESS_SHORT,
            Self::Pae | Self::Long => ADDRESS_LONG,
        }
    }

    /// The widest physical address, exclusive, that a leaf at `level` can hold on this machine. An encryption bit is no part of
    /// an address, and so no address can reach it.
    #[inline]
    pub(crate) const fn page_limit(self, level: u8, limits: Limits) -> u64 {
        let bits = match (self, level) {
            (Self::TwoLevel, 1) => 32,
            (Self::TwoLevel, _) => PSE36_BITS,
            (Self::Pae | Self::Long, _) => limits.phys_bits(),
        };
        let bits = least(bits, limits.phys_bits());
        1 << least(bits, limits.encryption_mask().trailing_zeros())
    }

    /// The widest physical address, exclusive, that a table of this format can have.
    #[inline]
    pub(crate) const fn table_limit(self, limits: Limits) -> u64 {
        self.page_limit(1, limits)
    }

    /// The bits of a present entry that are set though this machine reserves them.
    pub(crate) const fn reserved_bits(self, level: u8, raw: u64, limits: Limits) -> u64 {
        let leaf = self.is_leaf(level, raw, limits);
        let mut reserved = match self {
            Self::TwoLevel => {
                if !(leaf && level == 2) {
                    return 0;
                }
                // Bits 13 to 20 hold address bits 32 and up as far as the machine has them; the rest, to bit 21, is reserved.
                let usable = least(PSE36_BITS, limits.phys_bits()) - 32;
                return raw & bits(13 + usable, 21);
            }
            // Intel SDM vol. 3, table 5-8: bits 1, 2, 5 to 8 and MAXPHYADDR to 63.
            Self::Pae if level == 3 => bits(1, 2) | bits(5, 8) | bits(limits.phys_bits(), 63),
            Self::Pae => bits(limits.phys_bits(), 62),
            Self::Long => bits(limits.phys_bits(), 51),
        };
        if !limits.no_execute() {
            reserved |= NO_EXECUTE;
        }
        if matches!(self, Self::Long) && (level >= 4 || (level == 3 && !limits.gigabyte_pages())) {
            reserved |= LARGE;
        }
        if leaf && level >= 2 {
            reserved |= bits(13, self.shift(level) - 1);
        }
        raw & reserved & !limits.encryption_mask()
    }

    /// What a leaf says about its page, `above` being the rights of the levels over it.
    #[inline]
    pub(crate) const fn attributes(
        self,
        level: u8,
        raw: u64,
        above: Rights,
        limits: Limits,
    ) -> Attributes {
        let rights = above.and(self.rights(level, raw, limits));
        Attributes {
            write: rights.write,
            user: rights.user,
            execute: rights.execute,
            global: raw & GLOBAL != 0,
            cache: limits.pat().cache(cache_index(level, raw)),
            accessed: raw & ACCESSED != 0,
            dirty: raw & DIRTY != 0,
        }
    }

    /// The rights that one present entry gives; a PAE root entry has no such bits and gives all.
    #[inline]
    pub(crate) const fn rights(self, level: u8, raw: u64, limits: Limits) -> Rights {
        if self.is_pae_root(level) {
            return Rights::ALL;
        }
        let forbids_execution =
            !matches!(self, Self::TwoLevel) && limits.no_execute() && raw & NO_EXECUTE != 0;
        Rights {
            write: raw & WRITE != 0,
            user: raw & USER != 0,
            execute: !forbids_execution,
        }
    }

    /// An entry at `level` that leads to `table`. It gives every right, so that the leaves alone decide.
    #[inline]
    pub(crate) const fn to_table(self, level: u8, table: PhysAddr, limits: Limits) -> u64 {
        let address = table.as_u64() | limits.encryption_mask();
        if self.is_pae_root(level) {
            address | PRESENT
        } else {
            address | PRESENT | WRITE | USER | ACCESSED
        }
    }

    /// The bits of a leaf at `level` apart from its address.
    ///
    /// Supervisor leaves are born accessed, and dirty if writable, which spares the CPU the locked update. User leaves are born
    /// clean, because there the two bits mean something. A read-only leaf is never dirty: under CET that would make it a
    /// shadow-stack page (Intel SDM vol. 3, section 5.6).
    pub(crate) fn leaf_bits(self, level: u8, protection: Protection, limits: Limits) -> u64 {
        let mut raw = PRESENT | limits.encryption_mask();
        if level > 1 {
            raw |= LARGE;
        }
        if protection.access == Access::ReadWrite {
            raw |= WRITE;
        }
        if protection.access != Access::ReadExecute && limits.no_execute() && self != Self::TwoLevel
        {
            raw |= NO_EXECUTE;
        }
        if protection.global {
            raw |= GLOBAL;
        }
        if protection.user {
            raw |= USER;
        } else {
            raw |= ACCESSED;
            if protection.access == Access::ReadWrite {
                raw |= DIRTY;
            }
        }
        // A table without the type has no better answer than the strictest one, and every table has that.
        let index = limits.pat().index(protection.cache).unwrap_or(3);
        raw | u64::from(index & 3) << CACHE_LOW | if index & 4 != 0 { pat_bit(level) } else { 0 }
    }

    /// The address bits of a leaf at `level` for the page at `phys`, which must suit the level.
    #[inline(always)]
    pub(crate) const fn leaf_address(self, level: u8, phys: u64) -> u64 {
        if matches!(self, Self::TwoLevel) && level == 2 {
            (phys & ADDRESS_SHORT) | ((phys >> 32) & 0xff) << 13
        } else {
            phys
        }
    }

    /// The bits of a leaf at `level` that do not say what protection it has, and that `protect` keeps: its address, encrypted or
    /// not, and what software and protection keys use.
    #[inline]
    pub(crate) fn kept_by_protect(self, level: u8) -> u64 {
        let mut decided =
            PRESENT | WRITE | USER | 3 << CACHE_LOW | ACCESSED | DIRTY | GLOBAL | pat_bit(level);
        if level > 1 {
            decided |= LARGE;
        }
        match self {
            Self::TwoLevel => !decided & 0xffff_ffff,
            Self::Pae | Self::Long => !decided & !NO_EXECUTE,
        }
    }

    /// Whether this format's entries can forbid execution on this machine. Where they cannot, everything is executable.
    #[inline]
    pub(crate) const fn can_forbid_execution(self, limits: Limits) -> bool {
        limits.no_execute() && !matches!(self, Self::TwoLevel)
    }

    /// A leaf with or without the right to write. Without it, it is not dirty either, for the reason that [`leaf_bits`](Self::leaf_bits)
    /// gives; with it, the kernel's own are dirty at once.
    pub(crate) const fn with_write(self, leaf: u64, write: bool) -> u64 {
        match (write, leaf & USER != 0) {
            (false, _) => leaf & !(WRITE | DIRTY),
            (true, true) => leaf | WRITE,
            (true, false) => leaf | WRITE | ACCESSED | DIRTY,
        }
    }

    /// A leaf with or without the right to be executed, where that can be said.
    pub(crate) const fn with_execute(self, leaf: u64, execute: bool, limits: Limits) -> u64 {
        if !self.can_forbid_execution(limits) {
            leaf
        } else if execute {
            leaf & !NO_EXECUTE
        } else {
            leaf | NO_EXECUTE
        }
    }

    /// A leaf at `level` with the memory type that the page attribute table has at `index`.
    pub(crate) const fn with_cache(self, level: u8, leaf: u64, index: u8) -> u64 {
        let bare = leaf & !(3 << CACHE_LOW | pat_bit(level));
        let high = if index & 4 != 0 { pat_bit(level) } else { 0 };
        bare | (index as u64 & 3) << CACHE_LOW | high
    }

    /// The leaf one level down that says the same as the larger leaf `raw` at `level`, for its first part; the address of the
    /// other parts is added by the caller.
    #[inline]
    pub(crate) const fn smaller_leaf(self, level: u8, raw: u64) -> u64 {
        if level != 2 {
            return raw;
        }
        let pat = raw & PAT_LARGE != 0;
        // In a two-level 4M leaf bits 13 to 20 are high address bits, and a page that has them cannot be split.
        let bare = raw & !(LARGE | PAT_LARGE);
        if pat { bare | PAT_SMALL } else { bare }
    }

    /// The leaf at `level` that says the same as its first part, the leaf `raw` one level down.
    #[inline]
    pub(crate) const fn larger_leaf(self, level: u8, raw: u64) -> u64 {
        if level != 2 {
            return raw;
        }
        let pat = raw & PAT_SMALL != 0;
        let bare = (raw & !PAT_SMALL) | LARGE;
        if pat { bare | PAT_LARGE } else { bare }
    }
}

/// The rights of the levels walked so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) write: bool,
    pub(crate) user: bool,
    pub(crate) execute: bool,
}

impl Rights {
    /// Whether an entry above with these rights would deny what `protection` asks for.
    pub(crate) fn deny(self, protection: Protection) -> bool {
        (protection.user && !self.user)
            || (protection.access == Access::ReadWrite && !self.write)
            || (protection.access == Access::ReadExecute && !self.execute)
    }

    /// What a walk begins with.
    pub(crate) const ALL: Self = Self {
        write: true,
        user: true,
        execute: true,
    };

    /// The rights that both give.
    #[inline]
    pub(crate) const fn and(self, other: Self) -> Self {
        Self {
            write: self.write && other.write,
            user: self.user && other.user,
            execute: self.execute && other.execute,
        }
    }
}

#[inline]
const fn pat_bit(level: u8) -> u64 {
    if level == 1 { PAT_SMALL } else { PAT_LARGE }
}

/// The PAT index of a leaf: its bits PAT, PCD, PWT.
#[inline]
const fn cache_index(level: u8, raw: u64) -> u8 {
    let low = (raw >> CACHE_LOW) as u8 & 3;
    if raw & pat_bit(level) != 0 {
        low | 4
    } else {
        low
    }
}

const fn least(one: u32, other: u32) -> u32 {
    if one < other { one } else { other }
}

/// Bits `low` to `high`, both included; none when `high` is below `low`.
const fn bits(low: u32, high: u32) -> u64 {
    if low > high {
        return 0;
    }
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}
