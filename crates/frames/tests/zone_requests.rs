//! Requests against zones: which zone serves, who may go how deep into the reserves, when memory is reclaimed, and the exact
//! words of every refusal. The allocator below is a plain buddy under a lock; the last tests use the real one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Mutex;

use kspace_frames::zone::{
    Affinity, Fallback, Hooks, NodeId, Nodes, NotEnoughRam, Request, Shortage, Tuning, TuningError,
    Urgency, Zone, ZoneFrames, ZoneKind, ZoneLimits, ZoneProblem, ZoneSpan, Zones, ZonesError,
};
use kspace_frames::{FirmwareEntry, MemoryMap, Order, Owner};
use kspace_layout::{Pfn, PhysAddr, PhysRange};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Free blocks by order and first frame. Blocks are halved as needed and never joined again.
#[derive(Debug)]
struct Buddy {
    managed: u64,
    free: Mutex<[BTreeSet<u64>; 11]>,
}

impl Buddy {
    fn new(span: &ZoneSpan) -> Self {
        let mut free: [BTreeSet<u64>; 11] = Default::default();
        let mut at = span.start();
        while at < span.end() {
            let order = at.trailing_zeros().min((span.end() - at).ilog2()).min(10);
            free[order as usize].insert(at);
            at += 1 << order;
        }
        Self {
            managed: span.spanned(),
            free: Mutex::new(free),
        }
    }

    /// Takes everything but `left` single frames, of which no two are neighbours.
    fn leave(&self, left: u64) {
        let mut free = self.free.lock().expect("no panic");
        let first = *free.iter().flatten().min().expect("free memory");
        *free = Default::default();
        free[0] = (0..left).map(|number| first + 2 * number).collect();
    }
}

impl ZoneFrames for Buddy {
    type Cpu = ();
    type Block<'a> = (Pfn, Order, Owner);

    fn managed_frames(&self) -> u64 {
        self.managed
    }

    fn free_frames(&self) -> u64 {
        self.free_frames_exact()
    }

    fn free_frames_exact(&self) -> u64 {
        let free = self.free.lock().expect("no panic");
        free.iter()
            .enumerate()
            .map(|(order, blocks)| (blocks.len() as u64) << order)
            .sum()
    }

    fn drift(&self) -> u64 {
        0
    }

    fn free_blocks(&self, order: Order) -> u64 {
        self.free.lock().expect("no panic")[usize::from(order.get())].len() as u64
    }

    fn allocate(
        &self,
        (): &(),
        order: Order,
        owner: Owner,
        last: Option<Pfn>,
    ) -> Option<Self::Block<'_>> {
        let mut free = self.free.lock().expect("no panic");
        let wanted = usize::from(order.get());
        let last = last.map_or(u64::MAX, Pfn::as_u64);
        let fits = |start: &&u64| **start + (1 << wanted) - 1 <= last;
        let (from, start) =
            (wanted..11).find_map(|order| Some((order, *free[order].iter().find(fits)?)))?;
        free[from].remove(&start);
        for half in wanted..from {
            free[half].insert(start + (1 << half));
        }
        Some((Pfn::new(start), order, owner))
    }

    fn first(block: &Self::Block<'_>) -> Pfn {
        block.0
    }
}

/// Notes what is asked of it.
#[derive(Default)]
struct Kernel {
    shortages: RefCell<Vec<Shortage>>,
    zeroed: Cell<Option<(Pfn, u64)>>,
}

impl Hooks for Kernel {
    fn reclaim(&self, shortage: &Shortage) -> u64 {
        self.shortages.borrow_mut().push(*shortage);
        0
    }

    fn zero(&self, first: Pfn, frames: u64) {
        self.zeroed.set(Some((first, frames)));
    }
}

/// Two nodes: 1 GiB with DMA and DMA32, and 2 GiB of Normal.
fn two_nodes() -> Vec<Zone<Buddy>> {
    let ram = |start, end| FirmwareEntry {
        start,
        size: end - start,
        kind: 1,
    };
    let map = [ram(MIB, GIB), ram(4 * GIB, 6 * GIB)];
    let map = MemoryMap::from_firmware(map, 52, |_| ()).expect("a usable map");
    let near = |node, start, size| Affinity {
        node,
        range: PhysRange::new(PhysAddr::new(start), size),
    };
    let affinities = [near(0, 0, GIB), near(1, 4 * GIB, 2 * GIB)];
    let nodes = Nodes::new(&map, &affinities, |repair| panic!("{repair}")).expect("two nodes");
    nodes
        .zones(&ZoneLimits::x86_64())
        .filter(ZoneSpan::is_populated)
        .map(|span| Zone::new(span, Buddy::new(&span)))
        .collect()
}

