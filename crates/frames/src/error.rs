//! Why a memory map is refused.

use core::fmt;

use kspace_layout::{PhysAddr, PhysRange};

use crate::{MAX_ENTRIES, MAX_FIRMWARE_ENTRIES, MAX_RESERVATIONS, MemoryEntry};

/// Why there is no usable memory map, or why a change to one was refused. A map that refuses a change stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The firmware gave more entries than any machine has.
    TooManyEntries,
    /// The firmware's entries, sorted and merged, are still too many ranges.
    TooManyRanges {
        /// Which entry did not fit, counted from 0.
        index: usize,
    },
    /// Not one whole page of RAM.
    NoRam {
        /// How many entries the firmware gave.
        entries: usize,
    },
    /// All RAM lies at or above 4 GiB, where a kernel that starts in 32-bit mode cannot have been loaded.
    NoLowRam {
        /// Where RAM begins.
        first: PhysAddr,
    },
    /// `mem=` leaves no RAM at all.
    LimitLeavesNothing {
        /// The limit, in bytes.
        limit: u64,
        /// Where RAM begins.
        first: PhysAddr,
    },
    /// `mem=` cuts off RAM that is in use.
    LimitCutsReserved {
        /// The limit, in bytes.
        limit: u64,
        /// What is in use.
        reserved: PhysRange,
    },
    /// What is to be taken away is not all RAM.
    NotRam {
        /// The range.
        range: PhysRange,
    },
    /// No room for one more range.
    NoRoom {
        /// The range that did not fit.
        range: PhysRange,
    },
    /// What is plugged in is no whole pages, or lies where the map says something else, or finds no room for one more range.
    Plugged {
        /// The range.
        range: PhysRange,
        /// What is there.
        known: Option<MemoryEntry>,
    },
    /// No room for one more reserved range.
    TooManyReservations {
        /// The range that did not fit.
        range: PhysRange,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooManyEntries => write!(
                f,
                "memory map: more than {MAX_FIRMWARE_ENTRIES} entries; the boot loader's count is not believable"
            ),
            Self::TooManyRanges { index } => write!(
                f,
                "memory map: entry {index} makes more than {MAX_ENTRIES} separate ranges; merge ranges in the firmware"
            ),
            Self::NoRam { entries } => write!(
                f,
                "memory map: no RAM in {entries} entries; check what the boot loader passed"
            ),
            Self::NoLowRam { first } => write!(
                f,
                "memory map: no RAM below 4 GiB, it begins at {first}; the kernel needs some there"
            ),
            Self::LimitLeavesNothing { limit, first } => write!(
                f,
                "mem={limit:#x}: no RAM below it, RAM begins at {first}; nothing was changed"
            ),
            Self::LimitCutsReserved { limit, reserved } => write!(
                f,
                "mem={limit:#x}: {reserved} is in use; give at least mem={:#x}; nothing was changed",
                reserved.end_u64()
            ),
            Self::NotRam { range } => write!(
                f,
                "memory map: take away {range}: not all of it is RAM; nothing was changed"
            ),
            Self::NoRoom { range } => write!(
                f,
                "memory map: take away {range}: that makes more than {MAX_ENTRIES} separate ranges; nothing was changed"
            ),
            Self::Plugged {
                range,
                known: Some(known),
            } => write!(
                f,
                "memory map: plug in {range}: there is {known}; nothing was changed"
            ),
            Self::Plugged { range, known: None } => write!(
                f,
                "memory map: plug in {range}: no whole pages, or more than {MAX_ENTRIES} separate ranges; nothing was changed"
            ),
            Self::TooManyReservations { range } => write!(
                f,
                "memory map: reserve {range}: {MAX_RESERVATIONS} separate ranges are reserved already; nothing was changed"
            ),
        }
    }
}

impl core::error::Error for MapError {}
