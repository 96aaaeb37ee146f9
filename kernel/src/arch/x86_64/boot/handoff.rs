//! What the first stage leaves for the second: plain values, no pointer among them.

use kspace_frames::EarlyFrames;
use kspace_layout::PhysAddr;
use spin::Once;

use crate::address_space::Plan;
use crate::command_line::CommandLine;

/// The first stage's results.
pub struct Handoff {
    /// What the command line asked for.
    pub command_line: CommandLine,
    /// What is mapped.
    pub plan: Plan,
    /// The frames that are left.
    pub frames: EarlyFrames,
    /// The top page table.
    pub root: PhysAddr,
}

static HANDOFF: Once<Handoff> = Once::new();

/// Leaves the results for the second stage.
pub fn leave(results: Handoff) {
    HANDOFF.call_once(|| results);
}

/// The results, once they were left.
pub fn taken() -> Option<&'static Handoff> {
    HANDOFF.get()
}
