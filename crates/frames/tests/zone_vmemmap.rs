//! Where the allocators' books are backed: everywhere where there is RAM, nowhere else, and cheaply.

#![cfg(all(target_os = "linux", not(feature = "loom")))]

mod reserved_area;

use std::collections::BTreeSet;

use kspace_frames::zone::{
    Affinity, NodeId, Nodes, Vmemmap, VmemmapPlan, VmemmapRun, ZoneKind, ZoneLimits,
};
use kspace_layout::{PageSize, Pfn, PhysAddr, PhysRange};
use proptest::prelude::*;
use reserved_area::{GIB, MIB, ReservedArea, map_of};

const LARGE: PageSize = PageSize::Size2M;
const LIMITS: ZoneLimits = ZoneLimits::x86_64();

fn bytes(size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::ZERO, size)
}

fn near(node: u32, start: u64, end: u64) -> Affinity {
    let range = PhysRange::new(PhysAddr::new(start), end - start);
    Affinity {
        node,
        range,
        hot_pluggable: true,
    }
}

fn nodes_of(ram: &[(u64, u64)], affinities: &[Affinity]) -> Nodes {
    Nodes::new(&map_of(ram), affinities, |_| ()).expect("few nodes")
}

fn arranged(nodes: &Nodes, affinities: &[Affinity], cpus: usize, reach: u64) -> Vmemmap {
    let last = bytes(reach).last().pfn();
    let zones = nodes.possible_zones(&LIMITS, affinities, last);
    // Linux keeps 64 bytes for each frame.
    Vmemmap::new(zones, cpus, bytes(reach), reach / 64).expect("room")
}

fn runs(plan: &VmemmapPlan<'_>) -> Vec<String> {
    plan.runs().map(|run| run.to_string()).collect()
}

/// Linux maps 2 MiB for a machine of 64 MiB.
#[test]
fn a_small_machine_pays_for_what_it_has() {
    let nodes = nodes_of(&[(0x1000, 0x9f000), (MIB, 64 * MIB)], &[]);
    let vmemmap = arranged(&nodes, &[], 1, 64 << 40);
    let plan = VmemmapPlan::new(&vmemmap, &nodes, LARGE);
    // Records of 16384 frames; and slots, trees, counters and bits of both zones on two pages.
    assert_eq!(
        runs(&plan),
        [
            "0-ffff, 64 KiB, page 4k",
            "1000000000-1000001fff, 8 KiB, page 4k"
        ]
    );
    assert_eq!(plan.bytes() / 4096, 18);
}

#[test]
fn whole_large_pages_are_used_and_holes_left_out() {
    let ram = [(MIB, 3 * GIB + 64 * MIB), (4 * GIB, 8 * GIB + 192 * MIB)];
    let nodes = nodes_of(&ram, &[]);
    let vmemmap = arranged(&nodes, &[], 1, 64 << 40);
    let plan = VmemmapPlan::new(&vmemmap, &nodes, LARGE);
    assert_eq!(
        runs(&plan),
        [
            // Records: 2 MiB of them for 2 GiB; the first MiB has no RAM, but shares a page with the next.
            "0-1fffff, 2 MiB, page 2M",
            "200000-30ffff, 1 MiB, page 4k",
            "400000-7fffff, 4 MiB, page 2M",
            "800000-82ffff, 192 KiB, page 4k",
            // 6528 bytes of slots, 1152 of trees, 8448 of counters, bits of DMA; bits of DMA32 from 18176 to the hole at
            // 118016; then those of Normal, from 149248 to 286464.
            "1000000000-100001cfff, 116 KiB, page 4k",
            "1000024000-1000045fff, 136 KiB, page 4k",
        ]
    );
}

/// RAM that ends inside a page of records takes that page; two that share one take it once.
#[test]
fn a_page_of_records_is_taken_once() {
    let page = |number: u64| 16 * MIB + number * 4096;
    let ram = [
        (page(0), page(3)),
        (page(5), page(6)),
        (page(1070), page(1071)),
    ];
    let nodes = nodes_of(&ram, &[]);
    let vmemmap = arranged(&nodes, &[], 1, GIB);
    let plan = VmemmapPlan::new(&vmemmap, &nodes, LARGE);
    let first = plan.runs().next().expect("records");
    assert_eq!(first.to_string(), "4000-5fff, 8 KiB, page 4k");
}

