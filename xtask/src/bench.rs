//! `cargo xtask bench`: placeholder
use crate::arguments::BenchOptions;
use crate::failure::Result;
pub(crate) fn bench(_: &BenchOptions) -> Result {
    Ok(())
}
