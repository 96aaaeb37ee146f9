//! What the first stage leaves for the second: plain values, no pointer among them.

use kspace_frames::{EarlyFrames, MemoryMap};
use kspace_layout::{Layout, PhysAddr};
use spin::Mutex;

use crate::arch::x86_64::cpu::Features;
use crate::command_line::CommandLine;

/// The first stage's results.
pub struct Handoff {
    /// What the CPU can do.
    pub features: Features,
    /// What the command line asked for.
    pub command_line: CommandLine,
    /// The layout that was drawn and built.
    pub layout: Layout,
    /// The memory map, with what the kernel keeps reserved in it.
    pub memory_map: MemoryMap,
    /// The frames that are left.
    pub frames: EarlyFrames,
    /// The top page table.
    pub root: PhysAddr,
}

static HANDOFF: Mutex<Option<Handoff>> = Mutex::new(None);

/// Leaves the results for the second stage.
pub fn leave(results: Handoff) {
    *HANDOFF.lock() = Some(results);
}

/// Takes the results; `None` when they were taken already.
pub fn take() -> Option<Handoff> {
    HANDOFF.lock().take()
}
