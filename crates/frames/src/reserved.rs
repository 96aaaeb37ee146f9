//! The list of physical ranges that are in use.

use core::fmt;

use kspace_layout::{PhysAddr, PhysRange};

use crate::MapError;
use crate::pieces::to_pages_outward;

/// How many separate ranges can be reserved before there is an allocator: a kernel has about ten.
pub const MAX_RESERVATIONS: usize = 64;

/// Sorted ranges of whole pages, no two of which touch.
#[derive(Clone, Copy)]
pub(crate) struct Reserved {
    slots: [PhysRange; MAX_RESERVATIONS],
    len: usize,
}

impl Reserved {
    pub(crate) const fn new() -> Self {
        Self {
            slots: [PhysRange::new(PhysAddr::ZERO, 1); MAX_RESERVATIONS],
            len: 0,
        }
    }

    pub(crate) fn as_slice(&self) -> &[PhysRange] {
        &self.slots[..self.len]
    }

    /// Adds every page that `range` touches.
    pub(crate) fn add(&mut self, range: PhysRange) -> Result<(), MapError> {
        let mut merged = to_pages_outward(range);
        // Everything that touches the new range is one run of slots, because they are sorted.
        let first = self
            .as_slice()
            .partition_point(|old| old.end_u64() < merged.start().as_u64());
        let after = self
            .as_slice()
            .partition_point(|old| old.start().as_u64() <= merged.end_u64());
        if first < after {
            merged = hull(merged, hull(self.slots[first], self.slots[after - 1]));
        } else if self.len == MAX_RESERVATIONS {
            return Err(MapError::TooManyReservations { range });
        }
        self.slots
            .copy_within(after..self.len.max(after), first + 1);
        self.len = self.len - (after - first) + 1;
        self.slots[first] = merged;
        Ok(())
    }
}

impl fmt::Debug for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

/// The smallest range that holds both.
fn hull(one: PhysRange, other: PhysRange) -> PhysRange {
    let start = one.start().min(other.start());
    let last = one.last().max(other.last());
    PhysRange::new(start, last.as_u64() - start.as_u64() + 1)
}
