//! How many page tables a row of mappings takes.

use kspace_layout::{PageSize, PagingMode};

/// Addresses to be mapped in pages of one size: the first, the last, and the size. Plain numbers, because what does not fit in the
/// address space can be counted as well.
pub(crate) type Stretch = (u64, u64, PageSize);

/// The least number of page tables, without the root, that these stretches need: every table that lies on the way to some leaf,
/// once. They come in ascending order of address.
pub(crate) fn tables_needed<I: Iterator<Item = Stretch>>(
    mode: PagingMode,
    stretches: impl Fn() -> I,
) -> u64 {
    (1..mode.levels())
        .map(|level| tables_at(mode, stretches(), level))
        .sum()
}

fn tables_at(mode: PagingMode, stretches: impl Iterator<Item = Stretch>, level: u8) -> u64 {
    // One table at `level` spans what one entry of the level above does.
    let span = mode.level_shift(level + 1);
    let mut counted_below = 0;
    let mut tables = 0;
    for (first, last, page) in stretches {
        if mode.leaf_level(page).is_none_or(|leaf| leaf > level) {
            continue;
        }
        let (first, last) = (first >> span, last >> span);
        // They come in order, so only the last table counted can be met again.
        tables += last + 1 - first.max(counted_below).min(last + 1);
        counted_below = last + 1;
    }
    tables
}
