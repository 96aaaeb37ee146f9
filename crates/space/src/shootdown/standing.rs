//! Coming and going: which CPUs count, and which may be passed over.
//!
//! ```text
//!                expect                     join
//!     Out ------------------> Lazy ------------------> Active <---------.
//!      ^                       ^   leave_lazy  ^         |               | switch_in
//!      |                       '---------------'---------'               | (own scope)
//!      |                          enter_lazy             | switch_out    |
//!      '-------------------------------------------------+------------> Away
//!                leave                                          gone, from anywhere: Gone
//! ```

use super::request::Request;
use super::sync::{Ordering, fence};
use super::{Holding, Probe, Rule, Shootdown, Step};
use crate::platform::{Cpu, CpuId, Tlb};

/// What a CPU does to its TLB as it loads the root of a user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Keeps what is under the root's PCID: CR3 with bit 63 set.
    Keep,
    /// Forgets what is under the root's PCID, or without PCIDs all but global translations: CR3 with bit 63 clear.
    Flush,
}

impl<P: Cpu + Tlb, const CPUS: usize, const SLOTS: usize, W: Probe> Shootdown<P, CPUS, SLOTS, W> {
    /// Counts `cpu`, which is about to be started, among those that may walk the tables: from the moment it loads the root until it has
    /// [joined](Self::join) it does so unasked. Called by the CPU that starts it, before it does.
    ///
    /// A flush that frees tables waits for it meanwhile. So the CPU joins without waiting for another, or, if it never comes, is
    /// [given up](Self::gone).
    pub fn expect(&self, cpu: CpuId) {
        if !self.probe.omits(Rule::Expect) {
            self.holders.add(cpu);
            self.cpu(cpu).change_holding(Holding::Out, Holding::Lazy);
            // Before it is started: either a poster sees it, or its walks find what the poster has changed.
            fence(Ordering::SeqCst);
        }
    }

    /// Counts this CPU among those that use the translations. It forgets everything that it holds. It has loaded the root, and has
    /// not been moved to another CPU.
    pub fn join(&self) {
        let me = self.me();
        self.holders.add(me);
        self.activate(me);
        let last = self.ring.last();
        if !self.probe.omits(Rule::JoinForgets) {
            self.forget_whole(me, Request::EVERYTHING);
        }
        self.say_seen(me, last);
    }

    /// Counts this CPU no more. From now on it walks only tables that are never freed, and uses no translation of these, until it joins
    /// again.
    pub fn leave(&self) {
        let me = self.me();
        self.cpu(me).set_holding(Holding::Out);
        self.holders.remove(me);
        self.probe.step(Step::Stands(Holding::Out));
    }

    /// Counts `cpu` no more: it has stopped, or never came, and never runs again. For who panics and has stopped the others; a CPU
    /// may also say it of itself, in an NMI, right before it halts.
    pub fn gone(&self, cpu: CpuId) {
        self.cpu(cpu).set_holding(Holding::Gone);
    }

    /// This CPU has nothing to do, and uses no translation that could be stale before [`leave_lazy`](Self::leave_lazy): an idle loop
    /// uses its own code and stack, which stay. It is not interrupted for pages then.
    pub fn enter_lazy(&self) {
        let me = self.me();
        self.cpu(me).change_holding(Holding::Active, Holding::Lazy);
        self.probe.step(Step::Stands(Holding::Lazy));
    }

    /// This CPU has something to do again: it catches up first. The entry code of every interrupt calls this, or at least of every one
    /// that ends an idle loop; it is quick when the CPU is not lazy.
    #[inline]
    pub fn leave_lazy(&self) {
        let me = self.me();
        if self.cpu(me).holding() == Holding::Lazy {
            self.activate(me);
            if !self.probe.omits(Rule::CatchUp) {
                self.catch_up(me);
            }
        }
    }

    /// Makes this CPU use the user space that this is about. `load` loads its root, as told. Interrupts are off.
    ///
    /// The PCID is this space's own on this CPU since it was first here; one that it has taken over from another space is flushed
    /// by the caller.
    pub fn switch_in(&self, load: impl FnOnce(Load)) {
        let me = self.me();
        let holder = self.cpu(me);
        let kept = holder.holding() == Holding::Away;
        self.holders.add(me);
        self.activate(me);
        let last = self.ring.last();
        let current = holder.seen() >= last || self.probe.omits(Rule::SwitchIn);
        load(if kept && current {
            Load::Keep
        } else {
            Load::Flush
        });
        self.say_seen(me, last);
    }

    /// This CPU has loaded another root. Whether it keeps the translations under their PCID is `kept`. Interrupts are off.
    pub fn switch_out(&self, kept: bool) {
        let me = self.me();
        if kept {
            self.cpu(me).set_holding(Holding::Away);
        } else {
            self.leave();
        }
        self.probe.step(Step::Stands(self.cpu(me).holding()));
    }

    /// Says that this CPU is active, so that whatever it reads next, it reads afterwards.
    fn activate(&self, me: CpuId) {
        self.cpu(me).set_holding(Holding::Active);
        self.probe.step(Step::Stands(Holding::Active));
        // With the fence in `invalidate_all`: either a poster sees us active, or we see its generation.
        if !self.probe.omits(Rule::FenceAfterActive) {
            fence(Ordering::SeqCst);
        }
    }
}
