//! The time-stamp counter, and its rate measured against the 8254 timer while the kernel builds its tables.
//!
//! Channel 2 of the timer is started at entry and read once the tables stand: the work in between is the measurement, so
//! that calibration costs no waiting. One-shot mode says whether the count has run out in the meantime (a slow console does
//! that); then a short measurement is made for its own sake.

use core::arch::x86_64::_rdtsc;
use core::num::NonZeroU64;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::port::Port;

/// Input clock of the 8254 in Hz (105/88 MHz, as Linux's `PIT_TICK_RATE`, include/linux/timex.h).
const TIMER_HZ: u64 = 1_193_182;
/// The counter's first value, and the longest time it measures: 54.9 ms.
const FULL_COUNT: u16 = 0xffff;
/// Fewer timer ticks than this (0.1 ms) would give a rate worse than one percent.
const ENOUGH_TICKS: u64 = 120;

/// Ticks per second; 0 before [`measure`].
static RATE: AtomicU64 = AtomicU64::new(0);
static ENTRY: AtomicU64 = AtomicU64::new(0);
static TIMER_STARTED: AtomicU64 = AtomicU64::new(0);

/// The time-stamp counter.
#[inline]
pub fn ticks() -> u64 {
    // SAFETY: every CPU with long mode has RDTSC, and CR4.TSD is clear in a kernel.
    unsafe { _rdtsc() }
}

/// The time-stamp counter, read after all loads before it have their values: without the fence a CPU may read it first (Intel SDM
/// vol. 2, RDTSC).
#[inline]
pub fn ticks_after_loads() -> u64 {
    // SAFETY: every CPU with long mode has LFENCE, and it only orders.
    unsafe { core::arch::x86_64::_mm_lfence() };
    ticks()
}

/// Ticks since the kernel's first instruction.
pub fn ticks_since_entry() -> u64 {
    ticks().saturating_sub(ENTRY.load(Ordering::Relaxed))
}

/// Remembers the counter at entry and starts the timer.
pub fn start(entry_ticks: u64) {
    ENTRY.store(entry_ticks, Ordering::Relaxed);
    start_timer();
}

fn start_timer() {
    let (mut gate, mut command, mut channel2) = (
        Port::<u8>::new(0x61),
        Port::<u8>::new(0x43),
        Port::<u8>::new(0x42),
    );
    // SAFETY: ports of the PC's timer; channel 2 drives only the speaker, which bit 1 of port 61h keeps off.
    unsafe {
        let value = gate.read();
        gate.write((value & !2) | 1);
        // Channel 2, low byte then high byte, mode 0 (one shot), binary.
        command.write(0b1011_0000);
        channel2.write(FULL_COUNT as u8);
        channel2.write((FULL_COUNT >> 8) as u8);
    }
    TIMER_STARTED.store(ticks(), Ordering::Relaxed);
}

/// Ticks per second, measured since [`start`]; waits a tenth of a millisecond where that measurement is too short or the timer has run
/// out. `None` when the timer does not count.
pub fn measure() -> Option<NonZeroU64> {
    let rate = rate_so_far().or_else(|| {
        start_timer();
        rate_so_far()
    })?;
    RATE.store(rate.get(), Ordering::Relaxed);
    Some(rate)
}

/// Ticks in so many microseconds. Before the rate is known, a fast CPU is assumed: waits come out too long, not too short.
pub fn ticks_in_microseconds(microseconds: u64) -> u64 {
    const FAST: u64 = 10_000_000_000;
    let rate = match RATE.load(Ordering::Relaxed) {
        0 => FAST,
        rate => rate,
    };
    (u128::from(microseconds) * u128::from(rate) / 1_000_000) as u64
}

/// Microseconds in so many ticks; 0 before the rate is known.
pub fn microseconds_in(ticks: u64) -> u64 {
    match RATE.load(Ordering::Relaxed) {
        0 => 0,
        rate => (u128::from(ticks) * 1_000_000 / u128::from(rate)) as u64,
    }
}

/// A moment to come.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    ticks: u64,
}

impl Deadline {
    /// So many microseconds from now.
    pub fn after_microseconds(microseconds: u64) -> Self {
        Self {
            ticks: ticks().saturating_add(ticks_in_microseconds(microseconds)),
        }
    }

    /// Whether it has come.
    pub fn is_past(self) -> bool {
        ticks() >= self.ticks
    }
}

fn rate_so_far() -> Option<NonZeroU64> {
    let started = TIMER_STARTED.load(Ordering::Relaxed);
    // Each round reads three ports, about a microsecond each: enough rounds for any timer that counts at all.
    for _ in 0..10_000 {
        let passed = passed_timer_ticks()?;
        let now = ticks();
        if passed >= ENOUGH_TICKS {
            let rate = u128::from(now - started) * u128::from(TIMER_HZ) / u128::from(passed);
            return NonZeroU64::new(u64::try_from(rate).ok()?);
        }
    }
    None
}

/// How far channel 2 has counted down; `None` once it has run out.
fn passed_timer_ticks() -> Option<u64> {
    let (mut gate, mut command, mut channel2) = (
        Port::<u8>::new(0x61),
        Port::<u8>::new(0x43),
        Port::<u8>::new(0x42),
    );
    // SAFETY: reading and latching the timer changes nothing that anyone else uses.
    let (output, count) = unsafe {
        command.write(0b1000_0000);
        let low = channel2.read();
        let high = channel2.read();
        (gate.read() & 0x20 != 0, u16::from_le_bytes([low, high]))
    };
    (!output).then(|| u64::from(FULL_COUNT - count))
}
