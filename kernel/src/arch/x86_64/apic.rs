//! The local APIC: the CPU's own interrupt controller, through which CPUs interrupt each other, and its timer.
//!
//! It comes in two forms with the same registers. xAPIC has them in a page of memory, which the fixmap shows at a fixed address;
//! x2APIC has them in MSRs, has wider identifiers, and needs no memory access that a hypervisor must emulate. The kernel uses
//! x2APIC where CPUID reports it (Intel SDM vol. 3, chapter 12).

use core::sync::atomic::{AtomicBool, Ordering};

use kspace_layout::{Fixmap, FixmapSlot};
use x86_64::registers::model_specific::Msr;

use super::vector;

/// `IA32_APIC_BASE` (Intel SDM vol. 4, table 2-2).
const BASE_MSR: u32 = 0x1b;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;

/// `IA32_TSC_DEADLINE`.
const DEADLINE_MSR: u32 = 0x6e0;

/// Registers by their offset in the xAPIC's page; an x2APIC has each at MSR 800h + offset / 16 (Intel SDM vol. 3, table 12-6).
#[derive(Clone, Copy)]
#[repr(u32)]
enum Register {
    Id = 0x20,
    EndOfInterrupt = 0xb0,
    SpuriousVector = 0xf0,
    ErrorStatus = 0x280,
    CommandLow = 0x300,
    CommandHigh = 0x310,
    TimerVector = 0x320,
    TimerInitialCount = 0x380,
    TimerCurrentCount = 0x390,
    TimerDivide = 0x3e0,
}

const COMMAND_FIXED: u32 = 0;
const COMMAND_NMI: u32 = 0b100 << 8;
const COMMAND_INIT: u32 = 0b101 << 8;
const COMMAND_STARTUP: u32 = 0b110 << 8;
const COMMAND_ASSERT: u32 = 1 << 14;
const COMMAND_PENDING: u32 = 1 << 12;

const TIMER_MASKED: u32 = 1 << 16;
const TIMER_DEADLINE: u32 = 0b10 << 17;
/// The timer counts at its input clock (Intel SDM vol. 3, figure 12-10).
const DIVIDE_BY_1: u32 = 0b1011;

static X2APIC: AtomicBool = AtomicBool::new(false);

/// Which form this CPU uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Registers in memory.
    XApic,
    /// Registers in MSRs.
    X2Apic,
}

impl core::fmt::Display for Form {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::XApic => "xAPIC (x2APIC not present)",
            Self::X2Apic => "x2APIC",
        })
    }
}

/// Turns this CPU's local APIC on. Every CPU calls it once; all must report the same features.
pub fn enable(x2apic: bool) -> Form {
    let mut base = Msr::new(BASE_MSR);
    // SAFETY: the caller's CPUID reports the bits that are set; xAPIC to x2APIC is a permitted transition.
    unsafe {
        let value = base.read() | BASE_ENABLE;
        base.write(value);
        if x2apic {
            base.write(value | BASE_X2APIC);
        }
    }
    X2APIC.store(x2apic, Ordering::Release);
    write(
        Register::SpuriousVector,
        0x100 | u32::from(vector::SPURIOUS),
    );
    write(
        Register::TimerVector,
        TIMER_MASKED | u32::from(vector::TIMER),
    );
    if x2apic { Form::X2Apic } else { Form::XApic }
}

/// The identifier of this CPU's local APIC.
pub fn id() -> u32 {
    let value = read(Register::Id);
    if X2APIC.load(Ordering::Acquire) {
        value
    } else {
        value >> 24
    }
}

/// Says that the interrupt being handled is done.
#[inline]
pub fn end_of_interrupt() {
    write(Register::EndOfInterrupt, 0);
}

/// Sends `vector` to the CPU with this APIC identifier.
#[inline]
pub fn send(apic_id: u32, vector: u8) {
    command(apic_id, COMMAND_FIXED | COMMAND_ASSERT | u32::from(vector));
}

/// Sends an NMI.
pub fn send_nmi(apic_id: u32) {
    command(apic_id, COMMAND_NMI | COMMAND_ASSERT);
}

/// Sends INIT: the CPU resets and waits.
pub fn send_init(apic_id: u32) {
    write(Register::ErrorStatus, 0);
    command(apic_id, COMMAND_INIT | COMMAND_ASSERT);
}

