//! The machine's zones as the source of frames for areas.

use core::marker::PhantomData;

use kspace_frames::zone::{
    Fallback, Hooks, NodeId, Nodes, Request, Shortage, Zone, ZoneKind, Zones,
};
use kspace_frames::{
    Block, Constraint, Flags, FrameAllocator, History, LONGEST_ROW, Local, MappedBlock, Order,
    Owner, PinnedCpu,
};
use kspace_layout::{Pfn, PhysAddr};
use kspace_paging::FrameSource;

use super::kernel::behind;
use super::{AreaFrames, Want};
use crate::platform::Interrupts;

/// A page for a table, or for books.
const PAGE: Request = Request::order(0).zeroed().owner(Owner::PAGE_TABLE);

/// Fewer frames than these are taken one by one: each is at hand, and a row has to be looked for.
const SHORTEST_ROW: u64 = 8;

/// What a guard that keeps interrupts off has for the frame allocator.
pub trait Pinned {
    /// The allocator's proof.
    fn pin(&self) -> &PinnedCpu;

    /// The node that this CPU is near to.
    fn home(&self) -> NodeId;
}

/// Frames of `zones`, as near to the CPU as can be. Nothing is reclaimed for them but what this CPU keeps: whoever is refused purges, and
/// asks again.
pub struct AreaZones<'z, P, H> {
    zones: &'z Zones<'z, FrameAllocator<'z>>,
    nodes: &'z Nodes,
    platform: &'z P,
    hooks: H,
}

/// The kernel's hooks without the one that may wait.
struct NoReclaim<'h, H>(&'h H, PhantomData<H>);

impl<H: Hooks> Hooks for NoReclaim<'_, H> {
    fn reclaim(&self, _: &Shortage) -> u64 {
        0
    }

    #[inline]
    fn zero(&self, first: Pfn, frames: u64) {
        self.0.zero(first, frames);
    }
}

impl<'z, P, H> AreaZones<'z, P, H> {
    /// Frames of `zones`, whose nodes are `nodes`. Of the hooks, only the one that fills frames with zeros is called.
    #[must_use]
    pub const fn new(
        zones: &'z Zones<'z, FrameAllocator<'z>>,
        nodes: &'z Nodes,
        platform: &'z P,
        hooks: H,
    ) -> Self {
        Self {
            zones,
            nodes,
            platform,
            hooks,
        }
    }

    /// The allocator that has a frame; `home` is where it was most likely taken from.
    #[inline(always)]
    fn allocator(&self, home: NodeId, frame: Pfn) -> Option<&'z FrameAllocator<'z>> {
        match self.zones.sole(home, frame) {
            Some(zone) => Some(zone.frames()),
            None => self.allocator_by_node(frame),
        }
    }

    #[cold]
    fn allocator_by_node(&self, frame: Pfn) -> Option<&'z FrameAllocator<'z>> {
        let (node, kind) = self.nodes.zone_of(self.zones.limits(), frame)?;
        Some(self.zones.get(node, kind)?.frames())
    }
}

impl<P: Interrupts<Off: Pinned>, H: Hooks> AreaZones<'_, P, H> {
    #[inline(always)]
    fn allocate_block(&self, guard: &P::Off, home: NodeId, request: &Request) -> Option<Block<'_>> {
        let hooks = NoReclaim(&self.hooks, PhantomData);
        match self.zones.allocate(guard.pin(), home, request, &hooks) {
            Ok(block) => Some(block),
            Err(_) => self.allocate_drained(guard, home, request),
        }
    }

    /// This CPU's way to the zone that is asked first. What it keeps of that counts as used already, so no mark is asked
    /// ([`Zones::allocate`] says why).
    #[inline(always)]
    fn nearest<'a>(&'a self, guard: &'a P::Off, home: NodeId, want: Want) -> Option<Local<'a, 'a>> {
        let zone = self.zones.first(home, ZoneKind::Normal)?;
        if want.strict && zone.node() != home {
            return None;
        }
        zone.frames().local(guard.pin()).ok()
    }

    /// A block that this CPU keeps.
    #[inline(always)]
    fn take_kept(&self, guard: &P::Off, home: NodeId, order: Order, want: Want) -> Option<Pfn> {
        let local = self.nearest(guard, home, want)?;
        let first = local.allocate_kept_mapped(order, want.owner)?.pfn();
        if want.zeroed {
            self.hooks.zero(first, order.frames() as u64);
        }
        Some(first)
    }

    /// Frames in a row, of the zone that is asked first, if that has so many above its low mark.
    fn take_row(&self, guard: &P::Off, home: NodeId, frames: u64, want: Want) -> Option<Pfn> {
        let zone = self.zones.first_above_low(home, ZoneKind::Normal, frames)?;
        if want.strict && zone.node() != home {
            return None;
        }
        let local = zone.frames().local(guard.pin()).ok()?;
        let first = local.allocate_row(frames as usize, want.owner)?;
        if want.zeroed {
            self.hooks.zero(first, frames);
        }
        Some(first)
    }

    #[inline(never)]
    fn take_any(&self, guard: &P::Off, home: NodeId, order: Order, want: Want) -> Option<Pfn> {
        let mut request = Request::order(order.get().into()).owner(want.owner);
        if want.zeroed {
            request = request.zeroed();
        }
        if want.strict {
            request = request.fallback(Fallback::Node);
        }
        let block = self.allocate_block(guard, home, &request)?;
        Some(block.map_new().into_raw().0)
    }

    /// Asks again without the frames that this CPU keeps for itself: the marks count them as used.
    #[cold]
    fn allocate_drained(
        &self,
        guard: &P::Off,
        home: NodeId,
        request: &Request,
    ) -> Option<Block<'_>> {
        for zone in self.zones.as_slice() {
            zone.frames().drain(guard.pin());
        }
        let hooks = NoReclaim(&self.hooks, PhantomData);
        self.zones.allocate(guard.pin(), home, request, &hooks).ok()
    }
}

