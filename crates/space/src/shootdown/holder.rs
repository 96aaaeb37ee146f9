//! What each CPU says of itself: how far it has come, and whether it uses the translations at all.

use core::fmt;

use super::count::Counts;
use super::sync::{AtomicU32, AtomicU64, Ordering};
use crate::platform::{CpuId, CpuMask};

/// How a CPU stands to the translations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holding {
    /// It has none, and gets none before it joins.
    Out,
    /// It uses them.
    Active,
    /// It has them, and may walk the tables on its own account, but uses none before it has caught up.
    Lazy,
    /// It has left the tables, and keeps translations under a PCID that is not current; so it walks nothing.
    Away,
    /// It has stopped for good: nobody waits for it.
    Gone,
}

impl Holding {
    const fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::Active,
            2 => Self::Lazy,
            3 => Self::Away,
            4 => Self::Gone,
            _ => Self::Out,
        }
    }

    const fn raw(self) -> u32 {
        match self {
            Self::Out => 0,
            Self::Active => 1,
            Self::Lazy => 2,
            Self::Away => 3,
            Self::Gone => 4,
        }
    }

    /// Whether the CPU may be passed over by a request, because it catches up before it uses anything.
    pub(super) const fn catches_up_later(self, tables: bool) -> bool {
        match self {
            Self::Active => false,
            // It may be walking: tables must not be taken from under it.
            Self::Lazy => !tables,
            Self::Out | Self::Away | Self::Gone => true,
        }
    }
}

impl fmt::Display for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Out => "out",
            Self::Active => "active",
            Self::Lazy => "lazy",
            Self::Away => "away",
            Self::Gone => "gone",
        })
    }
}

/// One CPU's word to the others, in a cache line of its own: only that CPU writes here, but for `expect` and `gone`.
#[repr(align(64))]
pub(super) struct Holder {
    /// All generations up to this one are forgotten here.
    seen: AtomicU64,
    holding: AtomicU32,
    pub(super) counts: Counts,
}

impl Holder {
    constructor! {
        pub(super) fn new() -> Self {
            Self {
                seen: AtomicU64::new(0),
                holding: AtomicU32::new(Holding::Out.raw()),
                counts: Counts::new(),
            }
        }
    }

    /// How far the CPU has come. What it used before it came there, it used before this returned.
    #[inline]
    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    /// The CPU has come as far as `generation`, or was further already: an interrupt inside a catch-up may have taken it on.
    #[inline]
    pub(super) fn advance(&self, generation: u64) {
        self.seen.fetch_max(generation, Ordering::AcqRel);
    }

    /// As [`advance`](Self::advance), but takes the CPU back when it was further.
    pub(super) fn set_seen(&self, generation: u64) {
        self.seen.store(generation, Ordering::Release);
    }

    #[inline]
    pub(super) fn holding(&self) -> Holding {
        Holding::from_raw(self.holding.load(Ordering::Acquire))
    }

    #[inline]
    pub(super) fn set_holding(&self, holding: Holding) {
        self.holding.store(holding.raw(), Ordering::Release);
    }

    /// Changes from one to another, unless it is neither.
    pub(super) fn change_holding(&self, from: Holding, to: Holding) {
        // When it has changed meanwhile, there is nothing to do.
        let _ = self.holding.compare_exchange(
            from.raw(),
            to.raw(),
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
    }
}

/// The CPUs that others must look at. Changes only when one comes or goes.
pub(super) struct Holders {
    words: [AtomicU64; CpuMask::CAPACITY / 64],
}

impl Holders {
    constructor! {
        pub(super) fn new() -> Self {
            Self {
                words: array_of![AtomicU64::new(0); CpuMask::CAPACITY / 64],
            }
        }
    }

    /// Whoever adds a CPU fences before that CPU uses anything.
    pub(super) fn add(&self, cpu: CpuId) {
        self.words[cpu.index() / 64].fetch_or(1 << (cpu.index() % 64), Ordering::Relaxed);
    }

    /// What the CPU has used, it used before whoever does not see it any more goes on.
    pub(super) fn remove(&self, cpu: CpuId) {
        self.words[cpu.index() / 64].fetch_and(!(1 << (cpu.index() % 64)), Ordering::Release);
    }

    /// The CPUs now, of which only the first `cpus` can be in.
    #[inline]
    pub(super) fn load(&self, cpus: usize) -> CpuMask {
        let mut words = [0; CpuMask::CAPACITY / 64];
        let used = cpus.div_ceil(64);
        for (to, from) in words.iter_mut().zip(&self.words).take(used) {
            *to = from.load(Ordering::Acquire);
        }
        CpuMask::from_words(words)
    }
}
