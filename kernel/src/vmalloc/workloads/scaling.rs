//! How much more several CPUs do than one: with areas, and with work in which they share nothing. The second says what the machine has.

use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

use super::linux;
use crate::arch::{self, CpuData};
use crate::info;

/// Each figure is taken so often, one kind of work after the other.
const ROUNDS: u64 = 5;

/// What a CPU does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Areas of one page.
    Areas,
    /// Numbers of its own.
    Private,
}

static LOOPS: AtomicU64 = AtomicU64::new(0);
static WORKERS: AtomicU64 = AtomicU64::new(0);
static PRIVATE: AtomicU64 = AtomicU64::new(0);
static READY: AtomicU64 = AtomicU64::new(0);
static SLOWEST: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);

/// Prints ticks of all rounds; true when nothing failed.
pub(super) fn run(loops: u64) -> bool {
    LOOPS.store(loops, Ordering::Relaxed);
    FAILED.store(0, Ordering::Relaxed);
    let cpus = arch::cpus_online();
    for round in 1..=ROUNDS {
        let [areas_one, private_one] = [Work::Areas, Work::Private].map(|work| ticks(work, 1));
        let [areas_all, private_all] = [Work::Areas, Work::Private].map(|work| ticks(work, cpus));
        info!(
            "test-vmalloc: scaling: round {round}, {loops} loops on each CPU: areas {areas_one} ticks on 1 CPU, {areas_all} on {cpus}; private \
             {private_one} on 1, {private_all} on {cpus}"
        );
    }
    FAILED.load(Ordering::Relaxed) == 0
}

/// How long the slowest of so many CPUs takes.
fn ticks(work: Work, workers: u64) -> u64 {
    WORKERS.store(workers, Ordering::Relaxed);
    PRIVATE.store(u64::from(work == Work::Private), Ordering::Relaxed);
    READY.store(0, Ordering::Relaxed);
    SLOWEST.store(0, Ordering::Relaxed);
    arch::on_all(job);
    SLOWEST.load(Ordering::Relaxed)
}

fn job(cpu: &'static CpuData) {
    let (workers, loops) = (
        WORKERS.load(Ordering::Relaxed),
        LOOPS.load(Ordering::Relaxed),
    );
    if u64::from(cpu.index()) >= workers {
        return;
    }
    READY.fetch_add(1, Ordering::AcqRel);
    while READY.load(Ordering::Acquire) < workers {
        core::hint::spin_loop();
    }
    let began = arch::ticks();
    if PRIVATE.load(Ordering::Relaxed) == 1 {
        private(loops);
    } else if let Some(areas) = crate::vmalloc::get()
        && linux::fix_size(areas, loops).is_err()
    {
        FAILED.fetch_add(1, Ordering::Relaxed);
    }
    SLOWEST.fetch_max(arch::ticks() - began, Ordering::Relaxed);
}

/// About as long as an area takes, in registers.
fn private(loops: u64) {
    let mut number = loops;
    for _ in 0..loops * 40 {
        number = black_box(arch::mix(number));
    }
}