// SAFETY: the zones hand out whole frames of RAM that nobody else has until they are given back, and the kernel's hook zeroes them.
unsafe impl<P: Interrupts<Off: Pinned>, H: Hooks> FrameSource for AreaZones<'_, P, H> {
    fn allocate(&self) -> Option<PhysAddr> {
        let guard = self.platform.interrupts_off();
        let block = self.allocate_block(&guard, guard.home(), &PAGE)?;
        Some(block.into_raw().0.start())
    }

    fn release(&self, frame: PhysAddr) {
        let guard = self.platform.interrupts_off();
        let Some(allocator) = self.allocator(guard.home(), frame.pfn()) else {
            panic!("frame {frame} is released, and in no zone");
        };
        // SAFETY: the caller's contract: it came from `allocate`.
        if let Err(error) = unsafe { allocator.free(guard.pin(), frame.pfn(), Order::FRAME) } {
            panic!("{error}");
        }
    }
}

// SAFETY: as above; blocks are as large as asked for, and aligned to that. Nothing waits: no reclaim is done.
unsafe impl<P: Interrupts<Off: Pinned>, H: Hooks> AreaFrames for AreaZones<'_, P, H> {
    type Guard = P::Off;

    fn total(&self) -> u64 {
        self.zones.managed_frames()
    }

    #[inline(always)]
    fn take(&self, guard: &P::Off, order: Order, want: Want) -> Option<Pfn> {
        let home = want.node.unwrap_or_else(|| guard.home());
        match self.take_kept(guard, home, order, want) {
            Some(first) => Some(first),
            None => self.take_any(guard, home, order, want),
        }
    }

    #[inline(always)]
    fn take_singles(
        &self,
        guard: &P::Off,
        frames: u64,
        want: Want,
        mut each: impl FnMut(Pfn),
    ) -> u64 {
        if frames == 1 {
            // Most often, and known when it is compiled.
            return self.take(guard, Order::FRAME, want).map_or(0, |frame| {
                each(frame);
                1
            });
        }
        let home = want.node.unwrap_or_else(|| guard.home());
        let mut taken = 0;
        while taken < frames {
            if let Some(local) = self.nearest(guard, home, want) {
                let kept = local.allocate_kept_singles((frames - taken) as usize, want.owner);
                for frame in kept {
                    if want.zeroed {
                        self.hooks.zero(frame, 1);
                    }
                    each(frame);
                    taken += 1;
                }
            }
            if taken < frames {
                let Some(frame) = self.take_any(guard, home, Order::FRAME, want) else {
                    break;
                };
                each(frame);
                taken += 1;
            }
        }
        taken
    }

    #[inline]
    unsafe fn give(&self, guard: &P::Off, first: Pfn) -> Option<Order> {
        let local = self.allocator(guard.home(), first)?.local(guard.pin());
        // SAFETY: the caller's contract: it came from `take`, which gave up the value, and nothing leads to it any more.
        unsafe { local.ok()?.free_mapped(first) }
    }

    fn take_run(
        &self,
        guard: &P::Off,
        frames: u64,
        want: Want,
        each: &mut impl FnMut(Pfn, u64),
    ) -> u64 {
        let home = want.node.unwrap_or_else(|| guard.home());
        let mut left = frames;
        let mut largest = Order::MAX;
        while left > 0 {
            let row = left.min(LONGEST_ROW as u64);
            let (first, len) = if row < SHORTEST_ROW {
                (self.take(guard, Order::FRAME, want), 1)
            } else if let Some(first) = self.take_row(guard, home, row, want) {
                (Some(first), row)
            } else {
                let order = Order::largest_in(left as usize).unwrap_or(Order::FRAME);
                largest = largest.min(order);
                (self.take(guard, largest, want), largest.frames() as u64)
            };
            match (first, largest.smaller()) {
                (Some(first), _) => {
                    each(first, len);
                    left -= len;
                }
                (None, Some(smaller)) if row >= SHORTEST_ROW => largest = smaller,
                (None, _) => break,
            }
        }
        frames - left
    }

    unsafe fn give_run(&self, guard: &P::Off, first: Pfn, frames: u64) -> u64 {
        let (mut done, mut given) = (0, 0);
        while done < frames {
            let at = Pfn::new(first.as_u64() + done);
            let sole = self.zones.sole(guard.home(), at).map(Zone::frames);
            match sole.and_then(|allocator| Some((allocator, allocator.local(guard.pin()).ok()?))) {
                Some((allocator, local)) => {
                    // Zones may touch, and a run have frames of both.
                    let len = allocator.frames_from(at).min(frames - done);
                    // SAFETY: the caller's contract, as in `give`; all these frames are of this zone.
                    given += unsafe { local.free_mapped_run(at, len as usize) } as u64;
                    done += len;
                }
                None => {
                    // SAFETY: the caller's contract.
                    let block = unsafe { self.give(guard, at) };
                    let block = block.map_or(0, |order| order.frames() as u64);
                    given += block;
                    done += block.max(1);
                }
            }
        }
        given
    }

    fn take_aligned(&self, guard: &P::Off, frames: u64, want: Want) -> Option<Pfn> {
        let home = want.node.unwrap_or_else(|| guard.home());
        let zones = self.zones.as_slice().iter();
        let near = zones.clone().filter(|zone| zone.node() == home);
        let far = zones.filter(|zone| zone.node() != home && !want.strict);
        near.chain(far)
            .find_map(|zone| row_of(zone, guard.pin(), frames, want))
    }

    fn clear_aligned(&self, first: Pfn, frames: u64) {
        self.hooks.zero(first, frames);
    }

    fn cut(&self, guard: &P::Off, at: Pfn) -> bool {
        let Some(allocator) = self.allocator(guard.home(), at) else {
            return false;
        };
        let Some((first, order)) = block_of(allocator, at) else {
            return false;
        };
        // The largest blocks that have their border there.
        let distance = at.as_u64() - first.as_u64();
        let Some(smaller) = Order::largest_in(1 << distance.trailing_zeros().min(31)) else {
            return false;
        };
        if distance == 0 {
            return true;
        }
        // SAFETY: an area has the block, and asks for this; the value is made into raw numbers again below.
        let block = unsafe { MappedBlock::from_raw(allocator, first, order) };
        // SAFETY: the block stays where it is mapped. Between here and `map_new` nobody is given it: it is in use.
        let block = block.and_then(|block| unsafe { block.unmapped() });
        let Ok(block) = block else { return false };
        let parts = block.split(smaller, |part| {
            let _ = part.map_new().into_raw();
        });
        parts.is_ok()
    }

    unsafe fn give_many(&self, guard: &P::Off, blocks: &[Pfn]) -> (u64, u64) {
        let (mut rest, mut given, mut lost) = (blocks, 0, 0);
        while let Some(first) = rest.first() {
            let sole = self.zones.sole(guard.home(), *first).map(Zone::frames);
            if let Some(local) = sole.and_then(|allocator| allocator.local(guard.pin()).ok()) {
                // SAFETY: the caller's contract, as in `give`; all frames that have a number there are of this zone.
                let (blocks, frames) = unsafe { local.free_mapped_each(rest) };
                given += frames as u64;
                rest = &rest[blocks..];
                if blocks > 0 {
                    continue;
                }
            }
            // Of no zone alone, or refused.
            // SAFETY: the caller's contract.
            let order = unsafe { self.give(guard, *first) };
            match order {
                Some(order) => given += order.frames() as u64,
                None => lost += 1,
            }
            rest = behind(rest, order.unwrap_or(Order::FRAME));
        }
        (given, lost)
    }
}

