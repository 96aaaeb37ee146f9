//! What the CPUs share to agree on flushes: [`Shootdown`], how one is made and looked at.

use core::fmt;

use super::holder::{Holder, Holders};
use super::ring::Ring;
use super::{Activity, Holding, Probe, Unprobed};
use crate::platform::{Cpu, CpuId, CpuMask, Tlb};

/// More pages than this are not forgotten one by one: everything is. Linux's `tlb_single_page_flush_ceiling`
/// (arch/x86/mm/tlb.c): measured there, a page costs about 100 ns, and refilling a whole TLB about what 33 pages do.
pub const PAGE_LIMIT: u32 = 33;

/// Which translations a [`Shootdown`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those that all address spaces share, the kernel's: under any PCID, or global.
    Shared,
    /// Those of one address space, current wherever it is active, and never global.
    Own,
}

/// The protocol about one set of translations, on up to `CPUS` CPUs. See the [module](super).
///
/// A kernel has one in a static for its own half of the address space, and one per user space. `SLOTS` requests are remembered;
/// who falls back further forgets everything.
pub struct Shootdown<P, const CPUS: usize, const SLOTS: usize = 64, W = Unprobed> {
    pub(super) platform: P,
    pub(super) probe: W,
    pub(super) scope: Scope,
    pub(super) page_limit: u32,
    pub(super) ring: Ring<SLOTS>,
    pub(super) holders: Holders,
    pub(super) cpus: [Holder; CPUS],
}

impl<P, const CPUS: usize, const SLOTS: usize> Shootdown<P, CPUS, SLOTS> {
    constructor! {
        /// The protocol about the translations that all address spaces share. No CPU has joined yet.
        #[must_use]
        pub fn new(platform: P) -> Self {
            Self::probed(platform, Unprobed)
        }
    }
}

impl<P, const CPUS: usize, const SLOTS: usize, W> Shootdown<P, CPUS, SLOTS, W> {
    const CAPACITY: () = {
        assert!(CPUS >= 1 && CPUS <= CpuMask::CAPACITY);
        assert!(SLOTS >= 1);
    };

    constructor! {
        /// As [`new`](Shootdown::new), with a probe in it.
        #[must_use]
        pub fn probed(platform: P, probe: W) -> Self {
            let () = Self::CAPACITY;
            Self {
                platform,
                probe,
                scope: Scope::Shared,
                page_limit: PAGE_LIMIT,
                ring: Ring::new(),
                holders: Holders::new(),
                cpus: array_of![Holder::new(); CPUS],
            }
        }
    }

    /// The same, about other translations.
    #[must_use]
    pub const fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// The same, with another limit than [`PAGE_LIMIT`].
    #[must_use]
    pub const fn with_page_limit(mut self, pages: u32) -> Self {
        self.page_limit = pages;
        self
    }

    /// What it runs on.
    #[must_use]
    pub const fn platform(&self) -> &P {
        &self.platform
    }

    /// The CPUs that may hold the translations: active, lazy, or away with some left.
    #[must_use]
    pub fn holders(&self) -> CpuMask {
        self.holders.load(CPUS)
    }

    /// How a CPU stands to the translations.
    #[must_use]
    pub fn holding(&self, cpu: CpuId) -> Holding {
        self.cpu(cpu).holding()
    }

    /// The last generation that was taken.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.ring.last()
    }

    /// The generation up to which a CPU has forgotten all that was asked for.
    #[must_use]
    pub fn seen(&self, cpu: CpuId) -> u64 {
        self.cpu(cpu).seen()
    }

    /// What one CPU has done so far.
    #[must_use]
    pub fn activity_of(&self, cpu: CpuId) -> Activity {
        self.cpu(cpu).counts.read()
    }

    /// What all CPUs have done so far. They may be doing more meanwhile.
    #[must_use]
    pub fn activity(&self) -> Activity {
        self.cpus
            .iter()
            .map(|cpu| cpu.counts.read())
            .fold(Activity::default(), core::ops::Add::add)
    }

    /// # Panics
    ///
    /// When the platform counts CPUs that this protocol was not made for.
    #[inline]
    pub(super) fn cpu(&self, cpu: CpuId) -> &Holder {
        &self.cpus[cpu.index()]
    }
}

impl<P: Cpu + Tlb, const CPUS: usize, const SLOTS: usize, W: Probe> Shootdown<P, CPUS, SLOTS, W> {
    /// This CPU.
    #[inline]
    pub(super) fn me(&self) -> CpuId {
        self.platform.id()
    }
}

/// For a panic's last words: who has come how far.
impl<P, const CPUS: usize, const SLOTS: usize, W> fmt::Display for Shootdown<P, CPUS, SLOTS, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shootdown: generation {}", self.generation())?;
        for cpu in &self.holders() {
            let holder = self.cpu(cpu);
            write!(f, "; CPU {cpu} {} at {}", holder.holding(), holder.seen())?;
        }
        Ok(())
    }
}

impl<P, const CPUS: usize, const SLOTS: usize, W> fmt::Debug for Shootdown<P, CPUS, SLOTS, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