/// Such memory is refused where it is plugged in; a plan for it has just no pages.
#[test]
fn what_lies_beyond_the_reach_has_no_books() {
    let nodes = nodes_of(&[(0, GIB)], &[]);
    let vmemmap = arranged(&nodes, &[], 1, 64 * GIB);
    let plan = VmemmapPlan::new(&vmemmap, &nodes, LARGE);
    let mut now = nodes;
    now.add(NodeId::ZERO, near(0, 63 * GIB, 65 * GIB).range)
        .expect("room");
    now.add(NodeId::ZERO, near(0, 128 * GIB, 129 * GIB).range)
        .expect("room");
    let later = plan.with_plugged(&now);
    let new: u64 = later.runs_since(&plan).map(VmemmapRun::size).sum();
    // A record of 4 bytes for each frame of one gibibyte.
    assert_eq!(new, GIB / 4096 * 4);
    assert_eq!(later.bytes(), plan.bytes() + new);
}

#[test]
fn zones_span_what_may_be_plugged_in_and_no_more_than_firmware_can_justify() {
    let ram = [(MIB, GIB)];
    let slots = [
        near(0, 0, GIB),
        near(0, 4 * GIB, 8 * GIB),
        near(1, 8 * GIB, 1 << 51),
    ];
    let nodes = nodes_of(&ram, &slots);
    let reach = Pfn::new((64 << 40) / 4096 - 1);
    let zones: Vec<String> = nodes
        .possible_zones(&LIMITS, &slots, reach)
        .map(|zone| format!("{} {} {}", zone.node(), zone.kind(), zone.range()))
        .collect();
    assert_eq!(
        zones,
        [
            "0 DMA 0000000000000000-0000000000ffffff",
            "0 DMA32 0000000001000000-00000000ffffffff",
            "0 Normal 0000000100000000-00000001ffffffff",
            // 2^15 times the RAM: 32 TiB less 32 GiB, because the first MiB has none.
            "1 Normal 0000000200000000-00001ff7ffffffff",
        ]
    );
}

#[test]
fn free_ranges_are_cut_by_zone_and_node() {
    let ram = [(MIB, 3 * GIB), (4 * GIB, 6 * GIB)];
    let affinities = [
        near(0, 0, GIB),
        near(1, GIB, 5 * GIB),
        near(0, 5 * GIB, 6 * GIB),
    ];
    let nodes = nodes_of(&ram, &affinities);
    let parts: Vec<String> = nodes
        .zones_in(
            &LIMITS,
            PhysRange::new(PhysAddr::new(8 * MIB), 5 * GIB + 512 * MIB),
        )
        .map(|(node, kind, range)| format!("{node} {kind} {range}"))
        .collect();
    assert_eq!(
        parts,
        [
            "0 DMA 0000000000800000-0000000000ffffff",
            "0 DMA32 0000000001000000-000000003fffffff",
            "1 DMA32 0000000040000000-00000000bfffffff",
            "1 Normal 0000000100000000-000000013fffffff",
            "0 Normal 0000000140000000-00000001607fffff",
        ]
    );
}

#[test]
fn what_does_not_fit_is_refused_with_both_sizes() {
    let nodes = nodes_of(&[(MIB, 2 * GIB)], &[]);
    let zones = || nodes.possible_zones(&LIMITS, &[], Pfn::new(0xf_ffff));
    let refused = |reach: u64, area: u64| {
        let error = Vmemmap::new(zones(), 1, bytes(reach), area).expect_err("refused");
        error.to_string()
    };
    assert_eq!(
        refused(GIB, 1 << 40),
        "vmemmap: node 0 zone DMA32 reaches up to 000000007fffffff, the direct map holds only \
         0000000000000000-000000003fffffff; use less RAM (mem=)"
    );
    assert_eq!(
        refused(2 * GIB, 2 * MIB),
        "vmemmap: the books span 2 MiB, the area has 2 MiB; make it larger"
    );
    let many = zones().cycle().take(131);
    assert_eq!(
        Vmemmap::new(many, 1, bytes(2 * GIB), 1 << 40)
            .expect_err("refused")
            .to_string(),
        "vmemmap: more than 130 zones; go on without the firmware's nodes (numa=off)"
    );
}

