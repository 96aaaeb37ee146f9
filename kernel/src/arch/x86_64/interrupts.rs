//! Interrupts kept off for a moment, as [`kspace::platform::Interrupts`] wants it: by a value, and with the proof for the frame allocator
//! in it.

use core::marker::PhantomData;

use kspace::platform::Interrupts;
use kspace::vmalloc::Pinned;
use kspace_frames::PinnedCpu;
use kspace_frames::zone::NodeId;
use x86_64::instructions::interrupts;

use super::shootdown::Machine;
use super::{per_cpu, pinned};

/// Interrupts are off on this CPU as long as this lives.
#[derive(Debug)]
pub struct InterruptsOff {
    were_on: bool,
    pin: &'static PinnedCpu,
    /// It belongs to the CPU that made it.
    here: PhantomData<*const ()>,
}

impl InterruptsOff {
    #[inline(always)]
    fn new() -> Self {
        let were_on = interrupts::are_enabled();
        interrupts::disable();
        Self {
            were_on,
            // SAFETY: interrupts are off until this value is dropped, and the proof is lent only as long as it lives.
            pin: unsafe { pinned::own_pin() },
            here: PhantomData,
        }
    }
}

impl Drop for InterruptsOff {
    #[inline(always)]
    fn drop(&mut self) {
        if self.were_on {
            interrupts::enable();
        }
    }
}

impl Pinned for InterruptsOff {
    #[inline(always)]
    fn pin(&self) -> &PinnedCpu {
        self.pin
    }

    #[inline(always)]
    fn home(&self) -> NodeId {
        per_cpu::current().home()
    }
}

// SAFETY: nothing preempts kernel code, and interrupts, the one vehicle of shootdowns, are off while the value lives.
unsafe impl Interrupts for Machine {
    type Off = InterruptsOff;

    #[inline(always)]
    fn interrupts_off(&self) -> InterruptsOff {
        InterruptsOff::new()
    }
}