/// Sends SIPI: the CPU starts in real mode at page `page` of the first MiB.
pub fn send_startup(apic_id: u32, page: u8) {
    write(Register::ErrorStatus, 0);
    command(apic_id, COMMAND_STARTUP | COMMAND_ASSERT | u32::from(page));
}

/// Makes the timer count down once from `count` and then interrupt.
pub fn start_timer(count: u32) {
    write(Register::TimerDivide, DIVIDE_BY_1);
    write(Register::TimerVector, u32::from(vector::TIMER));
    write(Register::TimerInitialCount, count);
}

/// Starts the timer without an interrupt, to measure its rate.
pub fn start_timer_silently() {
    write(Register::TimerDivide, DIVIDE_BY_1);
    write(
        Register::TimerVector,
        TIMER_MASKED | u32::from(vector::TIMER),
    );
    write(Register::TimerInitialCount, u32::MAX);
}

/// How far the timer has counted since [`start_timer_silently`].
pub fn timer_passed() -> u32 {
    u32::MAX - read(Register::TimerCurrentCount)
}

/// Stops the timer.
pub fn stop_timer() {
    write(
        Register::TimerVector,
        TIMER_MASKED | u32::from(vector::TIMER),
    );
    write(Register::TimerInitialCount, 0);
}

/// Makes the timer interrupt when the time-stamp counter reaches `ticks`.
///
/// # Safety
///
/// CPUID must report TSC-deadline (1, ECX bit 24).
pub unsafe fn start_deadline(ticks: u64) {
    write(
        Register::TimerVector,
        TIMER_DEADLINE | u32::from(vector::TIMER),
    );
    // SAFETY: the caller says that the MSR exists. The fence orders the write of the vector, which for an xAPIC is a store, before
    // it (Intel SDM vol. 3, section 12.5.4.1).
    unsafe {
        core::arch::x86_64::_mm_mfence();
        Msr::new(DEADLINE_MSR).write(ticks);
    }
}

#[inline]
fn command(apic_id: u32, low: u32) {
    if X2APIC.load(Ordering::Acquire) {
        // Unlike a store to memory, a write to this MSR is not ordered after stores before it, and the receiver must see
        // what the message is about (Intel SDM vol. 3, section 12.12.3).
        // SAFETY: x2APIC is on, so the MSR exists; the fence has no other effect.
        unsafe {
            core::arch::x86_64::_mm_mfence();
            Msr::new(msr(Register::CommandLow)).write(u64::from(apic_id) << 32 | u64::from(low));
        }
        return;
    }
    // An interrupt handler that sends between the two halves would send this one's message to its own destination.
    x86_64::instructions::interrupts::without_interrupts(|| {
        write(Register::CommandHigh, apic_id << 24);
        write(Register::CommandLow, low);
        while read(Register::CommandLow) & COMMAND_PENDING != 0 {
            core::hint::spin_loop();
        }
    });
}

const fn msr(register: Register) -> u32 {
    0x800 + (register as u32 >> 4)
}

fn pointer(register: Register) -> *mut u32 {
    const PAGE: u64 = match Fixmap.address(FixmapSlot::LocalApic) {
        Some(address) => address.as_u64(),
        None => panic!("the fixmap has a slot for the local APIC"),
    };
    (PAGE + register as u64) as *mut u32
}

#[inline]
fn read(register: Register) -> u32 {
    if X2APIC.load(Ordering::Acquire) {
        // SAFETY: x2APIC is on, so the MSR exists; reading it changes nothing.
        unsafe { Msr::new(msr(register)).read() as u32 }
    } else {
        // SAFETY: the kernel maps the registers in this slot of the fixmap, uncached.
        unsafe { pointer(register).read_volatile() }
    }
}

#[inline]
fn write(register: Register, value: u32) {
    if X2APIC.load(Ordering::Acquire) {
        // SAFETY: x2APIC is on, so the MSR exists, and the callers write only values that are defined.
        unsafe { Msr::new(msr(register)).write(u64::from(value)) };
    } else {
        // SAFETY: the kernel maps the registers in this slot of the fixmap, uncached.
        unsafe { pointer(register).write_volatile(value) };
    }
}
