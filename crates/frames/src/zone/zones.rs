//! The zones at work: each with its allocator and its marks, and a request going from one to the next.
//!
//! ```text
//!   request: node 1, up to Normal
//!     1. low mark:   node 1 Normal -> DMA32 -> DMA,  node 0 Normal -> DMA32 -> DMA      nearly all requests end here
//!     2. reclaim:    who keeps spare memory gives some back; who may not wait only makes it known
//!     3. min mark:   the same zones; who is urgent goes below it
//!     4. again 2 and 3, now urgently, while reclaim gives something, for who may wait
//! ```

use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

use kspace_layout::Pfn;

use super::error::ZonesError;
use super::{
    MAX_NODES, NodeId, NodeOrder, Protection, Reserves, Tuning, TuningError, Watermarks,
    ZoneFrames, ZoneKind, ZoneLimits, ZoneShare, ZoneSpan,
};

/// One zone with memory.
#[derive(Debug)]
pub struct Zone<A> {
    node: NodeId,
    kind: ZoneKind,
    start: Count,
    spanned: Count,
    present: Count,
    min: Count,
    low: Count,
    high: Count,
    promo: Count,
    protection: [Count; ZoneKind::COUNT],
    /// The frames that no other zone's books have numbers for, if those of this zone's are such: the first, and how many. They stay as they
    /// are once the zones are joined.
    own_start: Count,
    own_frames: Count,
    frames: A,
}

/// A number of frames that any CPU may read while another changes it. 32 bits are enough where addresses have 32: physical
/// memory has at most 2^24 frames there (36 bits of address), and more would not be counted.
#[derive(Debug, Default)]
struct Count(AtomicUsize);

impl Count {
    fn new(value: u64) -> Self {
        let count = Self::default();
        count.set(value);
        count
    }

    #[inline]
    fn get(&self) -> u64 {
        self.0.load(Relaxed) as u64
    }

    fn set(&self, value: u64) {
        self.0
            .store(usize::try_from(value).unwrap_or(usize::MAX), Relaxed);
    }
}

impl<A: ZoneFrames> Zone<A> {
    /// The zone of these frames, handed out by `frames`. It keeps nothing back before [`Zones::set_reserves`].
    pub fn new(span: ZoneSpan, frames: A) -> Self {
        Self {
            node: span.node(),
            kind: span.kind(),
            start: Count::new(span.start()),
            spanned: Count::new(span.spanned()),
            present: Count::new(span.present()),
            min: Count::default(),
            low: Count::default(),
            high: Count::default(),
            promo: Count::default(),
            protection: Default::default(),
            own_start: Count::default(),
            own_frames: Count::default(),
            frames,
        }
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The kind of zone.
    #[must_use]
    pub const fn kind(&self) -> ZoneKind {
        self.kind
    }

    /// The allocator.
    #[must_use]
    pub const fn frames(&self) -> &A {
        &self.frames
    }

    /// What it spans now.
    #[must_use]
    pub fn span(&self) -> ZoneSpan {
        ZoneSpan {
            node: self.node,
            kind: self.kind,
            start: self.start.get(),
            spanned: self.spanned.get(),
            present: self.present.get(),
        }
    }

    /// Takes note that memory was plugged in: what the zone spans from now on. One CPU does this at a time; who reads
    /// meanwhile may see a part of it.
    pub fn extend(&self, span: ZoneSpan) {
        self.start.set(span.start());
        self.spanned.set(span.spanned());
        self.present.set(span.present());
    }

    /// Its marks.
    #[must_use]
    pub fn watermarks(&self) -> Watermarks {
        Watermarks {
            min: self.min.get(),
            low: self.low.get(),
            high: self.high.get(),
            promo: self.promo.get(),
        }
    }

    /// What it keeps from requests for higher zones.
    #[must_use]
    pub fn protection(&self) -> Protection {
        let mut protection = Protection::default();
        for (slot, count) in protection.0.iter_mut().zip(&self.protection) {
            *slot = count.get();
        }
        protection
    }

    /// How many frames must be left when this mark, or a part of it, is to hold for requests up to `highest`.
    #[inline]
    pub(super) fn kept(&self, mark: u64, highest: ZoneKind) -> u64 {
        mark + self.protection[highest.index()].get()
    }

    /// The first frame.
    #[inline]
    pub(super) fn start(&self) -> u64 {
        self.start.get()
    }

    /// Whether it has memory now, and not only may have some when it is plugged in.
    pub(super) fn is_populated(&self) -> bool {
        self.present.get() > 0
    }

    /// The low mark, as a number of frames.
    #[inline]
    pub(super) fn low(&self) -> u64 {
        self.low.get()
    }

    /// The min mark, as a number of frames.
    #[inline]
    pub(super) fn min(&self) -> u64 {
        self.min.get()
    }

    /// Whether a frame has a number in this zone's books, and in no other's. False says nothing.
    #[inline(always)]
    fn alone_has(&self, frame: Pfn) -> bool {
        frame.as_u64().wrapping_sub(self.own_start.get()) < self.own_frames.get()
    }

    fn share(&self) -> ZoneShare {
        ZoneShare {
            node: self.node,
            kind: self.kind,
            managed: self.frames.managed_frames(),
        }
    }

    fn set(&self, marks: Watermarks, protection: Protection) {
        self.min.set(marks.min);
        self.low.set(marks.low);
        self.high.set(marks.high);
        self.promo.set(marks.promo);
        for (count, value) in self.protection.iter().zip(protection.0) {
            count.set(value);
        }
    }
}

/// No zone.
const NONE: u8 = u8::MAX;

/// All zones of a machine.
#[derive(Debug)]
pub struct Zones<'z, A> {
    zones: &'z [Zone<A>],
    pub(super) limits: ZoneLimits,
    pub(super) order: NodeOrder,
    /// Where in `zones` the zone of a node and kind is.
    index: [[u8; ZoneKind::COUNT]; MAX_NODES],
    /// Where in `zones` the first zone is that is asked for a request from a node with a highest kind: one that has memory, so
    /// it is another one when memory is plugged in.
    first: [[AtomicU8; ZoneKind::COUNT]; MAX_NODES],
}

