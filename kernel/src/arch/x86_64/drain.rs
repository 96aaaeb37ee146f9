//! Asking every CPU to give back the frames that it keeps, and waiting until it has.
//!
//! ```text
//!   who is short of memory             every other CPU
//!   says "wanted" of each,
//!   interrupts it             --->     serve: unsays it, gives back what it keeps
//!   serves and waits until no          says "drained"
//!   CPU has it to do           <---
//! ```
//!
//! Only who holds no lock and is in no interrupt handler waits ([`atomic_context`]): a CPU that spins for that lock with interrupts
//! off would never answer. Two that wait for each other serve each other, shootdowns included.

use core::sync::atomic::Ordering;

use super::{apic, atomic_context, per_cpu, shootdown, vector};
use crate::memory;

/// Makes every other CPU give back what it keeps; false when this CPU must not wait for them.
pub fn drain_others() -> bool {
    if atomic_context::is_atomic() {
        return false;
    }
    let me = per_cpu::current();
    let others = || per_cpu::online().filter(|cpu| cpu.index() != me.index());
    for cpu in others() {
        // Release: the handler sees what was asked of the allocators before.
        cpu.drains_wanted.fetch_add(1, Ordering::Release);
        apic::local().send(cpu.apic_id(), vector::DRAIN);
    }
    for cpu in others() {
        while cpu.drains_wanted.load(Ordering::Acquire) > 0 {
            shootdown::KERNEL.serve();
            serve();
            core::hint::spin_loop();
        }
    }
    true
}

/// Does here what others have asked for: the interrupt's handler, and whoever waits for another CPU with interrupts off.
pub fn serve() {
    let wanted = &per_cpu::current().drains_wanted;
    // Interrupts off: the handler must not answer the same requests in between.
    x86_64::instructions::interrupts::without_interrupts(|| {
        let asked = wanted.load(Ordering::Acquire);
        if asked > 0 {
            memory::drain_here();
            wanted.fetch_sub(asked, Ordering::Release);
        }
    });
}
