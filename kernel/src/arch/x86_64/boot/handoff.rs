//! What the first stage leaves for the second: plain values, no pointer among them.

use kspace::image::ImageMap;
use kspace_frames::{EarlyFrames, MemoryMap};
use kspace_layout::{Layout, PhysAddr};
use kspace_paging::Limits;
use spin::Once;

use crate::address_space::Wish;
use crate::command_line::CommandLine;

/// The first stage's results.
pub struct Handoff {
    /// What the command line asked for.
    pub command_line: CommandLine,
    /// What the CPU can do with pages.
    pub limits: Limits,
    /// The layout that was drawn and built.
    pub layout: Layout,
    /// The memory map, with what the kernel keeps reserved in it.
    pub memory_map: MemoryMap,
    /// The image's sections as mappings.
    pub image: ImageMap,
    /// Where the local APIC's registers are.
    pub local_apic: Option<PhysAddr>,
    /// The frames that are left.
    pub frames: EarlyFrames,
    /// The top page table.
    pub root: PhysAddr,
}

impl Handoff {
    /// What the address space should be.
    pub fn wish(&self) -> Wish<'_> {
        Wish {
            layout: &self.layout,
            memory_map: &self.memory_map,
            image: &self.image,
            limits: self.limits,
            local_apic: self.local_apic,
        }
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
