//! A request on its way through the zones (the picture is in `zones`).

use kspace_layout::{Pfn, PhysAddr};

use super::error::{Mark, ZoneError, ZoneProblem, ZoneState, no_such_zone};
use super::request::Size;
use super::{Fallback, NodeId, Request, Urgency, Zone, ZoneFrames, ZoneKind, Zones};
use crate::Order;

/// How often memory is reclaimed for one request, as long as it helps (Linux: `MAX_RECLAIM_RETRIES`).
const RECLAIM_ROUNDS: usize = 16;

/// What the kernel around the zones does for them.
pub trait Hooks {
    /// Memory is short. Whoever keeps frames that can be had again (caches, lazily freed areas) gives some back; who hears
    /// that the request may not wait only takes note of it. Returns how many frames were given back.
    fn reclaim(&self, shortage: &Shortage) -> u64;

    /// Fills `frames` frames from `first` on with zeros. Nobody else uses them.
    fn zero(&self, first: Pfn, frames: u64);
}

/// Which zone is short of memory, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The node.
    pub node: NodeId,
    /// The kind of zone.
    pub kind: ZoneKind,
    /// The order of the request that found it.
    pub order: Order,
    /// How many frames would bring the zone to its high mark, and serve the request.
    pub frames: u64,
    /// Whether the request may wait. If not, neither may who is told.
    pub may_wait: bool,
    /// Whether the request found nothing after what was reclaimed for it before: then what costs others an interrupt is worth it.
    pub urgent: bool,
}

/// A request that was checked.
struct Search<'r> {
    request: &'r Request,
    order: Order,
    highest: ZoneKind,
    home: NodeId,
    /// The last frame that will do.
    last: Option<u64>,
}

