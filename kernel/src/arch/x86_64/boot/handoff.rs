//! What the first stage leaves for the second: plain values, no pointer among them.

use kspace_frames::EarlyFrames;
use kspace_layout::PhysAddr;
use kspace_paging::Walker;
use spin::Once;

use crate::acpi::{Processors, Topology};
use crate::address_space::Plan;
use crate::arch::x86_64::cpu::Features;
use crate::arch::x86_64::memory::Window;
use crate::command_line::CommandLine;
use crate::memory::Ground;

/// The first stage's results.
pub struct Handoff {
    /// What the command line asked for.
    pub command_line: CommandLine,
    /// What is mapped.
    pub plan: Plan,
    /// The frames that are left for the zones.
    pub frames: EarlyFrames,
    /// The top page table.
    pub root: PhysAddr,
    /// What the CPU can do.
    pub features: Features,
    /// The processors that ACPI lists.
    pub processors: Processors,
    /// Which memory and which CPUs are near to each other.
    pub topology: Topology,
    /// Nodes and zones as they will be.
    pub ground: Ground,
    /// A page of the first MiB, kept for the first instructions of other CPUs.
    pub trampoline: Option<PhysAddr>,
}

impl Handoff {
    /// RAM, through the direct map; `None` for a layout without one.
    pub fn memory(&self) -> Option<Window> {
        // SAFETY: whoever has the handoff runs in the second stage, on the kernel's tables, which have the direct map.
        unsafe { Window::direct_map(&self.plan.layout) }
    }

    /// Walks the kernel's tables.
    pub fn walker<'m>(&self, memory: &'m Window) -> Walker<'m, Window> {
        self.walker_from(self.root, memory)
    }

    /// Walks the tables that another root leads to.
    pub fn walker_from<'m>(&self, root: PhysAddr, memory: &'m Window) -> Walker<'m, Window> {
        Walker::new(self.plan.layout.mode(), root, memory).with_limits(self.plan.limits)
    }
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
