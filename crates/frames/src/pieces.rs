//! What is left of a physical range on either side of an address, and ranges from plain bounds.

use kspace_layout::{PhysAddr, PhysRange};

/// The part of `range` strictly below `address`.
pub(crate) fn below(range: PhysRange, address: PhysAddr) -> Option<PhysRange> {
    let last = address.as_u64().checked_sub(1)?;
    between(range.start(), range.last().as_u64().min(last))
}

/// The part of `range` strictly above `address`.
pub(crate) fn above(range: PhysRange, address: PhysAddr) -> Option<PhysRange> {
    let start = address.checked_add(1).ok()?;
    between(range.start().max(start), range.last().as_u64())
}

fn between(start: PhysAddr, last: u64) -> Option<PhysRange> {
    PhysRange::try_from_bounds(start, PhysAddr::try_new(last).ok()?).ok()
}

/// `range` grown to whole 4 KiB pages on both sides. The last page of the physical address space is whole, so this
/// always fits.
pub(crate) fn to_pages_outward(range: PhysRange) -> PhysRange {
    let start = range.start().as_u64() & !(kspace_layout::FRAME_SIZE - 1);
    let last = range.last().as_u64() | (kspace_layout::FRAME_SIZE - 1);
    PhysRange::new(PhysAddr::new(start), last - start + 1)
}
