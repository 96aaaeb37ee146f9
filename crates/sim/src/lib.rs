//! A simulated machine for tests and benches: CPUs under any schedule, with the worst TLBs that the architecture allows.
//!
//! ```text
//!   explore        all schedules, or one for each seed
//!      |
//!   Schedule       CPUs that stop at each step of their programs; who goes on, and who is interrupted, is decided outside
//!      |
//!   SimPlatform    the library's platform: both of them together
//!      |
//!   SimMachine     TLBs that never forget a translation until a flush makes them, walkers that set bits wherever they get
//!      |  |
//!      |  SimFrames   hands out frames, counts them, fails on demand, knows which frames were released
//!      |  |
//!      SimMemory      physical memory of any size: sparse, or one contiguous arena for speed
//! ```
//!
//! Here broken rules panic or return a [`Violation`]: this crate is an oracle, not a kernel.

pub mod explore;
mod fill;
mod frames;
mod machine;
mod memory;
mod platform;
mod schedule;
mod tlb;

pub use frames::SimFrames;
pub use machine::{SimMachine, Use};
pub use memory::SimMemory;
pub use platform::{Grain, SimInterruptsOff, SimPlatform};
pub use schedule::{Outcome, Program, Schedule};
pub use tlb::{Possible, Seen, Violation};
