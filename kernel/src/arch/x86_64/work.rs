//! Work for all CPUs at once: the boot CPU hands a job out, every CPU runs it, the boot CPU waits for all.
//!
//! There is no scheduler yet. Idle CPUs look for a job whenever they wake, and an interrupt wakes them.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use super::per_cpu::{self, CpuData};
use super::{apic, vector};

/// Something to do on every CPU, with interrupts on.
pub type Job = fn(&'static CpuData);

static JOB: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// How many jobs have been handed out. Each CPU keeps the number of the last one it has run.
static ROUND: AtomicU64 = AtomicU64::new(0);
static UNFINISHED: AtomicU32 = AtomicU32::new(0);

/// Runs `job` on every CPU that is online, this one among them, and returns when all have finished. Only the boot CPU hands out
/// jobs, one at a time.
pub fn on_all(job: Job) {
    let me = per_cpu::current();
    let others = || per_cpu::online().filter(|cpu| cpu.index() != me.index());
    UNFINISHED.store(others().count() as u32, Ordering::Relaxed);
    JOB.store(job as *mut (), Ordering::Relaxed);
    // Whoever sees the new round sees the job.
    ROUND.fetch_add(1, Ordering::Release);
    others().for_each(|cpu| apic::local().send(cpu.apic_id(), vector::RESCHEDULE));
    job(me);
    while UNFINISHED.load(Ordering::Acquire) > 0 {
        core::hint::spin_loop();
    }
}

/// Runs the job that `cpu` has not run yet; false when there is none. Called with interrupts off, by the CPU itself.
pub fn run(cpu: &'static CpuData) -> bool {
    let round = ROUND.load(Ordering::Acquire);
    if cpu.round.load(Ordering::Relaxed) == round {
        return false;
    }
    cpu.round.store(round, Ordering::Relaxed);
    let job = JOB.load(Ordering::Relaxed);
    x86_64::instructions::interrupts::enable();
    // SAFETY: only `on_all` stores here, from this very type of function, before the round that was seen.
    let job = unsafe { core::mem::transmute::<*mut (), Job>(job) };
    job(cpu);
    UNFINISHED.fetch_sub(1, Ordering::Release);
    true
}
