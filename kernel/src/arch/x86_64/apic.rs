//! The machine's side of [`local_apic`](crate::local_apic): the page that the fixmap shows, and the MSRs.

use core::sync::atomic::{AtomicBool, Ordering};

use kspace_layout::{Fixmap, FixmapSlot};
use x86_64::registers::model_specific::Msr;

use super::vector;
use crate::local_apic::{Form, LocalApic, Registers, Vectors};

/// Whether the CPUs have x2APIC. All have the same form; the boot CPU decides before it starts another.
static X2APIC: AtomicBool = AtomicBool::new(false);

/// Decides the form: x2APIC where CPUID reports it.
pub fn choose(x2apic: bool) -> Form {
    X2APIC.store(x2apic, Ordering::Release);
    form()
}

fn form() -> Form {
    if X2APIC.load(Ordering::Acquire) {
        Form::X2Apic
    } else {
        Form::XApic
    }
}

/// The local APIC of the CPU that runs here.
#[inline]
pub fn local() -> LocalApic<Machine> {
    let vectors = Vectors {
        timer: vector::TIMER,
        spurious: vector::SPURIOUS,
    };
    LocalApic::new(Machine, form(), vectors)
}

/// The registers as they are.
#[derive(Clone, Copy, Debug)]
pub struct Machine;

fn pointer(offset: u32) -> *mut u32 {
    const PAGE: u64 = match Fixmap.address(FixmapSlot::LocalApic) {
        Some(address) => address.as_u64(),
        None => panic!("the fixmap has a slot for the local APIC"),
    };
    (PAGE + u64::from(offset & 0xfff)) as *mut u32
}

impl Registers for Machine {
    #[inline]
    fn read_memory(&self, offset: u32) -> u32 {
        // SAFETY: `fixmap::bring_up` has set this slot, uncached, before any CPU's local APIC is used; it is never cleared.
        unsafe { pointer(offset).read_volatile() }
    }

    #[inline]
    fn write_memory(&self, offset: u32, value: u32) {
        // SAFETY: as above; the callers write only values that are defined.
        unsafe { pointer(offset).write_volatile(value) };
    }

    #[inline]
    fn read_msr(&self, number: u32) -> u64 {
        // SAFETY: asked only for MSRs that the form and the CPU's features have; reading these changes nothing.
        unsafe { Msr::new(number).read() }
    }

    #[inline]
    fn write_msr(&self, number: u32, value: u64) {
        // SAFETY: as above; the callers write only values that are defined.
        unsafe { Msr::new(number).write(value) };
    }

    #[inline]
    fn fence(&self) {
        // SAFETY: every CPU with long mode has both, and they only order.
        unsafe {
            core::arch::x86_64::_mm_mfence();
            core::arch::x86_64::_mm_lfence();
        }
    }

    #[inline]
    fn without_interrupts(&self, action: impl FnOnce()) {
        x86_64::instructions::interrupts::without_interrupts(action);
    }
}
