//! Page tables: how fast ranges and single pages are mapped and unmapped, and how many bytes of tables a direct map takes.

mod direct_map;
mod pages;
mod pool;
mod ranges;

use crate::row::Row;

/// All rows of this bench.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = ranges::rows();
    rows.extend(pages::rows());
    rows.extend(direct_map::rows());
    rows
}
