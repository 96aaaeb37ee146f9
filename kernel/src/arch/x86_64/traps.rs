//! What happens at an exception or an interrupt.
//!
//! Of exceptions, only the breakpoint of code that is being changed is recovered from; every other one ends the boot, and what it is
//! worth is what it says. Interrupts are counted, served and return.

use core::sync::atomic::Ordering;

use x86_64::registers::control::Cr2;

use super::leave::{self, Outcome};
use super::{apic, atomic_context, drain, explain, per_cpu, shootdown, stop, text_patch, vector};
use crate::info;
use crate::memory::stress;
use crate::vmalloc::workloads;

/// What the stubs push, lowest address first.
#[repr(C)]
#[derive(Debug)]
pub struct TrapFrame {
    /// General registers, named by [`REGISTER_NAMES`].
    pub registers: [u64; 15],
    /// Which exception.
    pub vector: u64,
    /// Its error code; 0 for those without one.
    pub error_code: u64,
    /// Where it happened.
    pub instruction: u64,
    code_segment: u64,
    flags: u64,
    /// The stack pointer then.
    pub stack: u64,
    stack_segment: u64,
}

/// Names of `TrapFrame::registers`, in the order of the pushes reversed.
pub const REGISTER_NAMES: [&str; 15] = [
    "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rbp", "rdi", "rsi", "rdx", "rcx", "rbx",
    "rax",
];

/// Called by the stubs, with interrupts off.
pub extern "C" fn handle_trap(frame: &mut TrapFrame) {
    if frame.vector == vector::BREAKPOINT && text_patch::step_over(frame) {
        return;
    }
    if frame.vector == vector::NMI && stop::is_wanted() {
        stop::stop_here(frame);
    }
    if frame.vector < vector::FIRST_INTERRUPT {
        exception(frame);
    }
    interrupt(frame.vector as u8);
}

/// Says what happened and ends the boot.
fn exception(frame: &TrapFrame) -> ! {
    let address = Cr2::read_raw();
    stop::stop_others(Some(frame));
    explain::explain(frame, address);
    print_registers(frame);
    stop::print_stack_at(frame.stack);
    stop::report_others();
    info!("kspace: stopped by a fault");
    leave::leave(Outcome::Failure)
}

fn interrupt(vector: u8) {
    let cpu = per_cpu::current();
    atomic_context::enter();
    shootdown::KERNEL.leave_lazy();
    match vector {
        // Waking was all that it was sent for.
        vector::RESCHEDULE => apic::local().end_of_interrupt(),
        vector::TIMER => {
            cpu.timer_interrupts.fetch_add(1, Ordering::Relaxed);
            stress::in_handler(cpu);
            workloads::in_handler(cpu);
            apic::local().end_of_interrupt();
        }
        vector::SHOOTDOWN => {
            cpu.shootdown_interrupts.fetch_add(1, Ordering::Relaxed);
            shootdown::KERNEL.serve();
            apic::local().end_of_interrupt();
        }
        vector::DRAIN => {
            cpu.drain_interrupts.fetch_add(1, Ordering::Relaxed);
            drain::serve();
            apic::local().end_of_interrupt();
        }
        // A spurious interrupt sets no bit that an end of interrupt would clear (Intel SDM vol. 3, section 12.9).
        vector::SPURIOUS => {
            cpu.spurious_interrupts.fetch_add(1, Ordering::Relaxed);
        }
        other => {
            info!(
                "interrupt {other:#x} on CPU {}, which nobody asked for",
                cpu.index()
            );
            apic::local().end_of_interrupt();
        }
    }
    atomic_context::exit();
}

fn print_registers(frame: &TrapFrame) {
    info!(
        "  rip {:016x} cs {:04x} rflags {:08x} rsp {:016x} ss {:04x} error {:04x}",
        frame.instruction,
        frame.code_segment,
        frame.flags,
        frame.stack,
        frame.stack_segment,
        frame.error_code
    );
    let mut names = REGISTER_NAMES.iter().zip(&frame.registers);
    while let Some((name, value)) = names.next() {
        let (Some(second), Some(third)) = (names.next(), names.next()) else {
            break;
        };
        info!(
            "  {name:>3} {value:016x} {:>3} {:016x} {:>3} {:016x}",
            second.0, second.1, third.0, third.1
        );
    }
}
