//! Answering: forgetting what the generations since one's own ask for.

use super::local::{Way, needs_root, way};
use super::request::Request;
use super::{Holding, Probe, Rule, Shootdown, Step};
use crate::platform::{Cpu, CpuId, LocalFlush, Tlb};

impl<P: Cpu + Tlb, const CPUS: usize, const SLOTS: usize, W: Probe> Shootdown<P, CPUS, SLOTS, W> {
    /// Forgets on this CPU what others have asked for, and answers them. The handler of the shootdown interrupt calls this, and
    /// anybody else who cannot be moved to another CPU may: it never waits, and costs next to nothing when nothing was asked for.
    #[inline]
    pub fn serve(&self) {
        let me = self.me();
        match self.cpu(me).holding() {
            Holding::Active | Holding::Lazy => self.catch_up(me),
            // An interrupt that was on its way when the CPU left.
            Holding::Out | Holding::Away | Holding::Gone => {}
        }
    }

    /// Forgets all generations there are on this CPU, and says so.
    #[inline]
    pub(super) fn catch_up(&self, me: CpuId) {
        let holder = self.cpu(me);
        let (seen, last) = (holder.seen(), self.ring.last());
        if seen < last {
            self.probe.step(Step::Behind(seen, last));
            if self.probe.omits(Rule::ForgetFirst) {
                holder.advance(last);
                self.probe.step(Step::Forgotten(last));
                self.forget(me, seen, last);
                return;
            }
            self.forget(me, seen, last);
            self.probe.step(Step::Forgotten(last));
            self.say_seen(me, last);
        }
    }

    /// Answers for all generations up to `last`, which are forgotten.
    pub(super) fn say_seen(&self, me: CpuId, last: u64) {
        if self.probe.omits(Rule::OnlyForward) {
            self.cpu(me).set_seen(last);
        } else {
            self.cpu(me).advance(last);
        }
    }

    /// Forgets on this CPU what the generations after `seen` up to `last` ask for.
    pub(super) fn forget(&self, me: CpuId, seen: u64, last: u64) {
        let Some(together) = self.forget_pages(me, seen, last) else {
            self.cpu(me).counts.unfound.add(1);
            self.forget_whole(me, Request::EVERYTHING);
            return;
        };
        if let Some(whole) = together {
            self.forget_whole(me, whole);
        }
    }

    /// Forgets the pages that these generations name, as long as they are few. Returns what is left to be forgotten all at once; `None`
    /// when one of the generations is not to be found.
    fn forget_pages(&self, me: CpuId, seen: u64, last: u64) -> Option<Option<Request>> {
        let features = self.platform.features();
        if last - seen > SLOTS as u64 && !self.probe.omits(Rule::Unfound) {
            return None;
        }
        let mut whole: Option<Request> = None;
        let mut left = self.page_limit;
        for generation in seen + 1..=last {
            let Some(request) = self.ring.find(generation) else {
                if self.probe.omits(Rule::Unfound) {
                    continue;
                }
                return None;
            };
            if request == Request::SERIALIZE {
                self.platform.serialize();
                continue;
            }
            let way = way(features, self.scope, request);
            match request.pages {
                Some(pages) if way == Way::Pages && pages <= left => {
                    left -= pages;
                    self.forget_each(me, request, pages);
                    self.read_root_if(needs_root(features, request, way));
                }
                _ => whole = Some(whole.unwrap_or(request).whole_of(request)),
            }
        }
        Some(whole)
    }

    fn forget_each(&self, me: CpuId, request: Request, pages: u32) {
        let skipped = usize::from(self.probe.omits(Rule::LastPage));
        let count = (pages as usize).saturating_sub(skipped);
        for address in request.addresses().take(count) {
            self.platform.perform(LocalFlush::Page(address));
        }
        self.cpu(me).counts.pages.add(u64::from(pages));
    }

    /// Forgets all translations, the global ones if `request` says so.
    pub(super) fn forget_whole(&self, me: CpuId, request: Request) {
        let mut features = self.platform.features();
        let mut request = request.whole_of(request);
        request.global &= !self.probe.omits(Rule::Global);
        features.contexts &= !self.probe.omits(Rule::OtherContexts);
        let way = way(features, self.scope, request);
        if let Way::Whole(flush) = way {
            self.platform.perform(flush);
            // Writes to control registers serialize (Intel SDM vol. 3, section 9.3); `INVPCID` is not said to.
            if request.serialize
                && !matches!(flush, LocalFlush::LoadRoot | LocalFlush::ToggleGlobal)
            {
                self.platform.serialize();
            }
        }
        self.read_root_if(needs_root(features, request, way));
        self.cpu(me).counts.wholes.add(1);
    }

    /// Has the CPU read PAE's root entries again, if it must.
    fn read_root_if(&self, needed: bool) {
        if needed && !self.probe.omits(Rule::Root) {
            self.platform.perform(LocalFlush::LoadRoot);
        }
    }
}
