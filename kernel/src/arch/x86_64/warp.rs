//! Do the time-stamp counters of two CPUs agree? A clock read on one CPU must never be behind one read earlier on another.
//!
//! While a CPU starts, it and the boot CPU take turns reading their counters under a lock; a reading below the one before it is a
//! *warp* (Linux does the same: arch/x86/kernel/tsc_sync.c, `check_tsc_warp`).

use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use super::clock;

/// Readings that a starting CPU takes.
const READINGS: u32 = 500;

static LAST: Mutex<u64> = Mutex::new(0);
static WORST: AtomicU64 = AtomicU64::new(0);

/// One reading, by the CPU that waits for another.
pub fn lead() {
    let mut last = LAST.lock();
    let now = clock::ticks();
    if now < *last {
        WORST.fetch_max(*last - now, Ordering::Relaxed);
    }
    *last = now;
}

/// The readings of a CPU that starts.
pub fn follow() {
    for _ in 0..READINGS {
        lead();
    }
}

/// The worst warp seen, in ticks; 0 when the counters agree.
pub fn worst() -> u64 {
    WORST.load(Ordering::Relaxed)
}
