//! What was changed to make a firmware map usable.

use core::fmt;

use kspace_layout::PhysRange;

use crate::{FirmwareEntry, MemoryEntry, MemoryKind};

/// One thing about the firmware's map that was wrong, and what was done about it. `index` counts the firmware's entries
/// from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// An entry of no bytes; ignored.
    Empty {
        /// Which entry.
        index: usize,
        /// The entry.
        entry: FirmwareEntry,
    },
    /// RAM whose end wraps past 2^64; ignored, because neither its size nor its start can be believed.
    RamWraps {
        /// Which entry.
        index: usize,
        /// The entry.
        entry: FirmwareEntry,
    },
    /// An entry that reaches past the last address of the CPU; cut there.
    TooHigh {
        /// Which entry.
        index: usize,
        /// The entry.
        entry: FirmwareEntry,
        /// Bits of the CPU's physical addresses.
        phys_bits: u32,
    },
    /// An entry that begins past the last address of the CPU; ignored.
    Unreachable {
        /// Which entry.
        index: usize,
        /// The entry.
        entry: FirmwareEntry,
        /// Bits of the CPU's physical addresses.
        phys_bits: u32,
    },
    /// Type 0, which means nothing; taken as reserved.
    NoKind {
        /// Which entry.
        index: usize,
        /// The entry.
        entry: FirmwareEntry,
    },
    /// An entry that starts below the one before it; sorted.
    OutOfOrder {
        /// Which entry.
        index: usize,
        /// The entry.
        entry: FirmwareEntry,
    },
    /// Two entries claim the same addresses; the more restrictive kind holds.
    Overlap {
        /// Which entry came second.
        index: usize,
        /// The addresses that both claim.
        range: PhysRange,
        /// What they were before this entry.
        before: MemoryKind,
        /// What this entry says they are.
        claimed: MemoryKind,
    },
    /// RAM that does not begin and end at page bounds; shrunk to whole pages.
    Trimmed {
        /// The RAM as the firmware gave it.
        entry: MemoryEntry,
        /// The whole pages in it, if there are any.
        kept: Option<PhysRange>,
    },
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty { index, entry } => {
                write!(f, "memory map: entry {index} {entry}: no bytes; ignored")
            }
            Self::RamWraps { index, entry } => write!(
                f,
                "memory map: entry {index} {entry}: its end passes 2^64; ignored"
            ),
            Self::TooHigh {
                index,
                entry,
                phys_bits,
            } => write!(
                f,
                "memory map: entry {index} {entry}: reaches past the CPU's {phys_bits} address bits; cut at {:016x}",
                (1_u64 << phys_bits) - 1
            ),
            Self::Unreachable {
                index,
                entry,
                phys_bits,
            } => write!(
                f,
                "memory map: entry {index} {entry}: starts past the CPU's {phys_bits} address bits; ignored"
            ),
            Self::NoKind { index, entry } => write!(
                f,
                "memory map: entry {index} {entry}: type 0 has no meaning; taken as reserved"
            ),
            Self::OutOfOrder { index, entry } => write!(
                f,
                "memory map: entry {index} {entry}: starts below the entry before it; sorted"
            ),
            Self::Overlap {
                index,
                range,
                before,
                claimed,
            } => write!(
                f,
                "memory map: entry {index} says {range} is {claimed}, an earlier one {before}; taken as {}",
                before.max(claimed)
            ),
            Self::Trimmed {
                entry,
                kept: Some(kept),
            } => {
                write!(f, "memory map: {entry}: not whole pages; {kept} kept")
            }
            Self::Trimmed { entry, kept: None } => {
                write!(f, "memory map: {entry}: holds no whole page; ignored")
            }
        }
    }
}