impl<'z, A: ZoneFrames> Zones<'z, A> {
    /// All zones that have memory, with the distance from one node to another. They keep nothing back at first.
    ///
    /// # Errors
    ///
    /// [`ZonesError`]: no zones, too many, two of the same node and kind, or a kind that is not in `limits`.
    pub fn new(
        zones: &'z [Zone<A>],
        limits: ZoneLimits,
        distance: impl Fn(NodeId, NodeId) -> u8,
    ) -> Result<Self, ZonesError> {
        let mut all = Self::unjoined(zones, limits);
        all.join(distance)?;
        Ok(all)
    }

    /// The same zones before [`join`](Self::join), none of which is found.
    ///
    /// With it this makes [`new`](Self::new) in two steps, for who has a small stack: the value is several KiB, and can be written to
    /// its place before it is filled in.
    #[must_use]
    pub const fn unjoined(zones: &'z [Zone<A>], limits: ZoneLimits) -> Self {
        Self {
            zones,
            limits,
            order: NodeOrder::NONE,
            index: [[NONE; ZoneKind::COUNT]; MAX_NODES],
            first: [const { [const { AtomicU8::new(NONE) }; ZoneKind::COUNT] }; MAX_NODES],
        }
    }

    /// Finds out which zone is asked when, with the distance from one node to another.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new); the value is of no use then.
    pub fn join(&mut self, distance: impl Fn(NodeId, NodeId) -> u8) -> Result<(), ZonesError> {
        let Self {
            zones,
            limits,
            order,
            index,
            ..
        } = self;
        if zones.is_empty() {
            return Err(ZonesError::None);
        }
        for (number, zone) in zones.iter().enumerate() {
            let (node, kind) = (zone.node, zone.kind);
            if !limits.has(kind) {
                return Err(ZonesError::NoSuchKind { node, kind });
            }
            let slot = &mut index[node.index()][kind.index()];
            if *slot != NONE {
                return Err(ZonesError::Twice { node, kind });
            }
            *slot = u8::try_from(number)
                .ok()
                .filter(|number| *number != NONE)
                .ok_or(ZonesError::TooMany { given: zones.len() })?;
        }
        let has_memory = |node: NodeId| index[node.index()].iter().any(|slot| *slot != NONE);
        order.fill(has_memory, distance);
        self.find_own_frames();
        self.find_first_zones();
        Ok(())
    }

