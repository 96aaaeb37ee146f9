//! Interrupts kept off for a moment, and with them the proof that what allocates stays on its CPU and is not interrupted there: as a
//! value, which [`kspace::platform::Interrupts`] wants, and around a call.
//!
//! Each CPU has exactly one [`PinnedCpu`], made at compile time and only ever lent, so code that is called while the proof is lent
//! (a hook, a heap that grows) may ask again and gets the same one. An interrupt handler that allocates finds no allocator call
//! below it that is half done. An NMI may; its handler stops the CPU and allocates nothing.

use core::arch::asm;
use core::marker::PhantomData;
use core::mem::MaybeUninit;

use kspace::platform::{CpuId, Interrupts};
use kspace::vmalloc::Pinned;
use kspace_frames::PinnedCpu;
use kspace_frames::zone::NodeId;

use super::per_cpu;
use super::shootdown::Machine;
use crate::acpi::MAX_CPUS;

/// RFLAGS.IF (Intel SDM vol. 1, figure 3-8).
const INTERRUPT_FLAG: u64 = 1 << 9;

struct Pins([PinnedCpu; MAX_CPUS]);

// SAFETY: a CPU is lent only its own proof, by an `InterruptsOff` that stays on it, and only as long as that lives.
unsafe impl Sync for Pins {}

static PINS: Pins = Pins(make());

const fn make() -> [PinnedCpu; MAX_CPUS] {
    let mut pins = [const { MaybeUninit::<PinnedCpu>::uninit() }; MAX_CPUS];
    let mut cpu = 0;
    while cpu < MAX_CPUS {
        // SAFETY: the one proof for this CPU, used only with interrupts off on it: see `InterruptsOff`.
        pins[cpu] = MaybeUninit::new(unsafe { PinnedCpu::new(cpu as u16) });
        cpu += 1;
    }
    // SAFETY: the loop has written every one.
    unsafe { core::mem::transmute::<_, [PinnedCpu; MAX_CPUS]>(pins) }
}

/// Interrupts are off on this CPU as long as this lives, and it has the CPU's proof. Several end in the reverse of the order in which they
/// began.
#[derive(Debug)]
pub struct InterruptsOff {
    /// RFLAGS as they were.
    flags: u64,
    cpu: CpuId,
    pin: &'static PinnedCpu,
    /// It belongs to the CPU that made it.
    here: PhantomData<*const ()>,
}

impl InterruptsOff {
    #[inline(always)]
    fn new() -> Self {
        let flags: u64;
        // SAFETY: pushes and pops one word, and turns interrupts off, which is no memory's business. What is done after it stays after it,
        // because it may touch memory as far as the compiler knows.
        unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags) };
        let cpu = per_cpu::current_index() as usize;
        Self {
            flags,
            cpu: CpuId::new(cpu),
            pin: &PINS.0[cpu],
            here: PhantomData,
        }
    }
}

impl Drop for InterruptsOff {
    #[inline(always)]
    fn drop(&mut self) {
        if self.flags & INTERRUPT_FLAG != 0 {
            // SAFETY: they were on before, and nobody else keeps them off: the values end in order. As above for the order of memory.
            unsafe { asm!("sti", options(nostack)) };
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
        per_cpu::current_home()
    }
}

// SAFETY: nothing preempts kernel code, and interrupts, the one vehicle of shootdowns, are off while the value lives.
unsafe impl Interrupts for Machine {
    type Off = InterruptsOff;

    #[inline(always)]
    fn interrupts_off(&self) -> InterruptsOff {
        InterruptsOff::new()
    }

    #[inline(always)]
    fn id_of(&self, off: &InterruptsOff) -> CpuId {
        off.cpu
    }
}

/// Runs `body` with interrupts off and the proof that it stays on this CPU. `body` must not turn them on, and must wait for another
/// CPU only in a way that serves the other's requests meanwhile ([`drain`](super::drain)).
#[inline(always)]
pub fn pinned<R>(body: impl FnOnce(&PinnedCpu) -> R) -> R {
    // One place for the call, unlike `without_interrupts`, so that a short body is made part of the caller.
    body(InterruptsOff::new().pin())
}