/// The mapped block that a frame lies in: its first frame, and its order.
fn block_of(allocator: &FrameAllocator<'_>, frame: Pfn) -> Option<(Pfn, Order)> {
    (0..=Order::MAX.get()).find_map(|order| {
        // It begins at a multiple of its size.
        let first = Pfn::new(frame.as_u64() >> order << order);
        match allocator.history(first)? {
            History::InUse { order, flags, .. }
                if flags.contains(Flags::MAPPED)
                    && first.as_u64() + order.frames() as u64 > frame.as_u64() =>
            {
                Some((first, order))
            }
            _ => None,
        }
    })
}

/// A row of frames of a zone that keeps enough without it.
fn row_of(
    zone: &Zone<FrameAllocator<'_>>,
    pin: &PinnedCpu,
    frames: u64,
    want: Want,
) -> Option<Pfn> {
    let usual = matches!(zone.kind(), ZoneKind::Dma32 | ZoneKind::Normal);
    let left = zone.frames().free_frames_exact() as u64;
    if !usual || left < frames + zone.watermarks().low {
        return None;
    }
    let within = Constraint {
        align: frames as usize,
        ..Constraint::NONE
    };
    let row = zone.frames();
    let row = row.allocate_contiguous(pin, frames as usize, within, want.owner);
    let row = row.ok()?;
    let first = row.pfn();
    row.into_blocks(|block| {
        let _ = block.map_new().into_raw();
    });
    Some(first)
}
