//! Page tables: how fast ranges are mapped and unmapped, and how many bytes of tables a direct map takes.

mod direct_map;
mod pool;
mod ranges;

use crate::row::Row;

/// All rows of this bench.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = ranges::rows();
    rows.extend(direct_map::rows());
    rows
}
