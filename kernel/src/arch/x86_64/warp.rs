//! Do the time-stamp counters of two CPUs agree? A clock read on one CPU must never be behind one read earlier on another.
//!
//! While a CPU starts, it and the boot CPU each look at the latest reading of either, then read their own counter, then publish it; a
//! reading below the one seen before it is a *warp* (Linux's check takes turns under a lock: arch/x86/kernel/tsc_sync.c,
//! `check_tsc_warp`). No lock here: a CPU that is given up and reset in the middle would take it along, and hold up the next one.

use core::sync::atomic::{AtomicU64, Ordering};

use super::clock;

/// Readings that a starting CPU takes.
const READINGS: u32 = 500;

/// The latest reading of any CPU.
static LAST: AtomicU64 = AtomicU64::new(0);
static WORST: AtomicU64 = AtomicU64::new(0);

/// One reading, by the CPU that waits for another.
pub fn lead() {
    let last = LAST.load(Ordering::Acquire);
    let now = clock::ticks_after_loads();
    if now < last {
        WORST.fetch_max(last - now, Ordering::Relaxed);
    }
    LAST.fetch_max(now, Ordering::Release);
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
