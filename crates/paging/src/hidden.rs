//! Hidden entries: pages that are gone for every access, but that their owner keeps, with frame and rights, and can show again.
//!
//! ```text
//!            63   62..52   51 .. 12                 11  10  9   8..1            0
//!   leaf     XD   ignored  address                  0   .   0   rights, cache   1
//!   hidden   XD   ignored  address, inverted        1   .   1   rights, cache   0
//!   parked   XD   ignored  address, inverted        1   .   0   rights, cache   0
//! ```
//!
//! It is the form of a parked entry (why it is inverted is told in the module `parked`) with bit 9 set. The two differ in whose the
//! frame is: a parked page's is on its way back to the allocator, and `collect` takes it there; a hidden page's stays with who
//! holds the range, and nothing but [`adjust`](crate::Editor::adjust) touches the entry. So nothing is mapped over it, nothing merges it
//! away, and no purge takes its table.

use crate::Format;
use crate::entry::{HIDDEN, PARKED, PRESENT};

/// Whether an entry is hidden.
#[inline(always)]
pub(crate) const fn is_hidden(raw: u64) -> bool {
    raw & (PRESENT | PARKED | HIDDEN) == PARKED | HIDDEN
}

impl Format {
    /// The hidden form of a leaf. Bits 9 and 11, which editors leave clear in leaves, do not come back.
    #[inline]
    pub(crate) const fn hidden(self, leaf: u64) -> u64 {
        (leaf ^ self.parked_flip()) | PARKED | HIDDEN
    }

    /// The leaf that a hidden entry remembers.
    #[inline]
    pub(crate) const fn shown(self, raw: u64) -> u64 {
        (raw ^ self.parked_flip()) & !HIDDEN
    }
}
