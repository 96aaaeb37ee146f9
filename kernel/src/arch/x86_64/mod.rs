//! x86-64: the only place that may assume 64 bits, ports, MSRs and control registers.

mod apic;
mod atomic_context;
mod boot;
mod cache_lines;
mod clock;
mod console;
mod cpu;
mod descriptors;
mod drain;
mod entropy;
mod explain;
mod fixmap;
mod fw_cfg;
mod idt;
mod io_apic;
mod leave;
mod measure;
mod measure_frames;
mod memory;
mod per_cpu;
mod pinned;
mod provoke;
mod second_cpu;
mod shootdown;
mod smp;
mod stacks;
mod startup;
mod stop;
mod stress;
mod test_text_patch;
mod text_patch;
mod timer;
mod traps;
mod user_space;
mod vector;
mod warp;
mod work;
mod yield_points;

pub use atomic_context::{Lock, is_atomic};
pub use clock::{ticks, ticks_since_entry};
pub use console::write_console;
pub use drain::drain_others;
pub use entropy::mix;
pub use leave::{Outcome, leave};
pub use memory::Window;
pub use per_cpu::CpuData;
pub use pinned::pinned;
pub use shootdown::{KERNEL as KERNEL_SHOOTDOWN, Machine};
pub use stop::{print_own_stack, report_others, stop_others};
pub use user_space::{USER_PART, USER_SHOOTDOWN, in_user_space, read_user, write_user};
pub use work::on_all;
pub use x86_64::instructions::interrupts::without_interrupts;
pub use yield_points::YieldPoints as ShootdownProbe;

/// The format of this architecture's page-table entries.
pub type PageFormat = kspace_paging::LongMode;

/// Has this CPU's timer interrupt it once, so many microseconds from now.
pub fn interrupt_in(microseconds: u64) {
    if let Some(handoff) = boot::handoff() {
        timer::arm(handoff, microseconds);
    }
}

/// How many CPUs run.
pub fn cpus_online() -> u64 {
    per_cpu::online().count() as u64
}

/// The zones of this architecture.
pub const fn zone_limits(_: &kspace_layout::Layout) -> kspace_frames::zone::ZoneLimits {
    kspace_frames::zone::ZoneLimits::x86_64()
}

/// The node whose memory is nearest to the CPU that runs here.
#[inline]
pub fn home_node() -> kspace_frames::zone::NodeId {
    per_cpu::current().home()
}

/// The number of the CPU that runs here; 0 before per-CPU data is set up, when only the boot CPU runs.
pub fn cpu_index() -> u32 {
    per_cpu::try_current().map_or(0, per_cpu::CpuData::index)
}