    /// The zones with memory, in the order in which they were given.
    #[must_use]
    pub const fn as_slice(&self) -> &'z [Zone<A>] {
        self.zones
    }

    /// Which kinds of zone there are.
    #[must_use]
    pub const fn limits(&self) -> &ZoneLimits {
        &self.limits
    }

    /// The zone of a node and kind; `None` when it has no memory.
    #[inline]
    #[must_use]
    pub fn get(&self, node: NodeId, kind: ZoneKind) -> Option<&'z Zone<A>> {
        self.zones
            .get(usize::from(self.index[node.index()][kind.index()]))
    }

    /// The same, if it has memory now: one that only may have some is there, too.
    #[must_use]
    pub fn populated(&self, node: NodeId, kind: ZoneKind) -> Option<&'z Zone<A>> {
        self.get(node, kind).filter(|zone| zone.is_populated())
    }

    /// Whether a node has memory now.
    #[must_use]
    pub fn has_memory(&self, node: NodeId) -> bool {
        let mut kinds = ZoneKind::ALL.into_iter();
        kinds.any(|kind| self.populated(node, kind).is_some())
    }

    /// The zone that is asked first for memory near `home` up to the kind `highest`; `None` when there is none.
    #[inline]
    #[must_use]
    pub fn first(&self, home: NodeId, highest: ZoneKind) -> Option<&'z Zone<A>> {
        self.zones.get(usize::from(
            self.first[home.index()][highest.index()].load(Relaxed),
        ))
    }

    /// The zones that span a frame: one, but where nodes interleave. [`Nodes::zone_of`](super::Nodes::zone_of) says which one
    /// has it.
    pub fn spanning(&self, frame: Pfn) -> impl Iterator<Item = &'z Zone<A>> + '_ {
        self.zones.iter().filter(move |zone| {
            let (start, spanned) = (zone.start.get(), zone.spanned.get());
            frame.as_u64().wrapping_sub(start) < spanned
        })
    }

    /// The zone that has a frame: the one that CPUs near `home` take frames from, in a few instructions; any other one by a look at each.
    /// `None` where books of several zones have a number for the frame, and where none has: ask [`spanning`](Self::spanning).
    #[inline(always)]
    #[must_use]
    pub fn sole(&self, home: NodeId, frame: Pfn) -> Option<&'z Zone<A>> {
        match self.first(home, ZoneKind::Normal) {
            Some(zone) if zone.alone_has(frame) => Some(zone),
            _ => self.zones.iter().find(|zone| zone.alone_has(frame)),
        }
    }

    /// Finds the zones whose books have numbers for frames that no other's have.
    fn find_own_frames(&self) {
        for zone in self.zones {
            let Some(range) = zone.frames.numbered() else {
                continue;
            };
            let overlaps = |other: &Zone<A>| {
                let its = other.frames.numbered();
                its.is_none_or(|its| its.start < range.end && range.start < its.end)
            };
            let mut others = self.zones.iter();
            if !others.any(|other| !core::ptr::eq(other, zone) && overlaps(other)) {
                zone.own_start.set(range.start);
                zone.own_frames.set(range.end - range.start);
            }
        }
    }

    /// The nodes with memory, in order of number.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> + Clone + '_ {
        NodeId::all().filter(|node| self.index[node.index()].iter().any(|slot| *slot != NONE))
    }

    /// For each node and highest kind, finds the zone that is asked first.
    fn find_first_zones(&self) {
        let has_memory = |place: &u8| {
            let zone = self.zones.get(usize::from(*place));
            zone.is_some_and(Zone::is_populated)
        };
        for home in NodeId::all() {
            for highest in self.limits.kinds() {
                let mut places = self.order.of(home).iter().flat_map(|node| {
                    let up_to = &self.index[node.index()][..=highest.index()];
                    up_to.iter().rev().copied()
                });
                let place = places.find(has_memory).unwrap_or(NONE);
                self.first[home.index()][highest.index()].store(place, Relaxed);
            }
        }
    }

    /// Sets marks and protection of all zones, and which is asked first, by what their allocators manage now. To be repeated when that has changed, or
    /// a setting.
    ///
    /// # Errors
    ///
    /// [`TuningError`]; nothing is changed.
    pub fn set_reserves(&self, tuning: &Tuning) -> Result<Reserves, TuningError> {
        let reserves = Reserves::new(self.zones.iter().map(Zone::share), tuning)?;
        for zone in self.zones {
            let managed = |kind| {
                self.get(zone.node, kind)
                    .map_or(0, |zone| zone.frames.managed_frames())
            };
            let marks = reserves.watermarks(zone.kind, managed(zone.kind));
            zone.set(marks, reserves.protection(&self.limits, zone.kind, managed));
        }
        self.find_first_zones();
        Ok(reserves)
    }

    /// Frames that are free in all zones.
    #[must_use]
    pub fn free_frames(&self) -> u64 {
        self.zones
            .iter()
            .map(|zone| zone.frames.free_frames())
            .sum()
    }

    /// Frames that all zones manage.
    #[must_use]
    pub fn managed_frames(&self) -> u64 {
        self.zones
            .iter()
            .map(|zone| zone.frames.managed_frames())
            .sum()
    }

    /// Frames that a program cannot count on: in each zone the high mark and the largest protection (Linux:
    /// `totalreserve_pages`).
    #[must_use]
    pub fn reserved_frames(&self) -> u64 {
        let reserved = |zone: &Zone<A>| {
            let protection = zone.protection().0.into_iter().max().unwrap_or(0);
            (protection + zone.high.get()).min(zone.frames.managed_frames())
        };
        self.zones.iter().map(reserved).sum()
    }
}
