//! What an entry remembers about the table it leads to, so that big edits need not read it.
//!
//! Filling or clearing a whole table costs one store per entry; looking first whether that is allowed costs as much again. So
//! the entry above remembers how the last edit of the *whole* table left it, in two bits that the CPU ignores:
//!
//! ```text
//!   bit 10  9
//!       0   0   nothing known
//!       0   1   empty: no entry is present or parked
//!       1   0   full: every entry is a leaf, none of them global
//!       1   1   full: every entry is a leaf, some may be global
//! ```
//!
//! The rules, beside the protocol of the parent module:
//!
//! - Only a holder of the table's whole span writes down that something is known, after its last store to the table.
//! - Who edits a part of the table clears the bits *before* its first store. Holders of different parts may do so at the same
//!   time, and each may still believe what it read about its own part, which nobody else changes.
//! - Root entries remember nothing: copies of them in other roots would not be told.

use kspace_layout::PageSize;

use crate::entry::{GLOBAL, PRESENT, SOFTWARE_SHIFT};
use crate::{EntryFormat, FrameSource, PhysMemory, RawEntry};

use super::{Editor, Slot};

/// Both bits.
const MASK: u64 = 3 << SOFTWARE_SHIFT;

/// What is known about a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Nothing,
    Empty,
    Full { global: bool },
}

impl Known {
    const fn bits(self) -> u64 {
        let code = match self {
            Self::Nothing => 0,
            Self::Empty => 1,
            Self::Full { global: false } => 2,
            Self::Full { global: true } => 3,
        };
        code << SOFTWARE_SHIFT
    }

    /// The bits that the leaves of such a table may have, as far as a token needs them.
    pub(super) const fn leaf_bits(global: bool) -> u64 {
        if global { PRESENT | GLOBAL } else { PRESENT }
    }
}

impl<F: EntryFormat, M: PhysMemory, S: FrameSource> Editor<'_, F, M, S> {
    /// What the entry `raw` at `level`, which leads to a table, remembers of it.
    #[inline]
    pub(super) fn known(&self, level: u8, raw: u64) -> Known {
        if level == self.mode.levels() {
            return Known::Nothing;
        }
        match (raw & MASK) >> SOFTWARE_SHIFT {
            0 => Known::Nothing,
            1 => Known::Empty,
            code => Known::Full { global: code == 3 },
        }
    }

    /// Has the entry in `slot` at `level`, which leads to a table, remember this of it.
    pub(super) fn remember(&self, slot: &Slot<F>, level: u8, known: Known) {
        if level == self.mode.levels() {
            return;
        }
        let mut raw = F::Raw::load(slot);
        // Others may clear the bits, and the CPU may set the accessed bit, at the same time.
        while raw & MASK != known.bits() {
            match F::Raw::compare_exchange(slot, raw, (raw & !MASK) | known.bits()) {
                Ok(_) => return,
                Err(changed) => raw = changed,
            }
        }
    }

    /// The page size of leaves at `level`, which has some.
    pub(super) fn leaf_size(&self, level: u8) -> PageSize {
        self.mode.leaf_size(level).unwrap_or(PageSize::Size4K)
    }
}
