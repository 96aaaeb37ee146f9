//! Interrupts that allocate: a handler must find no allocator call half done on its CPU, and no lock held below it.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use alloc::boxed::Box;

use kspace_frames::Owner;
use kspace_frames::zone::{Request, Urgency};

use super::held::Held;
use super::mixed::Dice;
use super::tally::TALLY;
use crate::arch::{self, CpuData};
use crate::memory;

static ON: AtomicBool = AtomicBool::new(false);

/// What a handler asks for.
const URGENT: Request = Request::order(0)
    .urgency(Urgency::Atomic)
    .owner(Owner::new(10));

/// From now on the timer's handler allocates.
pub(super) fn turn_on() {
    ON.store(true, Relaxed);
}

/// The timer's handler allocates no more.
pub(super) fn turn_off() {
    ON.store(false, Relaxed);
}

/// Has this CPU interrupted in one of the next moments.
pub(super) fn soon(dice: &mut Dice) {
    arch::interrupt_in(1 + dice.below(200));
}

/// Waits for an interrupt on this CPU, so that each takes one at least, however few its rounds are.
pub(super) fn wait_for_one(cpu: &CpuData) {
    let before = cpu.timer_interrupts.load(Relaxed);
    arch::interrupt_in(1);
    while cpu.timer_interrupts.load(Relaxed) == before {
        core::hint::spin_loop();
    }
}

/// The timer's handler, while the stress is on: a frame and a piece of the heap, each checked.
pub fn in_handler(cpu: &CpuData) {
    if !ON.load(Relaxed) {
        return;
    }
    let Some(memory) = memory::get() else { return };
    let number = u64::from(cpu.index()) << 32 | TALLY.interrupts();
    match memory.allocate(&URGENT) {
        Ok(block) => Held::fill(memory, block, number).free(),
        Err(_) => TALLY.add_refusals(1),
    }
    let piece = Box::new([number; 9]);
    TALLY.add_wrong(u64::from(*core::hint::black_box(piece) != [number; 9]));
    TALLY.add_interrupts(1);
}
