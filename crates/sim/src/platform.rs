//! The simulated machine as the library's platform: its CPUs' names, their TLBs, interrupts between them, and rules left out on
//! demand.

use kspace::platform::{
    CacheLines, Complaint, Cpu, CpuId, CpuMask, Interrupts, LocalFlush, Tlb, TlbFeatures,
};
use kspace::shootdown::{Probe, Rule, Step};
use kspace_layout::PhysRange;

use crate::{Schedule, SimMachine};

/// The CPUs of a [`Schedule`] with the TLBs of a [`SimMachine`].
#[derive(Clone, Copy)]
pub struct SimPlatform<'r> {
    schedule: &'r Schedule,
    machine: &'r SimMachine<'r>,
    omitted: Option<Rule>,
    grain: Grain,
}

/// At which steps of the protocol others may come in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// At all of them.
    Fine,
    /// Only at those where it can make a difference: between taking a generation, publishing it, and looking whom to interrupt; between
    /// looking what is to be forgotten, and forgetting it; between saying how one stands, and looking. At the others, what comes next
    /// is seen by nobody but the CPU itself, or waited for, so that coming in before or after is all there is.
    Coarse,
}

impl<'r> SimPlatform<'r> {
    /// The CPUs of `schedule`, which has as many as `machine`.
    #[must_use]
    pub const fn new(schedule: &'r Schedule, machine: &'r SimMachine<'r>) -> Self {
        Self {
            schedule,
            machine,
            omitted: None,
            grain: Grain::Fine,
        }
    }

    /// The same, as a probe that leaves a rule out.
    #[must_use]
    pub const fn omitting(self, rule: Option<Rule>) -> Self {
        Self {
            omitted: rule,
            ..self
        }
    }

    /// The same, with other places where others may come in between.
    #[must_use]
    pub const fn with_grain(self, grain: Grain) -> Self {
        Self { grain, ..self }
    }
}

// SAFETY: one simulated CPU runs at a time, under its own number, and its program never moves to another.
unsafe impl Cpu for SimPlatform<'_> {
    type Pin = ();

    fn id(&self) -> CpuId {
        CpuId::new(self.schedule.running())
    }

    fn pin(&self) {}

    fn is_atomic(&self) -> bool {
        self.schedule.holds_lock()
    }

    fn relax(&self) {
        self.schedule.relax();
    }

    fn report(&self, complaint: &Complaint) {
        self.schedule.complain(complaint);
    }
}

/// Interrupts are off on the simulated CPU that made it, until it is dropped.
#[derive(Debug)]
pub struct SimInterruptsOff<'r> {
    schedule: &'r Schedule,
    before: bool,
}

impl Drop for SimInterruptsOff<'_> {
    fn drop(&mut self) {
        self.schedule.set_interrupts(self.before);
    }
}

// SAFETY: the schedule interrupts no CPU that does not take interrupts, and programs never move.
unsafe impl<'r> Interrupts for SimPlatform<'r> {
    type Off = SimInterruptsOff<'r>;

    fn interrupts_off(&self) -> SimInterruptsOff<'r> {
        let before = self.schedule.takes_interrupts();
        self.schedule.set_interrupts(false);
        SimInterruptsOff {
            schedule: self.schedule,
            before,
        }
    }
}

// SAFETY: the simulated TLBs do as told, and every run's interrupt handler serves.
unsafe impl Tlb for SimPlatform<'_> {
    fn features(&self) -> TlbFeatures {
        self.machine.features()
    }

    fn perform(&self, flush: LocalFlush) {
        self.machine.perform(self.schedule.running(), flush);
        self.schedule.note(&flush);
    }

    fn interrupt(&self, targets: &CpuMask) {
        for cpu in targets {
            self.schedule.interrupt(cpu.index());
        }
    }

    fn serve_others(&self) {
        self.schedule.serve();
    }
}

// SAFETY: the simulated machine has no caches; what it is told it writes down, for tests that know what must be told.
unsafe impl CacheLines for SimPlatform<'_> {
    fn write_back_and_invalidate(&self, range: PhysRange) {
        self.machine.empty_caches(range);
    }
}

// SAFETY: the memory at stake is a simulated machine's.
unsafe impl Probe for SimPlatform<'_> {
    fn step(&self, step: Step) {
        self.schedule.note(&step);
        match step {
            Step::Waiting(_) => self.schedule.look(),
            Step::Begin | Step::Aimed(_) | Step::Forgotten(_) if self.grain == Grain::Coarse => {}
            _ => self.schedule.pause(),
        }
    }

    fn omits(&self, rule: Rule) -> bool {
        self.omitted == Some(rule)
    }
}
