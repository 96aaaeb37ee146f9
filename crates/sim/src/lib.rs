//! A simulated machine for tests and benches: memory, frames, and CPUs with the worst TLBs that the architecture allows.
//!
//! ```text
//!   SimMachine   CPUs that never forget a translation until a flush makes them
//!      |  |
//!      |  SimFrames   hands out frames, counts them, fails on demand, knows which frames were released
//!      |  |
//!      SimMemory      physical memory of any size: sparse, or one contiguous arena for speed
//! ```
//!
//! Here broken rules panic or return a [`Violation`]: this crate is an oracle, not a kernel.

mod fill;
mod frames;
mod machine;
mod memory;
mod tlb;

pub use frames::SimFrames;
pub use machine::{SimMachine, Use};
pub use memory::SimMemory;
pub use tlb::{Possible, Seen, Violation};
