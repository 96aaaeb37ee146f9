//! The timer interrupt of each CPU, from its local APIC.
//!
//! Where CPUID reports TSC-deadline, the timer compares with the time-stamp counter itself, and there is nothing to calibrate.
//! Elsewhere it counts at a rate of its own, which the boot CPU measures against the time-stamp counter; all CPUs of a machine
//! share it.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use super::boot::Handoff;
use super::{apic, clock, per_cpu};

/// How long the rate is measured.
const MEASURED_MICROSECONDS: u64 = 200;

/// Timer ticks per millisecond; 0 before [`calibrate`].
static TICKS_PER_MILLISECOND: AtomicU64 = AtomicU64::new(0);

/// What the timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// The time-stamp counter.
    Deadline,
    /// Its own input clock.
    Counter {
        /// Its rate.
        ticks_per_millisecond: u64,
    },
}

impl fmt::Display for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Deadline => f.write_str("TSC-deadline"),
            Self::Counter {
                ticks_per_millisecond,
            } => {
                let (mhz, khz) = (ticks_per_millisecond / 1000, ticks_per_millisecond % 1000);
                write!(f, "{mhz}.{khz:03} MHz (TSC-deadline not present)")
            }
        }
    }
}

/// Finds out what the timer counts. On the boot CPU, whose local APIC is on.
pub fn calibrate(handoff: &Handoff) -> Timer {
    if handoff.features.tsc_deadline {
        return Timer::Deadline;
    }
    apic::local().start_timer_silently();
    let (began, from) = (clock::ticks(), apic::local().timer_passed());
    let deadline = clock::Deadline::after_microseconds(MEASURED_MICROSECONDS);
    while !deadline.is_past() {
        core::hint::spin_loop();
    }
    // What really passed, not what was asked for: a hypervisor may have run something else in between.
    let (took, to) = (clock::ticks() - began, apic::local().timer_passed());
    apic::local().stop_timer();
    let per_millisecond = u128::from(clock::ticks_in_microseconds(1000));
    let rate = u128::from(to.wrapping_sub(from)) * per_millisecond / u128::from(took.max(1));
    let ticks_per_millisecond = (rate as u64).max(1);
    TICKS_PER_MILLISECOND.store(ticks_per_millisecond, Ordering::Release);
    Timer::Counter {
        ticks_per_millisecond,
    }
}

/// Makes this CPU's timer interrupt once, so many microseconds from now.
pub fn arm(handoff: &Handoff, microseconds: u64) {
    if handoff.features.tsc_deadline {
        let ticks = clock::ticks().saturating_add(clock::ticks_in_microseconds(microseconds));
        apic::local().start_deadline(ticks);
        return;
    }
    let rate = TICKS_PER_MILLISECOND.load(Ordering::Acquire);
    let count = u128::from(microseconds) * u128::from(rate) / 1000;
    apic::local().start_timer(u32::try_from(count).unwrap_or(u32::MAX).max(1));
}

/// Waits until every CPU that is online has taken a timer interrupt, and returns how many have.
pub fn count_interrupted(microseconds: u64) -> usize {
    let deadline = clock::Deadline::after_microseconds(microseconds);
    let interrupted = || {
        per_cpu::online()
            .filter(|cpu| cpu.timer_interrupts.load(Ordering::Relaxed) > 0)
            .count()
    };
    while interrupted() < per_cpu::online().count() && !deadline.is_past() {
        core::hint::spin_loop();
    }
    interrupted()
}
