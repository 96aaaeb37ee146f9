//! Where a test looks into the protocol, and where it breaks it to see that somebody notices.
//!
//! A kernel needs neither: with [`Unprobed`], the default, nothing of this is left in the program.

use super::Holding;
use crate::platform::CpuMask;

/// A step of the protocol, with all that the CPU has just learnt from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Wants a flush; the entries are changed.
    Begin,
    /// Has taken generations up to this one.
    Taken(u64),
    /// Has published what they ask for.
    Published,
    /// Has decided whom to interrupt.
    Aimed(CpuMask),
    /// Has been waiting for these.
    Waiting(CpuMask),
    /// Has seen that generations are to be caught up with: from the one after the first, to the second.
    Behind(u64, u64),
    /// Has fulfilled them, and not said so yet.
    Forgotten(u64),
    /// Has said how it stands to the translations, and not looked at the generations yet.
    Stands(Holding),
}

/// A rule of the protocol, which a test takes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Every page of a range is forgotten.
    LastPage,
    /// Global translations are forgotten too.
    Global,
    /// Translations under other PCIDs are forgotten too.
    OtherContexts,
    /// PAE's root entries are read again.
    Root,
    /// A CPU that wants a flush flushes too.
    Here,
    /// The others are interrupted.
    Interrupt,
    /// Nothing is reused before they have answered.
    Wait,
    /// Who waits serves.
    Serve,
    /// A CPU says that it has forgotten only when it has.
    ForgetFirst,
    /// A CPU never goes back to an earlier generation.
    OnlyForward,
    /// Who finds no request in a slot forgets everything.
    Unfound,
    /// Lazy CPUs catch up before they use anything.
    CatchUp,
    /// Lazy CPUs are not passed over when tables are freed.
    LazyTables,
    /// Who joins forgets everything.
    JoinForgets,
    /// A CPU that is on its way counts as lazy.
    Expect,
    /// Who comes back under a PCID catches up before it loads the root.
    SwitchIn,
    /// Nobody waits for CPUs that have stopped.
    Gone,
    /// Between changing entries and looking at who is active lies a full fence.
    FenceAfterTaking,
    /// Between becoming active and looking at the generation lies a full fence.
    FenceAfterActive,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::LastPage,
        Self::Global,
        Self::OtherContexts,
        Self::Root,
        Self::Here,
        Self::Interrupt,
        Self::Wait,
        Self::Serve,
        Self::ForgetFirst,
        Self::OnlyForward,
        Self::Unfound,
        Self::CatchUp,
        Self::LazyTables,
        Self::JoinForgets,
        Self::Expect,
        Self::SwitchIn,
        Self::Gone,
        Self::FenceAfterTaking,
        Self::FenceAfterActive,
    ];
}

/// What a test puts into a [`Shootdown`](super::Shootdown).
///
/// # Safety
///
/// With a rule left out, frames are reused that CPUs still reach. So [`omits`](Self::omits) returns true only where no memory but a
/// simulated machine's is at stake.
pub unsafe trait Probe {
    /// Called at each step. A test lets other CPUs run here; a kernel under test wastes a random time.
    #[inline(always)]
    fn step(&self, _: Step) {}

    /// Whether this rule is left out.
    #[inline(always)]
    fn omits(&self, _: Rule) -> bool {
        false
    }
}

/// No probe.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unprobed;

// SAFETY: leaves no rule out.
unsafe impl Probe for Unprobed {}
