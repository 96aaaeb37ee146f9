//! Requests against zones: which zone serves, who may go how deep into the reserves, and when memory is reclaimed.

mod zone_machine;

use std::cell::Cell;

use kspace_frames::zone::{
    Fallback, Hooks, Request, Shortage, Tuning, Urgency, ZoneFrames, ZoneKind,
};
use kspace_frames::{Order, Owner};
use kspace_layout::{Pfn, PhysAddr};
use proptest::prelude::*;
use zone_machine::{Buddy, GIB, Kernel, MIB, node, served, two_nodes, zone, zones_of};

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
        urgent: false,
    };
    assert_eq!(
        asked(marks.low, &only),
        (true, vec![short(marks.low, true)])
    );
    // What costs others an interrupt is asked for only when the first answer was not enough.
    let urgent = Shortage {
        urgent: true,
        ..short(marks.min, true)
    };
    assert_eq!(
        asked(marks.min, &only),
        (false, vec![short(marks.min, true), urgent])
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
            let zone = zones.spanning(first).next().expect("a zone");
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
