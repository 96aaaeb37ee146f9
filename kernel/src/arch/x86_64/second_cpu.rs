//! What a further CPU does, from the trampoline to its idle loop.

use super::boot::{self, Handoff};
use super::per_cpu::{self, CpuData};
use super::{apic, clock, cpu, descriptors, leave, shootdown, smp, timer, warp, work};

/// A further CPU's first Rust: on its own stack, an area, and on the startup tables.
pub extern "C" fn second_cpu(index: u64) -> ! {
    let (Some(handoff), Ok(index)) = (boot::handoff(), u32::try_from(index)) else {
        leave::halt()
    };
    // SAFETY: the kernel's tables map all that the startup tables map, but the trampoline, which is behind this CPU.
    unsafe { cpu::load_root(handoff.root) };
    match come_online(handoff, index) {
        Some(cpu) => idle(cpu),
        None => leave::halt(),
    }
}

fn come_online(handoff: &'static Handoff, index: u32) -> Option<&'static CpuData> {
    let expected = per_cpu::cpu(index)?;
    let cpu = per_cpu::set_current(index, expected.apic_id());
    // Before anything that can fault: until here a fault has no handler.
    // SAFETY: the boot CPU filled this CPU's tables before it started it.
    unsafe { descriptors::load(handoff, index)? };
    // SAFETY: this CPU has used no mapping yet that is not write-back.
    unsafe { cpu::prepare_paging(&handoff.features) };
    apic::local().enable();
    shootdown::KERNEL.join();
    warp::follow();
    timer::arm(handoff, smp::FIRST_INTERRUPT_MICROSECONDS);
    cpu.set_online();
    Some(cpu)
}

/// Halts until there is work. A halted CPU is lazy: shootdowns that free only pages do not wake it, and it catches up before it
/// uses a translation.
fn idle(cpu: &'static CpuData) -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        if !work::run(cpu) {
            shootdown::KERNEL.enter_lazy();
            x86_64::instructions::interrupts::enable_and_hlt();
            shootdown::KERNEL.leave_lazy();
        }
    }
}

/// Waits until `cpu` is online, checking its time-stamp counter meanwhile; false after `microseconds`.
pub fn wait_for(cpu: &CpuData, microseconds: u64) -> bool {
    let deadline = clock::Deadline::after_microseconds(microseconds);
    while !cpu.is_online() {
        warp::lead();
        core::hint::spin_loop();
        if deadline.is_past() {
            return false;
        }
    }
    true
}
