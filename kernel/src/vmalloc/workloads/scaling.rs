//! How much more several CPUs do than one in the same time: with areas, and with work in which they share nothing. The second says what
//! the machine has.
//!
//! ```text
//!   CPU 0   --ready--|wait|======= loops, counted =======|-        one window of time, the same for all: the time-stamp counter
//!   CPU 1   ----ready|wait|======= loops, counted =======|---      is the only clock
//! ```
//!
//! All work until the window ends, so none does its last loops alone, and a purge costs whoever does it loops and nobody time.

use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::linux;
use crate::arch::{self, CpuData};
use crate::info;

/// Each figure is taken so often, one kind of work after the other.
const ROUNDS: u64 = 15;
/// Loops between two looks at the clock.
const BATCH: u64 = 64;
/// Ticks from when all are ready until they begin: so long that all have seen when that is.
const LEAD: u64 = 200_000;

/// What a CPU does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Areas of one page.
    Areas,
    /// Numbers of its own.
    Private,
}

static WINDOW: AtomicU64 = AtomicU64::new(0);
static WORKERS: AtomicU64 = AtomicU64::new(0);
static PRIVATE: AtomicU64 = AtomicU64::new(0);
static READY: AtomicU64 = AtomicU64::new(0);
static BEGIN: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);

/// Prints loops of all rounds; true when nothing failed. A window is as long as `loops` loops with areas take one CPU.
pub(super) fn run(loops: u64) -> bool {
    FAILED.store(0, Relaxed);
    let cpus = arch::cpus_online();
    // The first time makes what later ones find.
    for _ in 0..2 {
        let began = arch::ticks();
        work(Work::Areas, loops);
        WINDOW.store(arch::ticks() - began, Relaxed);
    }
    for round in 1..=ROUNDS {
        let [areas_one, private_one] = [Work::Areas, Work::Private].map(|work| done(work, 1));
        let [areas_all, private_all] = [Work::Areas, Work::Private].map(|work| done(work, cpus));
        info!(
            "test-vmalloc: scaling: round {round}, in {} ticks: areas {areas_one} loops on 1 CPU, {areas_all} on {cpus}; private {private_one} on \
             1, {private_all} on {cpus}",
            WINDOW.load(Relaxed)
        );
    }
    FAILED.load(Relaxed) == 0
}

/// How many loops so many CPUs do in a window.
fn done(work: Work, workers: u64) -> u64 {
    WORKERS.store(workers, Relaxed);
    PRIVATE.store(u64::from(work == Work::Private), Relaxed);
    READY.store(0, Relaxed);
    BEGIN.store(0, Relaxed);
    DONE.store(0, Relaxed);
    arch::on_all(job);
    DONE.load(Relaxed)
}

fn job(cpu: &'static CpuData) {
    let workers = WORKERS.load(Relaxed);
    if u64::from(cpu.index()) >= workers {
        return;
    }
    let what = match PRIVATE.load(Relaxed) {
        0 => Work::Areas,
        _ => Work::Private,
    };
    let (began, window) = (begin(workers), WINDOW.load(Relaxed));
    let mut loops = 0;
    let took = loop {
        work(what, BATCH);
        loops += BATCH;
        let took = arch::ticks() - began;
        if took >= window {
            break took;
        }
    };
    // What was done in the window: the last loops, or a purge, may have ended later.
    let done = u128::from(loops) * u128::from(window) / u128::from(took);
    DONE.fetch_add(done as u64, Relaxed);
}

/// Waits until all workers are there. Returns when all begin.
fn begin(workers: u64) -> u64 {
    // The last one says when; the others may be anywhere in this loop.
    if READY.fetch_add(1, SeqCst) + 1 == workers {
        BEGIN.store(arch::ticks() + LEAD, SeqCst);
    }
    loop {
        let began = BEGIN.load(SeqCst);
        if began != 0 && arch::ticks() >= began {
            return began;
        }
        core::hint::spin_loop();
    }
}

fn work(work: Work, loops: u64) {
    match work {
        Work::Private => private(loops),
        Work::Areas => {
            let done = crate::vmalloc::get().map(|areas| linux::fix_size(areas, loops));
            if !matches!(done, Some(Ok(_))) {
                FAILED.fetch_add(1, Relaxed);
            }
        }
    }
}

/// What a CPU has for itself, on its stack: cache lines that no other one touches.
#[repr(align(64))]
struct Lines([AtomicU64; 64]);

/// What an area's allocation, its first byte and its free are made of, on lines of this CPU's own: loads, stores and arithmetic, a locked
/// instruction now and then, and twice a part with interrupts off.
fn private(loops: u64) {
    let own = Lines([const { AtomicU64::new(0) }; 64]);
    let lines = &black_box(&own).0;
    let mut number = loops;
    for _ in 0..loops {
        for part in 0..2 {
            arch::pinned(|_| {
                for _ in 0..4 {
                    let word = &lines[(number % 8) as usize * 8];
                    let found = word.load(Relaxed);
                    // Nobody else changes it.
                    let changed = word.compare_exchange(found, found + part, SeqCst, Relaxed);
                    black_box(changed.is_ok());
                    for _ in 0..8 {
                        number = arch::mix(number);
                        let plain = &lines[(number % 64) as usize];
                        plain.store(plain.load(Relaxed) ^ number, Relaxed);
                    }
                }
            });
        }
    }
    black_box(number);
}
