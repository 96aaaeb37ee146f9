//! All CPUs: started, counted, and their interrupts and clocks tried.

use super::boot::Handoff;
use super::memory::Window;
use super::{apic, clock, io_apic, per_cpu, shootdown, startup, timer, warp};
use crate::info;

/// Every CPU takes one timer interrupt when it has come up, to show that it can.
pub const FIRST_INTERRUPT_MICROSECONDS: u64 = 100;

/// Turns on the boot CPU's local APIC, masks the controllers that came before it, and starts the other CPUs.
#[inline(never)] // What edits tables takes much stack, which its caller keeps for good.
pub fn start(handoff: &'static Handoff, memory: &Window) {
    let features = &handoff.features;
    shootdown::describe(
        handoff.plan.layout.mode(),
        features.global_pages,
        features.invpcid,
    );
    shootdown::KERNEL.join();
    if !features.local_apic || handoff.plan.local_apic.is_none() {
        info!("smp: this CPU has no local APIC; only it is used");
        per_cpu::current().set_online();
        return;
    }
    mask_8259();
    io_apic::mask_all(&handoff.processors);
    let form = apic::choose(features.x2apic);
    apic::local().enable();
    let own = per_cpu::set_current(0, apic::local().id());
    own.set_online();
    info!(
        "apic: {form}; TSC-deadline {}, PCID {}, INVPCID {}, invariant TSC {}, SMEP {}, SMAP {}",
        present(features.tsc_deadline),
        present(features.pcid),
        present(features.invpcid),
        present(features.invariant_tsc),
        present(features.smep),
        present(features.smap),
    );
    info!("timer: local APIC, {}", timer::calibrate(handoff));
    x86_64::instructions::interrupts::enable();
    timer::arm(handoff, FIRST_INTERRUPT_MICROSECONDS);
    let began = clock::ticks();
    let online = startup::start_all(handoff, memory);
    let took = clock::ticks() - began;
    let listed = handoff.processors.apic_ids().len().max(1);
    info!(
        "smp: {online} of {listed} CPUs online after {} microseconds",
        clock::microseconds_in(took)
    );
    if handoff.processors.left_out > 0 {
        info!(
            "smp: {} more CPUs are beyond the {} this kernel keeps",
            handoff.processors.left_out, listed
        );
    }
    match timer::count_interrupted(1_000_000) {
        all if all == online as usize => info!("timer: every CPU took its interrupt"),
        some => info!("timer: only {some} of {online} CPUs took its interrupt"),
    }
    if online > 1 {
        match warp::worst() {
            0 => info!("clock: the time-stamp counters of all CPUs agree"),
            worst => info!("clock: time-stamp counters differ by up to {worst} ticks between CPUs"),
        }
    }
}

const fn present(feature: bool) -> &'static str {
    if feature { "present" } else { "not present" }
}

/// Masks all inputs of the two 8259 interrupt controllers: a PC starts with them on, and on vectors that are exceptions.
fn mask_8259() {
    for port in [0x21, 0xa1] {
        // SAFETY: the data ports of the PC's interrupt controllers, which the kernel uses for nothing else.
        unsafe { x86_64::instructions::port::Port::<u8>::new(port).write(0xff) };
    }
}
