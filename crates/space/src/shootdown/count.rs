//! Counts of what the protocol did, for benchmarks and the curious. They order nothing, so they are no part of its models.

use core::ops::Add;
use core::sync::atomic::{AtomicU64, Ordering};

/// What has been done so far, on one CPU or on all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Flushes that this CPU wanted: one, whatever it is made of.
    pub flushes: u64,
    /// CPUs that were interrupted for them.
    pub interrupts: u64,
    /// Pages forgotten one by one.
    pub pages: u64,
    /// Times that all was forgotten.
    pub wholes: u64,
    /// Of these, the times that nobody had asked for that: the request was not in its slot.
    pub unfound: u64,
}

impl Add for Activity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            flushes: self.flushes + other.flushes,
            interrupts: self.interrupts + other.interrupts,
            pages: self.pages + other.pages,
            wholes: self.wholes + other.wholes,
            unfound: self.unfound + other.unfound,
        }
    }
}

/// One CPU's counts, which it writes alone.
pub(super) struct Counts {
    pub(super) flushes: Count,
    pub(super) interrupts: Count,
    pub(super) pages: Count,
    pub(super) wholes: Count,
    pub(super) unfound: Count,
}

impl Counts {
    pub(super) const fn new() -> Self {
        Self {
            flushes: Count::new(),
            interrupts: Count::new(),
            pages: Count::new(),
            wholes: Count::new(),
            unfound: Count::new(),
        }
    }

    pub(super) fn read(&self) -> Activity {
        Activity {
            flushes: self.flushes.read(),
            interrupts: self.interrupts.read(),
            pages: self.pages.read(),
            wholes: self.wholes.read(),
            unfound: self.unfound.read(),
        }
    }
}

/// One count.
pub(super) struct Count(AtomicU64);

impl Count {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds. An interrupt may add in between, so this is one instruction.
    #[inline]
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
