//! The proof that what allocates stays on its CPU and is not interrupted there: interrupts are off while it is lent.
//!
//! Each CPU has exactly one [`PinnedCpu`], made at compile time and only ever lent, so code that is called while the proof is lent
//! (a hook, a heap that grows) may ask again and gets the same one. An interrupt handler that allocates finds no allocator call
//! below it that is half done. An NMI may; its handler stops the CPU and allocates nothing.

use core::mem::MaybeUninit;

use kspace_frames::PinnedCpu;
use x86_64::instructions::interrupts;

use super::per_cpu;
use crate::acpi::MAX_CPUS;

struct Pins([PinnedCpu; MAX_CPUS]);

// SAFETY: a CPU is lent only its own proof: by `pinned`, to a function that runs on it to its end, or by `own_pin`, whose caller
// promises the same.
unsafe impl Sync for Pins {}

static PINS: Pins = Pins(make());

const fn make() -> [PinnedCpu; MAX_CPUS] {
    let mut pins = [const { MaybeUninit::<PinnedCpu>::uninit() }; MAX_CPUS];
    let mut cpu = 0;
    while cpu < MAX_CPUS {
        // SAFETY: the one proof for this CPU, used only with interrupts off on it: see `pinned`.
        pins[cpu] = MaybeUninit::new(unsafe { PinnedCpu::new(cpu as u16) });
        cpu += 1;
    }
    // SAFETY: the loop has written every one.
    unsafe { core::mem::transmute::<_, [PinnedCpu; MAX_CPUS]>(pins) }
}

/// This CPU's proof.
///
/// # Safety
///
/// Interrupts are off, and stay off as long as the reference is used.
#[inline(always)]
pub(super) unsafe fn own_pin() -> &'static PinnedCpu {
    &PINS.0[per_cpu::current().index() as usize]
}

/// Runs `body` with interrupts off and the proof that it stays on this CPU. `body` must not turn them on, and must wait for another
/// CPU only in a way that serves the other's requests meanwhile ([`drain`](super::drain)).
#[inline(always)]
pub fn pinned<R>(body: impl FnOnce(&PinnedCpu) -> R) -> R {
    // One place for the call, unlike `without_interrupts`, so that a short body is made part of the caller.
    let were_on = interrupts::are_enabled();
    if were_on {
        interrupts::disable();
    }
    let result = body(&PINS.0[per_cpu::current().index() as usize]);
    if were_on {
        interrupts::enable();
    }
    result
}