impl<'z, A: ZoneFrames> Zones<'z, A> {
    /// A block for `request`, as near to `home` as can be.
    ///
    /// # Errors
    ///
    /// [`ZoneError`]; see [`ZoneProblem`] for all that can be wrong.
    #[inline(always)]
    pub fn allocate(
        &self,
        cpu: &A::Cpu,
        home: NodeId,
        request: &Request,
        hooks: &impl Hooks,
    ) -> Result<A::Block<'z>, ZoneError> {
        let block = match self.allocate_first(cpu, home, request) {
            Some(block) => block,
            None => self.allocate_any(cpu, home, request, hooks)?,
        };
        if request.zeroed {
            hooks.zero(A::first(&block), 1 << request.wanted_order());
        }
        Ok(block)
    }

    /// A block for `request` of what this CPU keeps, with unknown content. `None` says nothing: [`allocate`](Self::allocate) may have one.
    ///
    /// What this CPU keeps of the zone that is asked first is asked for no mark. The marks are about free frames, and these are counted as
    /// used since the CPU took them, when the marks did hold; with or without them the zone has as many free frames left for whom it keeps
    /// them. Nor does the zone keep anything from who asks it first: it protects its frames from requests for higher zones, which have no
    /// memory then.
    #[inline(always)]
    #[must_use]
    pub fn allocate_kept(
        &self,
        cpu: &A::Cpu,
        home: NodeId,
        request: &Request,
    ) -> Option<A::Block<'z>> {
        let (zone, _, order) = self.first_of_all(home, request)?;
        zone.frames().allocate_kept(cpu, order, request.owner)
    }

    /// The way of nearly all requests: any address will do, and the first zone has more than enough. `None` says nothing.
    #[inline(always)]
    fn allocate_first(
        &self,
        cpu: &A::Cpu,
        home: NodeId,
        request: &Request,
    ) -> Option<A::Block<'z>> {
        let (zone, highest, order) = self.first_of_all(home, request)?;
        if let Some(block) = zone.frames().allocate_kept(cpu, order, request.owner) {
            return Some(block);
        }
        if !is_above_low(zone, highest, order.frames() as u64) {
            return None;
        }
        zone.frames().allocate(cpu, order, request.owner, None)
    }

    /// The zone that is asked first, the highest kind that may be, and the order, for a request for any address.
    #[inline(always)]
    fn first_of_all(
        &self,
        home: NodeId,
        request: &Request,
    ) -> Option<(&'z Zone<A>, ZoneKind, Order)> {
        let Size::Order(order) = request.size else {
            return None;
        };
        let order = Order::try_new(order).ok()?;
        if request.last.is_some() || request.fallback != Fallback::All {
            return None;
        }
        let highest = request.highest.unwrap_or(ZoneKind::Normal);
        Some((self.first(home, highest)?, highest, order))
    }

    /// The zone that is asked first for memory near `home` up to the kind `highest`, if its low mark holds after so many frames were taken from
    /// it. Who has that may take them there without further questions.
    #[inline]
    #[must_use]
    pub fn first_above_low(
        &self,
        home: NodeId,
        highest: ZoneKind,
        frames: u64,
    ) -> Option<&'z Zone<A>> {
        self.first(home, highest)
            .filter(|zone| is_above_low(zone, highest, frames))
    }

    #[cold]
    #[inline(never)]
    fn allocate_any(
        &self,
        cpu: &A::Cpu,
        home: NodeId,
        request: &Request,
        hooks: &impl Hooks,
    ) -> Result<A::Block<'z>, ZoneError> {
        let search = self.check(home, request)?;
        match self.pass(cpu, &search, Mark::Low) {
            Some(block) => Ok(block),
            None => self.allocate_slow(cpu, &search, hooks),
        }
    }

    fn allocate_slow(
        &self,
        cpu: &A::Cpu,
        search: &Search<'_>,
        hooks: &impl Hooks,
    ) -> Result<A::Block<'z>, ZoneError> {
        let mark = match search.request.urgency {
            Urgency::Usual => Mark::Min,
            Urgency::High => Mark::HalfMin,
            Urgency::Atomic => Mark::AtomicMin,
        };
        let mut urgent = false;
        for _ in 0..RECLAIM_ROUNDS {
            let given = self
                .shortage(search, urgent)
                .map_or(0, |short| hooks.reclaim(&short));
            if let Some(block) = self.pass(cpu, search, mark) {
                return Ok(block);
            }
            if urgent && given == 0 || !search.request.urgency.may_wait() {
                break;
            }
            urgent = true;
        }
        Err(self.explain(search, mark))
    }

    /// Goes through the zones once.
    fn pass(&self, cpu: &A::Cpu, search: &Search<'_>, mark: Mark) -> Option<A::Block<'z>> {
        self.candidates(search)
            .filter(|zone| is_above(zone, search, mark))
            .find_map(|zone| {
                let end = zone.span().end();
                let last = search.last.filter(|last| last + 1 < end);
                let last = last.and_then(|last| Pfn::try_new(last).ok());
                zone.frames()
                    .allocate(cpu, search.order, search.request.owner, last)
            })
    }

    /// The zones that may serve, in the order in which they are asked.
    fn candidates<'s>(&'s self, search: &'s Search<'_>) -> impl Iterator<Item = &'z Zone<A>> + 's {
        let nodes: &[NodeId] = match search.request.fallback {
            Fallback::All => self.order.of(search.home),
            Fallback::Node | Fallback::None => core::slice::from_ref(&search.home),
        };
        let lowest = match search.request.fallback {
            Fallback::None => search.highest,
            _ => ZoneKind::Dma,
        };
        let kinds = &ZoneKind::ALL[lowest.index()..=search.highest.index()];
        let needed = search.order.frames() as u64;
        nodes
            .iter()
            .flat_map(move |node| kinds.iter().rev().map(move |kind| (*node, *kind)))
            .filter_map(|(node, kind)| self.populated(node, kind))
            .filter(move |zone| {
                search
                    .last
                    .is_none_or(|last| zone.start() + needed <= last + 1)
            })
    }

    /// What is asked for, if it can be.
    fn check<'r>(&self, home: NodeId, request: &'r Request) -> Result<Search<'r>, ZoneError> {
        let highest = request.highest.unwrap_or(ZoneKind::Normal);
        let refuse = |problem, state| {
            Err(ZoneError {
                problem,
                order: request.wanted_order(),
                node: home,
                kind: highest,
                state,
            })
        };
        let state = || {
            self.get(home, highest)
                .map(|zone| state_of(zone, highest, Mark::Low))
        };
        if !self.limits.has(highest) {
            return refuse(no_such_zone(&self.limits), None);
        }
        if request.size == Size::Pages(0) {
            return refuse(ZoneProblem::ZeroPages, state());
        }
        let Ok(order) = Order::try_new(request.wanted_order()) else {
            return refuse(ZoneProblem::OrderTooLarge, state());
        };
        let mut search = Search {
            request,
            order,
            highest,
            home,
            last: None,
        };
        let Some(last) = request.last else {
            return Ok(search);
        };
        let lowest = self.candidates(&search).map(Zone::start).min();
        let needed = order.frames() as u64;
        // The last whole frame below the limit; there is none below the end of the first one.
        let end = (last.as_u64() + 1) / kspace_layout::FRAME_SIZE;
        search.last = end.checked_sub(1);
        match lowest {
            Some(first) if search.last.is_none_or(|last| last + 1 < first + needed) => {
                let first = Pfn::try_new(first).map_or(PhysAddr::LAST, Pfn::start);
                refuse(ZoneProblem::LimitBelowRam { last, first }, state())
            }
            _ => Ok(search),
        }
    }

    /// What the first zone lacks.
    fn shortage(&self, search: &Search<'_>, urgent: bool) -> Option<Shortage> {
        let zone = self.candidates(search).next()?;
        let free = zone.frames().free_frames_exact();
        let target = zone.kept(zone.watermarks().high, search.highest);
        Some(Shortage {
            node: zone.node(),
            kind: zone.kind(),
            order: search.order,
            frames: target.saturating_sub(free) + search.order.frames() as u64,
            may_wait: search.request.urgency.may_wait(),
            urgent,
        })
    }

    /// Why nothing was found, by the zone that was asked first.
    fn explain(&self, search: &Search<'_>, mark: Mark) -> ZoneError {
        let mut candidates = self.candidates(search);
        let first = candidates.next();
        // Read once: frames may come back meanwhile, and the problem must be one that this state shows.
        let state = first.map(|zone| state_of(zone, search.highest, mark));
        let problem = match state {
            None => ZoneProblem::NoMemory,
            Some(state)
                if state.free >= state.kept + search.order.frames() as u64
                    || candidates.any(|zone| is_above(zone, search, mark)) =>
            {
                ZoneProblem::Fragmented
            }
            Some(_) if mark == Mark::Min => ZoneProblem::Exhausted,
            Some(_) => ZoneProblem::ReserveExhausted,
        };
        ZoneError {
            problem,
            order: search.order.get().into(),
            node: first.map_or(search.home, Zone::node),
            kind: first.map_or(search.highest, Zone::kind),
            state,
        }
    }
}

