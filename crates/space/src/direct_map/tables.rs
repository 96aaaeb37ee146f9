//! How many page tables a direct map takes at least.

use kspace_layout::VirtAddr;

use super::Plan;
use crate::table_count::tables_needed;

/// The least number of page-table frames, without the root, that `plan` needs when it begins at `base`: every table
/// that lies on the way to some leaf, once.
///
/// The root is not counted because it belongs to the whole address space. A table that other areas share is counted.
#[must_use]
pub fn table_frames_needed(plan: &Plan<'_>, base: VirtAddr) -> u64 {
    tables_needed(plan.mode(), || {
        plan.runs().map(|run| {
            let at = |phys: u64| base.as_u64() + phys;
            let (first, last) = (run.phys.start().as_u64(), run.phys.last().as_u64());
            (at(first), at(last), run.page)
        })
    })
}
