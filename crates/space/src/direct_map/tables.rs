//! How many page tables a direct map takes at least.

use kspace_layout::{PagingMode, VirtAddr};

use super::Plan;

/// The least number of page-table frames, without the root, that `plan` needs when it begins at `base`: every table
/// that lies on the way to some leaf, once.
///
/// The root is not counted because it belongs to the whole address space. A table that other areas share is counted.
#[must_use]
pub fn table_frames_needed(plan: &Plan<'_>, base: VirtAddr) -> u64 {
    let mode = plan.mode();
    (1..mode.levels())
        .map(|level| tables_at(plan, mode, base, level))
        .sum()
}

fn tables_at(plan: &Plan<'_>, mode: PagingMode, base: VirtAddr, level: u8) -> u64 {
    // One table at `level` spans what one entry of the level above does.
    let span = mode.level_shift(level + 1);
    let mut counted_below = 0;
    let mut tables = 0;
    for run in plan.runs() {
        if mode.leaf_level(run.page).is_none_or(|leaf| leaf > level) {
            continue;
        }
        let first = (base.as_u64() + run.phys.start().as_u64()) >> span;
        let last = (base.as_u64() + run.phys.last().as_u64()) >> span;
        // Runs come in order, so only the last table counted can be met again.
        tables += last + 1 - first.max(counted_below).min(last + 1);
        counted_below = last + 1;
    }
    tables
}
