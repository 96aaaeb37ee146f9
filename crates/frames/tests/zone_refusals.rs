//! What is refused, in exactly which words: requests, zones that do not fit together, settings, and too little memory.

mod zone_machine;

use std::sync::atomic::Ordering::Relaxed;

use kspace_frames::zone::{
    Fallback, Nodes, NotEnoughRam, Request, Tuning, TuningError, Urgency, Zone, ZoneKind,
    ZoneLimits, ZoneProblem, ZoneSpan, Zones, ZonesError,
};
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_layout::{PhysAddr, PhysRange};
use zone_machine::{Buddy, GIB, Kernel, MIB, node, served, two_nodes, zone, zones_of};

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
        "allocate order 0 from node 0, zone DMA: no such block lies below the limit 00000000000fffff: memory of the zone \
         begins at 0000000000100000; raise it; 3840 pages are free, 11 must stay free (low mark)",
    );
    check(
        0,
        &Request::order(3).below(PhysAddr::new(0x10_6fff)),
        "allocate order 3 from node 0, zone Normal: no such block lies below the limit 0000000000106fff: memory of the zone \
         begins at 0000000000100000; raise it",
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
        "allocate order 1 from node 0, zone DMA32: no free block within its limits is large enough; ask for smaller ones; \
         10000 pages are free, 581 must stay free (min mark)",
    );
}

/// Frames come back while a request is refused: what the error says is out of memory must be so by its own numbers.
#[test]
fn an_error_agrees_with_its_numbers_while_frames_come_back() {
    let zones = two_nodes();
    let zones = zones_of(&zones);
    let frames = zone(&zones, 0, ZoneKind::Dma32).frames();
    let request = Request::order(0)
        .up_to(ZoneKind::Dma32)
        .fallback(Fallback::None);
    let mut refused = 0;
    for left in 540..590 {
        frames.leave(left);
        frames.is_gaining.store(true, Relaxed);
        let answer = zones.allocate(&(), node(0), &request, &Kernel::default());
        frames.is_gaining.store(false, Relaxed);
        let Err(error) = answer else { continue };
        let state = error.state().expect("the zone was looked at");
        let is_short = error.problem() == ZoneProblem::Exhausted;
        assert_eq!(is_short, state.free <= state.kept, "{left} left: {error}");
        refused += 1;
    }
    assert!(refused > 10, "{refused}");
}

/// A zone to which memory can be plugged in one day is not asked, waited for or blamed before.
#[test]
fn a_zone_without_memory_yet_is_passed_over() {
    let mut zones = two_nodes();
    for kind in [ZoneKind::Normal, ZoneKind::Movable] {
        let nothing = ZoneSpan::empty(node(0), kind);
        zones.push(Zone::new(nothing, Buddy::new(&nothing)));
    }
    let zones = zones_of(&zones);
    let asked_first = |zones: &Zones<'_, Buddy>| {
        let zone = zones.first(node(0), ZoneKind::Normal).expect("memory");
        zone.kind()
    };
    assert_eq!(asked_first(&zones), ZoneKind::Dma32);
    for (number, kind) in [
        (0, ZoneKind::Dma),
        (0, ZoneKind::Dma32),
        (1, ZoneKind::Normal),
    ] {
        zone(&zones, number, kind).frames().leave(5);
    }
    let kernel = Kernel::default();
    let error = zones.allocate(&(), node(0), &Request::order(0), &kernel);
    let error = error.expect_err("short");
    assert_eq!(error.zone(), (node(0), ZoneKind::Dma32));
    assert_eq!(error.state().map(|state| state.free), Some(5));
    let shortage = kernel.shortages.borrow()[0];
    let dma32 = zone(&zones, 0, ZoneKind::Dma32);
    assert_eq!(shortage.kind, ZoneKind::Dma32);
    assert_eq!(shortage.frames, dma32.watermarks().high - 5 + 1);

    let normal = zone(&zones, 0, ZoneKind::Normal);
    let (start, size) = (PhysAddr::new(8 * GIB), GIB);
    let ram = FirmwareEntry {
        start: start.as_u64(),
        size,
        kind: 1,
    };
    let low = FirmwareEntry {
        start: MIB,
        size: GIB,
        kind: 1,
    };
    let map = MemoryMap::from_firmware([low, ram], 52, |_| ()).expect("a usable map");
    let nodes = Nodes::new(&map, &[], |repair| panic!("{repair}")).expect("a node");
    normal.extend(nodes.zone(zones.limits(), node(0), ZoneKind::Normal));
    zones.set_reserves(&Tuning::new()).expect("possible");
    assert_eq!(asked_first(&zones), ZoneKind::Normal);
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
