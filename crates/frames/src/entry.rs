//! One range of physical memory and what it is: as the firmware states it, and as the memory map keeps it.

use core::fmt;

use kspace_layout::{PhysAddr, PhysRange};

/// What a range of physical addresses is. The codes are those of the E820 table (ACPI 6.5, table 15.6), which PVH start
/// info shares (Xen `public/arch-x86/hvm/start_info.h`), with Linux's additions (`asm/e820/types.h`).
///
/// Ordered by how restrictive the kind is: where two entries overlap, the greater wins, as in Linux's
/// `e820__update_table`. Two kinds are equal when their codes are.
#[derive(Clone, Copy, Debug, Eq)]
pub enum MemoryKind {
    /// 1: free for use.
    Ram,
    /// 2: in use by the firmware or a device; leave alone.
    Reserved,
    /// 3: ACPI tables; may be reused once they have been read.
    AcpiData,
    /// 4: ACPI non-volatile storage; must survive sleep states.
    AcpiNvs,
    /// 5: RAM in which errors were found.
    Unusable,
    /// 7: persistent memory.
    Persistent,
    /// Any other code: not RAM, and nothing more is known.
    Other(u32),
}

impl MemoryKind {
    /// The kind with this code.
    #[must_use]
    pub const fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Ram,
            2 => Self::Reserved,
            3 => Self::AcpiData,
            4 => Self::AcpiNvs,
            5 => Self::Unusable,
            7 => Self::Persistent,
            other => Self::Other(other),
        }
    }

    /// The E820 code of this kind.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Ram => 1,
            Self::Reserved => 2,
            Self::AcpiData => 3,
            Self::AcpiNvs => 4,
            Self::Unusable => 5,
            Self::Persistent => 7,
            Self::Other(code) => code,
        }
    }
}

impl PartialEq for MemoryKind {
    fn eq(&self, other: &Self) -> bool {
        self.code() == other.code()
    }
}

impl PartialOrd for MemoryKind {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for MemoryKind {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.code().cmp(&other.code())
    }
}

impl fmt::Display for MemoryKind {
    /// The words of Linux's boot log (`e820_print_type`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Ram => f.write_str("usable"),
            Self::Reserved => f.write_str("reserved"),
            Self::AcpiData => f.write_str("ACPI data"),
            Self::AcpiNvs => f.write_str("ACPI NVS"),
            Self::Unusable => f.write_str("unusable"),
            Self::Persistent => f.write_str("persistent (type 7)"),
            Self::Other(code) => write!(f, "type {code}"),
        }
    }
}

/// An entry as the firmware wrote it. Only a claim: it may be empty, wrap, or overlap others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareEntry {
    /// The first address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// The E820 code, see [`MemoryKind`].
    pub kind: u32,
}

impl FirmwareEntry {
    /// `size` bytes from `start` on, with this E820 code.
    #[must_use]
    pub const fn new(start: u64, size: u64, kind: u32) -> Self {
        Self { start, size, kind }
    }

    /// The last address; `None` when the entry is empty or its end wraps past 2^64.
    #[must_use]
    pub const fn last(self) -> Option<u64> {
        match self.size.checked_sub(1) {
            Some(above) => self.start.checked_add(above),
            None => None,
        }
    }
}

impl fmt::Display for FirmwareEntry {
    /// As Linux prints it, `[mem 0x0000000000000000-0x000000000009fbff] usable`; an entry without a last address shows
    /// its size instead.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = MemoryKind::from_code(self.kind);
        match self.last() {
            Some(last) => write!(f, "[mem {:#018x}-{last:#018x}] {kind}", self.start),
            None => write!(f, "[mem {:#018x} size {:#x}] {kind}", self.start, self.size),
        }
    }
}

/// One entry of a [`MemoryMap`](crate::MemoryMap).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEntry {
    pub(crate) range: PhysRange,
    pub(crate) kind: MemoryKind,
    /// Bytes of RAM right below and right above that make no whole page.
    cut: (u16, u16),
}

impl MemoryEntry {
    /// Filler for the unused slots of a table.
    pub(crate) const UNUSED: Self =
        Self::new(PhysRange::new(PhysAddr::ZERO, 1), MemoryKind::Reserved);

    pub(crate) const fn new(range: PhysRange, kind: MemoryKind) -> Self {
        Self {
            range,
            kind,
            cut: (0, 0),
        }
    }

    /// The entry for a part of it.
    pub(crate) fn part(self, range: PhysRange) -> Self {
        let lowest = range.start() == self.range.start();
        let highest = range.last() == self.range.last();
        Self {
            range,
            kind: self.kind,
            cut: (
                if lowest { self.cut.0 } else { 0 },
                if highest { self.cut.1 } else { 0 },
            ),
        }
    }

    /// Shrunk to whole pages; `None` when it holds none.
    pub(crate) fn whole_pages(self) -> Option<Self> {
        let range = self.range.whole_pages()?;
        let bytes = |upper: u64, lower: u64| u16::try_from(upper - lower).unwrap_or(0);
        Some(Self {
            range,
            kind: self.kind,
            cut: (
                bytes(range.start().as_u64(), self.range.start().as_u64()),
                bytes(self.range.last().as_u64(), range.last().as_u64()),
            ),
        })
    }

    /// The addresses as the firmware states them: for RAM, before it was shrunk to whole pages.
    #[must_use]
    pub fn stated(self) -> PhysRange {
        let (below, above) = (u64::from(self.cut.0), u64::from(self.cut.1));
        let start = PhysAddr::new(self.range.start().as_u64() - below);
        PhysRange::new(start, below + self.range.size() + above)
    }

    /// The addresses. RAM covers whole pages; other kinds keep the firmware's bounds.
    #[must_use]
    pub const fn range(self) -> PhysRange {
        self.range
    }

    /// What they are.
    #[must_use]
    pub const fn kind(self) -> MemoryKind {
        self.kind
    }
}

impl fmt::Display for MemoryEntry {
    /// As Linux prints it: `[mem 0x0000000000000000-0x000000000009efff] usable`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, last) = (self.range.start(), self.range.last());
        write!(f, "[mem {start:#018x}-{last:#018x}] {}", self.kind)
    }
}