fn zones_of(zones: &[Zone<Buddy>]) -> Zones<'_, Buddy> {
    let distance = |one, other| if one == other { 10 } else { 20 };
    let zones = Zones::new(zones, ZoneLimits::x86_64(), distance).expect("zones");
    zones.set_reserves(&Tuning::new()).expect("possible");
    zones
}

fn node(number: u32) -> NodeId {
    NodeId::try_new(number).expect("a node")
}

fn zone<'z>(zones: &Zones<'z, Buddy>, number: u32, kind: ZoneKind) -> &'z Zone<Buddy> {
    zones.get(node(number), kind).expect("a zone with memory")
}

/// The zone that serves, or the refusal.
fn served(zones: &Zones<'_, Buddy>, home: u32, request: &Request) -> String {
    match zones.allocate(&(), node(home), request, &Kernel::default()) {
        Ok((first, order, _)) => {
            let zone = zones.of_frame(first, |_| true).expect("a zone");
            format!("{} {} {order}", zone.node(), zone.kind())
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_nearest_and_highest_zone_serves_first() {
    let zones = two_nodes();
    let zones = zones_of(&zones);
    let one = Request::order(0);
    assert_eq!(served(&zones, 1, &one), "1 Normal order 0 (4 KiB)");
    assert_eq!(served(&zones, 0, &one), "0 DMA32 order 0 (4 KiB)");
    assert_eq!(
        served(&zones, 1, &one.up_to(ZoneKind::Dma)),
        "0 DMA order 0 (4 KiB)"
    );
    assert_eq!(
        served(&zones, 1, &one.up_to(ZoneKind::Movable)),
        "1 Normal order 0 (4 KiB)"
    );
    assert_eq!(served(&zones, 7, &one), "0 DMA32 order 0 (4 KiB)");
    assert_eq!(
        served(&zones, 0, &Request::pages(5)),
        "0 DMA32 order 3 (32 KiB)"
    );

    zone(&zones, 0, ZoneKind::Dma32).frames().leave(0);
    assert_eq!(served(&zones, 0, &one), "0 DMA order 0 (4 KiB)");
    zone(&zones, 0, ZoneKind::Dma).frames().leave(0);
    assert_eq!(served(&zones, 0, &one), "1 Normal order 0 (4 KiB)");
}

/// The marks are Linux's: 3 GiB less the first MiB are 786176 pages, min_free_kbytes is the square root of 16 times that.
#[test]
fn marks_and_protection_of_two_nodes() {
    let zones = two_nodes();
    let zones = zones_of(&zones);
    let reserves = zones.set_reserves(&Tuning::new()).expect("possible");
    assert_eq!(reserves.low_pages(), 786_176);
    assert_eq!(reserves.min_free_kbytes(), 7093);
    let dma32 = zone(&zones, 0, ZoneKind::Dma32);
    // 7093 / 4 * 258048 / 786176 = 581; the gap is a thousandth of the zone, 258.
    assert_eq!(dma32.watermarks().min, 581);
    assert_eq!(dma32.watermarks().low, 839);
    // A node protects its own lower zones only: DMA from those who could have DMA32, 258048 / 256.
    let dma = zone(&zones, 0, ZoneKind::Dma);
    assert_eq!(dma.protection().from(ZoneKind::Dma), 0);
    assert_eq!(dma.protection().from(ZoneKind::Dma32), 1008);
    assert_eq!(dma.protection().from(ZoneKind::Normal), 1008);
}

#[test]
fn below_min_only_urgent_requests_pass() {
    let zones = two_nodes();
    let zones = zones_of(&zones);
    let dma32 = zone(&zones, 0, ZoneKind::Dma32);
    let only = Request::order(0)
        .up_to(ZoneKind::Dma32)
        .fallback(Fallback::None);
    let min = dma32.watermarks().min;
    let pass = |left: u64, request: &Request| {
        dma32.frames().leave(left);
        zones
            .allocate(&(), node(0), request, &Kernel::default())
            .is_ok()
    };
    let high = only.urgency(Urgency::High);
    let atomic = only.urgency(Urgency::Atomic);
    // min 581, half of it 291 (rounded as Linux does), three eighths 219.
    assert_eq!(min, 581);
    assert_eq!([pass(582, &only), pass(581, &only)], [true, false]);
    assert_eq!([pass(292, &high), pass(291, &high)], [true, false]);
    assert_eq!([pass(220, &atomic), pass(219, &atomic)], [true, false]);
}

#[test]
fn protection_keeps_low_memory_from_those_with_a_choice() {
    let zones = two_nodes();
    let zones = zones_of(&zones);
    let dma = zone(&zones, 0, ZoneKind::Dma);
    dma.frames().leave(800);
    zone(&zones, 0, ZoneKind::Dma32).frames().leave(0);
    let node_0 = Request::order(0).fallback(Fallback::Node);
    assert!(
        zones
            .allocate(&(), node(0), &node_0, &Kernel::default())
            .is_err()
    );
    assert!(
        zones
            .allocate(
                &(),
                node(0),
                &node_0.up_to(ZoneKind::Dma),
                &Kernel::default()
            )
            .is_ok()
    );
}

#[test]
fn reclaim_is_asked_below_the_low_mark() {
    let zones = two_nodes();
    let zones = zones_of(&zones);
    let dma32 = zone(&zones, 0, ZoneKind::Dma32);
    let marks = dma32.watermarks();
    let only = Request::order(0)
        .up_to(ZoneKind::Dma32)
        .fallback(Fallback::None);
    let asked = |left: u64, request: &Request| {
        let kernel = Kernel::default();
        dma32.frames().leave(left);
        let served = zones.allocate(&(), node(0), request, &kernel).is_ok();
        (served, kernel.shortages.into_inner())
    };
    assert_eq!(asked(marks.low + 1, &only), (true, vec![]));
    let short = |left: u64, may_wait| Shortage {
        node: node(0),
        kind: ZoneKind::Dma32,
        order: Order::FRAME,
        frames: marks.high - left + 1,
        may_wait,
    };
    assert_eq!(
        asked(marks.low, &only),
        (true, vec![short(marks.low, true)])
    );
    assert_eq!(
        asked(marks.min, &only),
        (false, vec![short(marks.min, true)])
    );
    let atomic = only.urgency(Urgency::Atomic);
    assert_eq!(
        asked(marks.min, &atomic),
        (true, vec![short(marks.min, false)])
    );
}

/// A cache that gives back one frame at a time.
struct Miser<'a>(&'a Buddy, Cell<u64>);

impl Hooks for Miser<'_> {
    fn reclaim(&self, _: &Shortage) -> u64 {
        if self.1.get() == 0 {
            return 0;
        }
        self.1.set(self.1.get() - 1);
        let mut free = self.0.free.lock().expect("no panic");
        let above = free[0].last().map_or(0x1000, |last| last + 2);
        free[0].insert(above);
        1
    }

    fn zero(&self, _: Pfn, _: u64) {}
}

#[test]
fn reclaim_is_repeated_while_it_helps() {
    let zones = two_nodes();
    let zones = zones_of(&zones);
    let dma32 = zone(&zones, 0, ZoneKind::Dma32);
    let only = Request::order(0)
        .up_to(ZoneKind::Dma32)
        .fallback(Fallback::None);
    for (missing, served) in [(10, true), (30, false)] {
        dma32.frames().leave(dma32.watermarks().min + 1 - missing);
        let miser = Miser(dma32.frames(), Cell::new(100));
        assert_eq!(zones.allocate(&(), node(0), &only, &miser).is_ok(), served);
        assert_eq!(100 - miser.1.get(), missing.min(16));
    }
    // Who may not wait asks once.
    dma32.frames().leave(100);
    let miser = Miser(dma32.frames(), Cell::new(100));
    let atomic = only.urgency(Urgency::Atomic);
    assert!(zones.allocate(&(), node(0), &atomic, &miser).is_err());
    assert_eq!(miser.1.get(), 99);
}

#[test]
fn zeroed_blocks_are_zeroed_whole() {
    let zones = two_nodes();
    let zones = zones_of(&zones);
    let kernel = Kernel::default();
    let request = Request::order(3).zeroed().owner(Owner::PAGE_TABLE);
    let (first, order, owner) = zones
        .allocate(&(), node(1), &request, &kernel)
        .expect("memory");
    assert_eq!((order, owner), (Order::new(3), Owner::PAGE_TABLE));
    assert_eq!(kernel.zeroed.take(), Some((first, 8)));
    zones
        .allocate(&(), node(1), &Request::order(3), &kernel)
        .expect("memory");
    assert_eq!(kernel.zeroed.take(), None);
}

#[test]
fn an_address_limit_holds() {
    let zones = two_nodes();
    let zones = zones_of(&zones);
    for (last, expected) in [
        (5 * GIB - 1, "1 Normal order 4 (64 KiB)"),
        (4 * GIB, "0 DMA32 order 4 (64 KiB)"),
        (20 * MIB, "0 DMA32 order 4 (64 KiB)"),
        (2 * MIB, "0 DMA order 4 (64 KiB)"),
    ] {
        let request = Request::order(4).below(PhysAddr::new(last));
        assert_eq!(served(&zones, 1, &request), expected);
        let (first, ..) = zones
            .allocate(&(), node(1), &request, &Kernel::default())
            .expect("memory");
        assert!(first.start().as_u64() + 0xffff <= last);
    }
}

#[test]
fn refusals_name_zone_order_free_pages_and_mark() {
    let zones = two_nodes();
    let zones = zones_of(&zones);
    let one = Request::order(0);
    let check = |home, request: &Request, expected: &str| {
        assert_eq!(served(&zones, home, request), expected);
    };
    check(
        1,
        &Request::order(11),
        "allocate order 11 from node 1, zone Normal: the largest block is order 10 (4 MiB); ask for less, or for a \
         contiguous range; 524288 pages are free, 1706 must stay free (low mark)",
    );
    check(
        1,
        &Request::pages(u64::MAX),
        "allocate order 64 from node 1, zone Normal: the largest block is order 10 (4 MiB); ask for less, or for a \
         contiguous range; 524288 pages are free, 1706 must stay free (low mark)",
    );
    check(
        1,
        &Request::pages(0),
        "allocate order 0 from node 1, zone Normal: no pages were asked for; ask for at least one; 524288 pages are \
         free, 1706 must stay free (low mark)",
    );
    check(
        0,
        &one.up_to(ZoneKind::HighMem),
        "allocate order 0 from node 0, zone HighMem: this machine has no such zone; it has DMA, DMA32, Normal, Movable, \
         Device",
    );
    check(
        1,
        &one.up_to(ZoneKind::Dma).fallback(Fallback::Node),
        "allocate order 0 from node 1, zone DMA: no memory there, nor in any zone that may stand in; allow more zones",
    );
    check(
        0,
        &one.up_to(ZoneKind::Dma).below(PhysAddr::new(0xf_ffff)),
        "allocate order 0 from node 0, zone DMA: the limit 00000000000fffff is below all memory of the zone, which begins \
         at 0000000000100000; raise it; 3840 pages are free, 11 must stay free (low mark)",
    );
    zone(&zones, 0, ZoneKind::Dma).frames().leave(5);
    zone(&zones, 0, ZoneKind::Dma32).frames().leave(123);
    zone(&zones, 1, ZoneKind::Normal).frames().leave(7);
    check(
        0,
        &one,
        "allocate order 0 from node 0, zone DMA32: out of memory; free some; 123 pages are free, 581 must stay free (min \
         mark)",
    );
    check(
        0,
        &one.urgency(Urgency::Atomic),
        "allocate order 0 from node 0, zone DMA32: the reserve for urgent requests is used up; wait, or free some; 123 \
         pages are free, 219 must stay free (three eighths of the min mark)",
    );
    zone(&zones, 0, ZoneKind::Dma32).frames().leave(10_000);
    check(
        0,
        &Request::order(1),
        "allocate order 1 from node 0, zone DMA32: no free block is that large and below the limit; ask for smaller ones; \
         10000 pages are free, 581 must stay free (min mark)",
    );
}

#[test]
fn an_error_has_its_values() {
    let zones = two_nodes();
    let zones = zones_of(&zones);
    zone(&zones, 1, ZoneKind::Normal).frames().leave(3);
    let request = Request::order(2).fallback(Fallback::None);
    let error = zones
        .allocate(&(), node(1), &request, &Kernel::default())
        .expect_err("short");
    assert_eq!(error.problem(), ZoneProblem::Exhausted);
    assert_eq!(
        (error.order(), error.zone()),
        (2, (node(1), ZoneKind::Normal))
    );
    assert_eq!(
        error.state().map(|state| (state.free, state.kept)),
        Some((3, 1182))
    );
}

#[test]
fn zones_that_do_not_fit_together_are_refused() {
    let check = |zones: &[Zone<Buddy>], limits, expected: &str| {
        let error = Zones::new(zones, limits, |_, _| 10).expect_err("refused");
        assert_eq!(error.to_string(), expected);
    };
    check(
        &[],
        ZoneLimits::x86_64(),
        "zones: there are none; memory is of no use without",
    );
    let mut zones = two_nodes();
    let low = PhysAddr::new(GIB - 1);
    check(
        &zones,
        ZoneLimits::i386(low),
        "zones: node 0 has a zone DMA32, but this machine has no such kind; use its own limits",
    );
    zones.extend(two_nodes());
    check(
        &zones,
        ZoneLimits::x86_64(),
        "zones: node 0 has two zones DMA; give each zone once",
    );
    assert_eq!(
        ZonesError::TooMany { given: 300 }.to_string(),
        "zones: 300 are given, at most 255 can be; join nodes"
    );
}

#[test]
fn settings_that_cannot_be_are_refused_and_change_nothing() {
    let zones = two_nodes();
    let zones = zones_of(&zones);
    let before = zone(&zones, 1, ZoneKind::Normal).watermarks();
    let error = zones
        .set_reserves(&Tuning::new().with_min_free_kbytes(2 << 20))
        .expect_err("too much");
    assert_eq!(
        error.to_string(),
        "min_free_kbytes=2097152: more than half of low memory, which is 3144704 KiB; give at most 1572352; nothing was \
         changed"
    );
    assert_eq!(zone(&zones, 1, ZoneKind::Normal).watermarks(), before);
    for scale in [0, 3001] {
        assert_eq!(
            Tuning::new().with_scale(scale),
            Err(TuningError::Scale { scale })
        );
    }
    assert_eq!(
        TuningError::Scale { scale: 3001 }.to_string(),
        "watermark_scale_factor=3001: must be 1 to 3000; nothing was changed"
    );
    // What is given holds, even against huge pages.
    let given = Tuning::new()
        .with_min_free_kbytes(4000)
        .with_huge_pages(512);
    assert_eq!(
        zones
            .set_reserves(&given)
            .expect("possible")
            .min_free_kbytes(),
        4000
    );
    // 4000 / 4 * 524288 / 786176 and a gap of one hundredth of the zone.
    let scaled = given.with_scale(100).expect("possible");
    zones.set_reserves(&scaled).expect("possible");
    let marks = zone(&zones, 1, ZoneKind::Normal).watermarks();
    assert_eq!((marks.min, marks.low - marks.min), (666, 5242));
}

#[test]
fn memory_smaller_than_its_books_stops_the_boot() {
    let ram = FirmwareEntry {
        start: MIB,
        size: 2 * MIB,
        kind: 1,
    };
    let mut map = MemoryMap::from_firmware([ram], 52, |_| ()).expect("a usable map");
    map.reserve(PhysRange::new(PhysAddr::new(MIB), MIB))
        .expect("room");
    assert_eq!(NotEnoughRam::check(&map, MIB - 4096), Ok(()));
    assert_eq!(
        NotEnoughRam::check(&map, 3 * MIB)
            .expect_err("too much")
            .to_string(),
        "frames: the allocator needs 3 MiB for itself, and RAM has 1 MiB free; give the machine more memory"
    );
    assert!(NotEnoughRam::check(&map, MIB).is_err());
}

proptest! {
    /// Whatever is asked for: no panic, and what is served lies in an allowed zone, below the limit, and leaves the mark.
    #[test]
    fn what_is_served_is_what_was_asked_for(
        home in 0_u32..64,
        order in 0_u32..14,
        kind in 0_usize..6,
        last in prop::option::of(0_u64..8 * GIB),
        urgency in 0_usize..3,
        fallback in 0_usize..3,
        left in prop::collection::vec(0_u64..2000, 3),
    ) {
        let all = two_nodes();
        let zones = zones_of(&all);
        for (zone, left) in all.iter().zip(&left) {
            zone.frames().leave(*left);
        }
        let urgency = [Urgency::Usual, Urgency::High, Urgency::Atomic][urgency];
        let highest = ZoneKind::ALL[kind];
        let mut request = Request::order(order)
            .up_to(highest)
            .urgency(urgency)
            .fallback([Fallback::All, Fallback::Node, Fallback::None][fallback]);
        if let Some(last) = last {
            request = request.below(PhysAddr::new(last));
        }
        if let Ok((first, order, _)) = zones.allocate(&(), node(home), &request, &Kernel::default()) {
            let zone = zones.of_frame(first, |_| true).expect("a zone");
            prop_assert!(zone.kind() <= highest);
            prop_assert!(fallback == 0 || zone.node() == node(home));
            prop_assert!(fallback != 2 || zone.kind() == highest);
            let end = first.start().as_u64() + ((order.frames() as u64) << 12);
            prop_assert!(last.is_none_or(|last| end - 1 <= last));
            let kept = urgency.min(zone.watermarks().min) + zone.protection().from(highest);
            prop_assert!(zone.frames().free_frames_exact() >= kept);
        }
    }
}
