//! Wanting a flush: taking a generation, telling the others, waiting for them.

use kspace_paging::Invalidation;

use super::request::Request;
use super::sync::{Ordering, fence};
use super::{Holding, Probe, Rule, Scope, Shootdown, Step};
use crate::platform::{Complaint, Cpu, CpuId, CpuMask, Tlb};

/// Turns of waiting after which the first report is made; the next ones after twice, four times that. A turn takes about 100 cycles,
/// so this is a second or more: no interrupt is kept off that long.
const PATIENCE: u64 = 1 << 25;

/// What one flush is about: one request that stands for all, or each of them.
struct Batch {
    /// All together.
    whole: Request,
    /// How many there are.
    count: u64,
    /// Whether they can be asked for one by one.
    one_by_one: bool,
}

impl<P: Cpu + Tlb, const CPUS: usize, const SLOTS: usize, W: Probe> Shootdown<P, CPUS, SLOTS, W> {
    /// Makes every CPU forget what `invalidation` says, and returns when all have, or cannot use it before they have.
    ///
    /// The entries have been changed before. Interrupts may be on or off.
    ///
    /// # Panics
    ///
    /// In atomic context, with debug assertions; see the module's third rule.
    pub fn invalidate(&self, invalidation: &Invalidation) {
        self.invalidate_all(core::iter::once(*invalidation));
    }

    /// As [`invalidate`](Self::invalidate), for many at once: each other CPU is interrupted once.
    ///
    /// # Panics
    ///
    /// As [`invalidate`](Self::invalidate).
    pub fn invalidate_all<I>(&self, invalidations: I)
    where
        I: IntoIterator<Item = Invalidation> + Clone,
    {
        let limit = self.page_limit;
        let request = |invalidation| Request::new(&invalidation, limit);
        if let Some(batch) = self.batch(invalidations.clone().into_iter().map(request)) {
            self.ask(&batch, invalidations.into_iter().map(request));
        }
    }

    /// Makes every CPU execute a serializing instruction, and returns when all have, or will before they execute anything else: what
    /// was stored before, as code too, no CPU has fetched ahead of the store any more. Lazy CPUs are not passed over: an idle loop is
    /// code as well.
    ///
    /// # Panics
    ///
    /// As [`invalidate`](Self::invalidate).
    pub fn serialize_everywhere(&self) {
        let batch = Batch {
            whole: Request::SERIALIZE,
            count: 1,
            one_by_one: true,
        };
        self.ask(&batch, core::iter::once(Request::SERIALIZE));
    }

    /// Asks all CPUs for what `requests` say, and waits.
    fn ask(&self, batch: &Batch, requests: impl Iterator<Item = Request>) {
        self.refuse_atomic_context();
        let _pin = self.platform.pin();
        let me = self.me();
        self.cpu(me).counts.flushes.add(1);
        self.probe.step(Step::Begin);

        let (count, last) = self.post(batch, requests);
        let tables = batch.whole.spares_nobody();
        // With the fence in `activate`: either we see a CPU active, or it sees our generation.
        if !self.probe.omits(Rule::FenceAfterTaking) {
            fence(Ordering::SeqCst);
        }
        let targets = self.unanswered(self.holders(), me, last, tables);
        self.probe.step(Step::Aimed(targets));
        if !targets.is_empty() {
            self.cpu(me).counts.interrupts.add(targets.len() as u64);
            if !self.probe.omits(Rule::Interrupt) {
                self.platform.interrupt(&targets);
            }
        }
        self.forget_here(me, last - count, last);
        if !self.probe.omits(Rule::Wait) {
            self.wait(me, last, tables, targets);
        }
    }

    /// Debug builds do not survive what release builds report.
    fn refuse_atomic_context(&self) {
        if self.platform.is_atomic() {
            let complaint = Complaint::WaitInAtomicContext { cpu: self.me() };
            if cfg!(debug_assertions) {
                panic!("{complaint}");
            }
            self.platform.report(&complaint);
        }
    }

    /// Sums up what is asked for; `None` when that is nothing.
    fn batch(&self, mut requests: impl Iterator<Item = Request>) -> Option<Batch> {
        let first = requests.next()?;
        let (mut whole, mut count, mut pages) = (first, 1, first.pages);
        for request in requests {
            whole = whole.whole_of(request);
            count += 1;
            pages = pages.zip(request.pages).and_then(|(a, b)| a.checked_add(b));
        }
        let few = pages.is_some_and(|pages| pages <= self.page_limit);
        Some(Batch {
            whole: whole.whole_of(whole),
            count,
            // More than there are slots would overwrite each other.
            one_by_one: few && count <= SLOTS as u64,
        })
    }

    /// Takes and publishes the generations of a batch; returns how many, and the last.
    fn post(&self, batch: &Batch, requests: impl Iterator<Item = Request>) -> (u64, u64) {
        let count = if batch.one_by_one { batch.count } else { 1 };
        let last = self.ring.take(count);
        self.probe.step(Step::Taken(last));
        if batch.one_by_one {
            for (generation, request) in (last - count + 1..=last).zip(requests) {
                self.ring.publish(generation, request);
            }
        } else {
            self.ring.publish(last, batch.whole);
        }
        self.probe.step(Step::Published);
        (count, last)
    }

    /// Those of `cpus` that must still forget generation `last` before it counts as forgotten.
    fn unanswered(&self, cpus: CpuMask, me: CpuId, last: u64, tables: bool) -> CpuMask {
        cpus.iter()
            .filter(|&cpu| cpu != me && !self.has_answered(cpu, last, tables))
            .collect()
    }

    fn has_answered(&self, cpu: CpuId, last: u64, tables: bool) -> bool {
        let holder = self.cpu(cpu);
        let tables = tables && !self.probe.omits(Rule::LazyTables);
        match holder.holding() {
            Holding::Gone if self.probe.omits(Rule::Gone) => false,
            holding => holding.catches_up_later(tables) || holder.seen() >= last,
        }
    }

    /// Forgets the generations after `before` up to `last` on this CPU, which has posted them.
    fn forget_here(&self, me: CpuId, before: u64, last: u64) {
        if self.probe.omits(Rule::Here) {
            return;
        }
        match (self.cpu(me).holding(), self.scope) {
            (Holding::Active | Holding::Lazy, _) => self.catch_up(me),
            // Before it has joined, as a boot CPU alone: it has the translations all the same.
            (_, Scope::Shared) => self.forget(me, before, last),
            // It does not have them, or catches up when it comes back.
            (_, Scope::Own) => {}
        }
    }

    /// Returns when all of `targets` have answered.
    fn wait(&self, me: CpuId, last: u64, tables: bool, targets: CpuMask) {
        let mut waiting_for = targets;
        let (mut turns, mut report_at) = (0, PATIENCE);
        loop {
            waiting_for = self.unanswered(waiting_for, me, last, tables);
            if waiting_for.is_empty() {
                return;
            }
            self.probe.step(Step::Waiting(waiting_for));
            // Whoever we wait for may be waiting for us, with interrupts off like us.
            if !self.probe.omits(Rule::Serve) {
                self.serve();
                self.platform.serve_others();
            }
            self.platform.relax();
            turns += 1;
            if turns == report_at {
                report_at *= 2;
                self.platform.report(&Complaint::Unanswered {
                    cpu: me,
                    waiting_for,
                    generation: last,
                });
            }
        }
    }
}