/// Whether so much is free in a zone that the mark holds after the request: the first half of Linux's test
/// (`__zone_watermark_ok`). The second, whether there is a block of that order, is made by taking one.
fn is_above<A: ZoneFrames>(zone: &Zone<A>, search: &Search<'_>, mark: Mark) -> bool {
    let kept = zone.kept(level(zone, mark), search.highest) + search.order.frames() as u64 - 1;
    has_more(zone.frames(), kept)
}

/// The same for the low mark, as requests begin.
#[inline]
fn is_above_low<A: ZoneFrames>(zone: &Zone<A>, highest: ZoneKind, frames: u64) -> bool {
    has_more(zone.frames(), zone.kept(zone.low(), highest) + frames - 1)
}

/// Whether more than `kept` frames are free.
#[inline]
fn has_more<A: ZoneFrames>(frames: &A, kept: u64) -> bool {
    frames.free_frames() > kept + frames.drift() || frames.free_frames_exact() > kept
}

fn level<A: ZoneFrames>(zone: &Zone<A>, mark: Mark) -> u64 {
    match mark {
        Mark::Low => zone.low(),
        Mark::Min => Urgency::Usual.min(zone.min()),
        Mark::HalfMin => Urgency::High.min(zone.min()),
        Mark::AtomicMin => Urgency::Atomic.min(zone.min()),
    }
}

fn state_of<A: ZoneFrames>(zone: &Zone<A>, highest: ZoneKind, mark: Mark) -> ZoneState {
    ZoneState {
        free: zone.frames().free_frames_exact(),
        cached: zone.frames().cached_frames(),
        mark,
        kept: zone.kept(level(zone, mark), highest),
    }
}
