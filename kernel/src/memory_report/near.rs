//! Whether each CPU gets memory from its own node: every CPU takes a frame and tells which.

use core::sync::atomic::{AtomicU64, Ordering};

use kspace_frames::zone::{NodeId, Nodes, Request, ZoneLimits};
use kspace_layout::Pfn;

use crate::acpi::MAX_CPUS;
use crate::arch::{self, CpuData};
use crate::{info, memory};

/// What each CPU was given: the frame's number, above it the CPU's node, above that [`GIVEN`].
static GIVEN_TO: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Frames have numbers of 40 bits.
const NODE_SHIFT: u32 = 48;

/// A frame was given.
const GIVEN: u64 = 1 << 63;

/// Lets every CPU take one frame and give it back, and prints the CPU's node and the zone of the frame.
pub fn near(nodes: &Nodes, limits: &ZoneLimits) {
    arch::on_all(take_one);
    for (cpu, given) in GIVEN_TO.iter().enumerate() {
        let given = given.load(Ordering::Relaxed);
        let frame = Pfn::new(given & ((1 << NODE_SHIFT) - 1));
        let home = (given & !GIVEN) >> NODE_SHIFT;
        if let Some((node, kind)) = nodes.zone_of(limits, frame).filter(|_| given & GIVEN != 0) {
            info!(
                "CPU {cpu} is near node {home}; a frame for it comes from node {node}, zone {kind}"
            );
        }
    }
}

fn take_one(cpu: &'static CpuData) {
    let Some(memory) = memory::get() else { return };
    if let Ok(block) = memory.allocate(&Request::order(0)) {
        let home = u64::from(NodeId::get(arch::home_node()));
        let given = GIVEN | home << NODE_SHIFT | block.pfn().as_u64();
        GIVEN_TO[cpu.index() as usize].store(given, Ordering::Relaxed);
        memory.free(block);
    }
}