/// Pages of the area that the books of these frames lie on, by the addresses that the arrays really have.
fn pages_of(area: &ReservedArea, vmemmap: &Vmemmap, nodes: &Nodes) -> BTreeSet<u64> {
    let mut pages = BTreeSet::new();
    let mut touch = |address: usize, size: usize| {
        let first = address as u64 - area.start().as_ptr() as u64;
        pages.extend(first / 4096..=(first + size as u64 - 1) / 4096);
    };
    for zone in vmemmap.zones() {
        let books = area.metadata(vmemmap, zone.node(), zone.kind());
        touch(books.cpus.as_ptr() as usize, size_of_val(books.cpus));
        touch(books.trees.as_ptr() as usize, size_of_val(books.trees));
        let base = zone.start().as_u64() & !1023;
        for frame in zone.start().as_u64()..zone.end() {
            if nodes.node_of(Pfn::new(frame).start()) == Some(zone.node()) {
                let at = (frame - base) as usize;
                touch(&raw const books.records[at] as usize, 4);
                touch(&raw const books.bits[at / 512 * 8] as usize, 64);
                touch(&raw const books.huges[at / 16384 * 16] as usize, 64);
            }
        }
    }
    pages
}

prop_compose! {
    /// Up to six ranges of RAM, in pages, and where a second node begins and ends.
    fn machine()(
        ram in prop::collection::vec((0_u64..60_000, 1_u64..30_000), 1..6),
        second in (0_u64..60_000, 1_u64..30_000),
        plugged in prop::collection::btree_set(0_u64..12, 0..4),
    ) -> (Vec<(u64, u64)>, Vec<Affinity>, Vec<u64>) {
        let ram = ram.iter().map(|(start, len)| (start * 4096, (start + len) * 4096)).collect();
        let (start, len) = (second.0 * 4096, second.1 * 4096);
        let mut affinities = vec![near(1, start, start + len), near(0, 0, 12 << 27)];
        affinities.sort_by_key(|affinity| affinity.range.start());
        (ram, affinities, plugged.into_iter().collect())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Against a model that asks frame by frame, and looks where the arrays' elements are: exactly their pages, and large ones where
    /// boot needs all 512. What is plugged in adds what is missing.
    #[test]
    fn the_plan_is_that_of_a_frame_by_frame_model((ram, affinities, plugged) in machine()) {
        let boot = nodes_of(&ram, &affinities);
        let vmemmap = arranged(&boot, &affinities, 2, 4 * GIB);
        let area = ReservedArea::new(vmemmap.bytes());
        let mut now = boot;
        for section in plugged {
            // Where there is RAM nothing can be plugged in.
            let _ = now.add(NodeId::ZERO, PhysRange::new(PhysAddr::new(section << 27), 1 << 27));
        }
        let old = pages_of(&area, &vmemmap, &boot);
        let wanted = pages_of(&area, &vmemmap, &now);
        let before = VmemmapPlan::new(&vmemmap, &boot, LARGE);
        let plan = before.with_plugged(&now);
        let mut last: Option<(u64, PageSize)> = None;
        let mut covered = BTreeSet::new();
        for run in plan.runs() {
            prop_assert_eq!((run.offset() % run.page().bytes(), run.size() % run.page().bytes()), (0, 0));
            if let Some((end, page)) = last {
                prop_assert!(end < run.offset() || (end == run.offset() && page != run.page()));
            }
            last = Some((run.offset() + run.size(), run.page()));
            for page in run.offset() / 4096..(run.offset() + run.size()) / 4096 {
                covered.insert(page);
                let whole = (page / 512 * 512..).take(512).all(|page| old.contains(&page));
                prop_assert_eq!(run.page() == LARGE, whole, "page {:x}", page);
            }
        }
        prop_assert_eq!(&covered, &wanted);
        let mut added = BTreeSet::new();
        for run in plan.runs_since(&before) {
            prop_assert_eq!(run.page(), PageSize::Size4K);
            added.extend(run.offset() / 4096..(run.offset() + run.size()) / 4096);
        }
        prop_assert_eq!(added, wanted.difference(&old).copied().collect::<BTreeSet<_>>());
        // Records are one array: from a frame's number to its record is arithmetic.
        for zone in vmemmap.zones() {
            let books = area.metadata(&vmemmap, zone.node(), zone.kind());
            let base = Pfn::new(zone.start().as_u64() & !1023);
            let offset = books.records.as_ptr() as u64 - area.start().as_ptr() as u64;
            prop_assert_eq!(Some(offset), vmemmap.record_of(base));
        }
        prop_assert!(vmemmap.zone(NodeId::ZERO, ZoneKind::Normal).is_none());
    }
}
