//! The direct map: all RAM, in order, at one offset.
//!
//! - [`plan`]: which memory, in which page sizes. Pure arithmetic.
//! - [`table_frames_needed`]: what that costs at least.
//! - [`build`]: the plan as page tables.

mod build;
mod plan;
mod tables;

pub use build::{BuildError, build};
pub use plan::{FIRST_MIB, Plan, Run, Runs, plan};
pub use tables::table_frames_needed;
