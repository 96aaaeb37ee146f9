//! What the firmware's affinities come to, the exact words about broken ones, and memory that is plugged in.

use kspace_frames::zone::text::ZoneRanges;
use kspace_frames::zone::{
    Affinity, LOCAL_DISTANCE, MAX_AFFINITIES, NodeError, NodeId, NodeOrder, Nodes, REMOTE_DISTANCE,
    Section, ZoneKind, ZoneLimits,
};
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_layout::{Pfn, PhysAddr, PhysRange};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn map_of(ram: &[(u64, u64)]) -> MemoryMap {
    let entries = ram.iter().map(|(start, end)| FirmwareEntry {
        start: *start,
        size: end - start,
        kind: 1,
    });
    MemoryMap::from_firmware(entries, 52, |_| ()).expect("a usable map")
}

fn range(start: u64, end: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), end - start)
}

fn near(node: u32, start: u64, end: u64) -> Affinity {
    Affinity {
        node,
        range: range(start, end),
        hot_pluggable: false,
    }
}

fn node(number: u32) -> NodeId {
    NodeId::try_new(number).expect("a node")
}

/// The repairs, and then the blocks of RAM with their nodes.
fn check(ram: &[(u64, u64)], affinities: &[Affinity], expected: &[&str]) {
    let mut lines = Vec::new();
    let nodes = Nodes::new(&map_of(ram), affinities, |repair| {
        lines.push(repair.to_string());
    })
    .expect("few ranges");
    lines.extend(
        nodes
            .blocks()
            .map(|block| format!("{} {}", block.node(), block.range())),
    );
    assert_eq!(lines, expected);
}

const TWO_RANGES: [(u64, u64); 2] = [(MIB, 2 * GIB), (4 * GIB, 6 * GIB)];

#[test]
fn without_affinities_all_is_node_0() {
    check(
        &TWO_RANGES,
        &[],
        &[
            "0 0000000000100000-000000007fffffff",
            "0 0000000100000000-000000017fffffff",
        ],
    );
}

/// As QEMU's `-numa node,mem=1G -numa node,mem=3G` describes 4 GiB of RAM.
#[test]
fn nodes_divide_ram_where_the_firmware_says() {
    check(
        &TWO_RANGES,
        &[
            near(0, MIB, GIB),
            near(1, GIB, 2 * GIB),
            near(1, 4 * GIB, 6 * GIB),
        ],
        &[
            "0 0000000000100000-000000003fffffff",
            "1 0000000040000000-000000007fffffff",
            "1 0000000100000000-000000017fffffff",
        ],
    );
}

#[test]
fn where_memory_can_be_plugged_in_there_need_not_be_any_yet() {
    let pluggable = |node, start, end| Affinity {
        hot_pluggable: true,
        ..near(node, start, end)
    };
    let map = map_of(&[(MIB, 2 * GIB)]);
    let affinities = [
        near(0, 0, GIB),
        pluggable(1, GIB, 2 * GIB),
        pluggable(2, 4 * GIB, 8 * GIB),
    ];
    let nodes = Nodes::new(&map, &affinities, |repair| panic!("{repair}")).expect("two nodes");
    let blocks: Vec<_> = nodes
        .blocks()
        .map(|block| (block.node(), block.range()))
        .collect();
    assert_eq!(
        blocks,
        [(node(0), range(MIB, GIB)), (node(1), range(GIB, 2 * GIB))]
    );
}

#[test]
fn overlapping_affinities_go_to_the_first() {
    check(
        &[(MIB, 2 * GIB)],
        &[near(0, 0, GIB), near(1, GIB - 4096, 2 * GIB)],
        &[
            "nodes: affinity 1 says 000000003ffff000-000000003fffffff is near node 1, an earlier one node 0; taken as node 0",
            "0 0000000000100000-000000003fffffff",
            "1 0000000040000000-000000007fffffff",
        ],
    );
}

#[test]
fn an_affinity_around_others_gets_what_they_leave() {
    check(
        &[(MIB, 2 * GIB)],
        &[
            near(1, 256 * MIB, 512 * MIB),
            near(2, GIB, GIB + 4096),
            near(0, 0, 2 * GIB),
        ],
        &[
            "nodes: affinity 2 node 0 [mem 0x0000000000000000-0x000000007fffffff]: starts below the one before it; sorted",
            "nodes: affinity 2 says 0000000010000000-000000001fffffff is near node 0, an earlier one node 1; taken as node 1",
            "nodes: affinity 2 says 0000000040000000-0000000040000fff is near node 0, an earlier one node 2; taken as node 2",
            "0 0000000000100000-000000000fffffff",
            "1 0000000010000000-000000001fffffff",
            "0 0000000020000000-000000003fffffff",
            "2 0000000040000000-0000000040000fff",
            "0 0000000040001000-000000007fffffff",
        ],
    );
}

#[test]
fn ram_that_no_affinity_claims_goes_to_a_neighbour() {
    check(
        &TWO_RANGES,
        &[near(1, GIB, GIB + GIB / 2), near(0, 5 * GIB, 6 * GIB)],
        &[
            "nodes: RAM at 0000000000100000-000000003fffffff is near no node by the firmware; taken as node 1",
            "nodes: RAM at 0000000060000000-000000007fffffff is near no node by the firmware; taken as node 1",
            "nodes: RAM at 0000000100000000-000000013fffffff is near no node by the firmware; taken as node 1",
            "1 0000000000100000-000000007fffffff",
            "1 0000000100000000-000000013fffffff",
            "0 0000000140000000-000000017fffffff",
        ],
    );
}

#[test]
fn affinities_that_say_nothing_are_ignored() {
    check(
        &[(MIB, 2 * GIB)],
        &[
            near(64, 0, GIB),
            near(u32::MAX, 0, GIB),
            near(1, 8 * GIB, 16 * GIB),
            near(2, 8 * GIB + 1, 8 * GIB + 2),
            near(0, 1, 2 * GIB + 7),
        ],
        &[
            "nodes: affinity 0 node 64 [mem 0x0000000000000000-0x000000003fffffff]: the highest node is 63; ignored",
            "nodes: affinity 1 node 4294967295 [mem 0x0000000000000000-0x000000003fffffff]: the highest node is 63; ignored",
            "nodes: affinity 2 node 1 [mem 0x0000000200000000-0x00000003ffffffff]: no RAM there; ignored",
            "nodes: affinity 3 node 2 [mem 0x0000000200000001-0x0000000200000001]: holds no whole page; ignored",
            "nodes: affinity 4 node 0 [mem 0x0000000000000001-0x0000000080000006]: starts below the one before it; sorted",
            "nodes: affinity 4 node 0 [mem 0x0000000000000001-0x0000000080000006]: not whole pages; \
             0000000000001000-000000007fffffff kept",
            "0 0000000000100000-000000007fffffff",
        ],
    );
}

#[test]
fn too_many_affinities_are_refused() {
    let many = [near(0, 0, GIB); MAX_AFFINITIES + 1];
    let error = Nodes::new(&map_of(&TWO_RANGES), &many, |_| ()).expect_err("too many");
    assert_eq!(
        error.to_string(),
        "nodes: 129 affinities, which claim more than 128 ranges; go on with none: all is node 0"
    );
}

#[test]
fn the_zones_of_a_node_are_cut_to_its_memory() {
    let affinities = [
        near(0, 0, GIB),
        near(1, GIB, 2 * GIB),
        near(1, 4 * GIB, 6 * GIB),
    ];
    let nodes = Nodes::new(&map_of(&TWO_RANGES), &affinities, |_| ()).expect("two nodes");
    let limits = ZoneLimits::x86_64();
    let text: Vec<String> = nodes
        .zones(&limits)
        .filter(|zone| zone.is_populated())
        .map(|zone| {
            let (start, spanned, present) = (zone.start(), zone.spanned(), zone.present());
            format!(
                "{} {} {start:x}+{spanned:x} has {present:x}",
                zone.node(),
                zone.kind()
            )
        })
        .collect();
    assert_eq!(
        text,
        [
            "0 DMA 100+f00 has f00",
            "0 DMA32 1000+3f000 has 3f000",
            "1 DMA32 40000+c0000 has 40000",
            "1 Normal 100000+80000 has 80000",
        ]
    );
}

#[test]
fn each_frame_is_in_one_zone_though_several_span_it() {
    let affinities = [
        near(0, 0, GIB),
        near(1, GIB, GIB + 256 * MIB),
        near(0, GIB + 256 * MIB, 6 * GIB),
    ];
    let nodes = Nodes::new(&map_of(&TWO_RANGES), &affinities, |_| ()).expect("two nodes");
    let limits = ZoneLimits::x86_64().with_movable_from(node(0), Pfn::new(0x14_0000));
    let of = |address: u64| {
        let zone = nodes.zone_of(&limits, PhysAddr::new(address).pfn());
        zone.map_or("none".to_owned(), |(node, kind)| format!("{node} {kind}"))
    };
    assert_eq!(of(0x1000), "none");
    assert_eq!(of(MIB), "0 DMA");
    assert_eq!(of(GIB - 1), "0 DMA32");
    assert_eq!(of(GIB), "1 DMA32");
    assert_eq!(of(GIB + 256 * MIB), "0 DMA32");
    assert_eq!(of(3 * GIB), "none");
    assert_eq!(of(4 * GIB), "0 Normal");
    assert_eq!(of(5 * GIB), "0 Movable");
    // Node 0 spans node 1's memory, but does not have it.
    let zone = nodes.zone(&limits, node(0), ZoneKind::Dma32);
    assert_eq!(
        (zone.spanned(), zone.present()),
        (0xf_f000, 0x8_0000 - 0x1000 - 0x1_0000)
    );
}

#[test]
fn thirty_two_bits_have_high_memory() {
    let map = map_of(&[(MIB, 2 * GIB)]);
    let nodes = Nodes::new(&map, &[], |_| ()).expect("a node");
    let limits = ZoneLimits::i386(PhysAddr::new(0x37ff_dfff));
    let ranges = ZoneRanges {
        nodes: &nodes,
        limits: &limits,
    };
    assert_eq!(
        ranges.to_string(),
        "Zone ranges:\n  DMA      [mem 0x0000000000100000-0x0000000000ffffff]\n  \
         Normal   [mem 0x0000000001000000-0x0000000037ffdfff]\n  \
         HighMem  [mem 0x0000000037ffe000-0x000000007fffffff]\n\
         Movable zone start for each node\nEarly memory node ranges\n  \
         node   0: [mem 0x0000000000100000-0x000000007fffffff]"
    );
    let high = nodes.zone(&limits, NodeId::ZERO, ZoneKind::HighMem);
    assert_eq!((high.start(), high.present()), (0x37ffe, 0x80000 - 0x37ffe));
}

#[test]
fn movable_memory_is_the_end_of_the_highest_zone() {
    let nodes = Nodes::new(&map_of(&TWO_RANGES), &[], |_| ()).expect("a node");
    let of = |first, kind| {
        let limits = ZoneLimits::x86_64().with_movable_from(NodeId::ZERO, Pfn::new(first));
        let zone = nodes.zone(&limits, NodeId::ZERO, kind);
        (zone.start(), zone.spanned())
    };
    // Rounded up to blocks of order 10.
    assert_eq!(of(0x14_0001, ZoneKind::Normal), (0x10_0000, 0x4_0400));
    assert_eq!(of(0x14_0001, ZoneKind::Movable), (0x14_0400, 0x3_fc00));
    // Only the highest zone gives.
    assert_eq!(of(0x2000, ZoneKind::Normal), (0, 0));
    assert_eq!(of(0x2000, ZoneKind::Movable), (0x10_0000, 0x8_0000));
    // From beyond all memory on: none.
    assert_eq!(of(0x20_0000, ZoneKind::Movable), (0, 0));
}

#[test]
fn plugged_in_memory_extends_zones_and_sections() {
    let mut nodes = Nodes::new(&map_of(&[(MIB, 2 * GIB)]), &[], |_| ()).expect("a node");
    let limits = ZoneLimits::x86_64();
    let normal = |nodes: &Nodes| {
        let zone = nodes.zone(&limits, NodeId::ZERO, ZoneKind::Normal);
        (zone.start(), zone.spanned(), zone.present())
    };
    assert_eq!(normal(&nodes), (0, 0, 0));
    assert_eq!(nodes.sections().count(), 16);

    nodes
        .add(node(0), range(4 * GIB, 4 * GIB + 256 * MIB))
        .expect("new memory");
    assert_eq!(normal(&nodes), (0x10_0000, 0x1_0000, 0x1_0000));
    nodes
        .add(node(0), range(5 * GIB, 5 * GIB + 128 * MIB))
        .expect("new memory");
    assert_eq!(normal(&nodes), (0x10_0000, 0x4_8000, 0x1_8000));
    // The hole is filled: all is one block again.
    nodes
        .add(node(0), range(4 * GIB + 256 * MIB, 5 * GIB))
        .expect("new memory");
    assert_eq!(normal(&nodes), (0x10_0000, 0x4_8000, 0x4_8000));
    assert_eq!(nodes.blocks().len(), 2);
    assert!(nodes.is_populated(Section::of(PhysAddr::new(5 * GIB))));
    assert!(!nodes.is_populated(Section::of(PhysAddr::new(3 * GIB))));
    assert_eq!(nodes.sections().count(), 16 + 9);

    nodes
        .add(node(3), range(5 * GIB + 128 * MIB, 6 * GIB))
        .expect("new memory");
    assert_eq!(nodes.nodes().map(NodeId::get).collect::<Vec<_>>(), [0, 3]);
    assert_eq!(nodes.node_of(PhysAddr::new(6 * GIB - 1)), Some(node(3)));
    assert_eq!(nodes.node_of(PhysAddr::new(6 * GIB)), None);
}

#[test]
fn plugged_in_memory_must_be_new_and_whole_sections() {
    let mut nodes = Nodes::new(&map_of(&[(MIB, 2 * GIB)]), &[], |_| ()).expect("a node");
    let before: Vec<_> = nodes.blocks().collect();
    let mut refused = |range| nodes.add(node(0), range).expect_err("refused").to_string();
    assert_eq!(
        refused(range(4 * GIB, 4 * GIB + 4096)),
        "nodes: add 0000000100000000-0000000100000fff: not whole sections of 128 MiB; nothing was changed"
    );
    assert_eq!(
        refused(range(GIB, 3 * GIB)),
        "nodes: add 0000000040000000-00000000bfffffff: there is RAM already at 0000000000100000-000000007fffffff; \
         nothing was changed"
    );
    assert_eq!(nodes.blocks().collect::<Vec<_>>(), before);
}

#[test]
fn more_ranges_than_there_is_room_for_are_refused() {
    let mut nodes = Nodes::new(&map_of(&[(MIB, 2 * GIB)]), &[], |_| ()).expect("a node");
    let section = 128 * MIB;
    let place = |index: u64| {
        range(
            4 * GIB + 2 * index * section,
            4 * GIB + (2 * index + 1) * section,
        )
    };
    let added = (0..)
        .take_while(|index| nodes.add(node(0), place(*index)).is_ok())
        .count();
    assert_eq!(added, 255);
    assert_eq!(
        nodes.add(node(0), place(255)),
        Err(NodeError::TooManyRanges { range: place(255) })
    );
    assert_eq!(
        nodes
            .add(node(0), place(255))
            .expect_err("full")
            .to_string(),
        "nodes: 00000010f0000000-00000010f7ffffff makes more than 256 ranges of RAM; nothing was changed"
    );
}

/// Four nodes, each as far from all others: each turns to the next one first, as Linux's zone lists do.
#[test]
fn nodes_turn_to_the_nearest_and_then_to_the_next() {
    let same = |one: NodeId, other: NodeId| {
        if one == other {
            LOCAL_DISTANCE
        } else {
            REMOTE_DISTANCE
        }
    };
    let order = NodeOrder::new(|node| node.get() < 4, same);
    let of = |order: &NodeOrder, number| -> Vec<u8> {
        order
            .of(node(number))
            .iter()
            .map(|node| node.get())
            .collect()
    };
    assert_eq!(of(&order, 0), [0, 1, 2, 3]);
    assert_eq!(of(&order, 1), [1, 2, 3, 0]);
    assert_eq!(of(&order, 2), [2, 3, 0, 1]);
    assert_eq!(of(&order, 3), [3, 0, 1, 2]);

    // Two boards of two nodes.
    let boards = |one: NodeId, other: NodeId| match (one == other, one.get() / 2 == other.get() / 2)
    {
        (true, _) => LOCAL_DISTANCE,
        (false, true) => 12,
        (false, false) => 40,
    };
    let order = NodeOrder::new(|node| node.get() < 4, boards);
    assert_eq!(of(&order, 1)[..2], [1, 0]);
    assert_eq!(of(&order, 2)[..2], [2, 3]);
    // A node without memory of its own has an order as well.
    let order = NodeOrder::new(|node| node.get() == 2, boards);
    assert_eq!(of(&order, 0), [2]);
}

proptest! {
    /// Whatever the affinities say, every page of RAM is of one node: that of the first one that claims it, if any does.
    #[test]
    fn every_page_of_ram_has_the_node_that_claims_it_first(
        claims in prop::collection::vec((0_u32..5, 0_u64..64, 1_u64..40), 0..20),
    ) {
        let page = |number: u64| 16 * MIB + number * 4096;
        let ram = [(page(3), page(30)), (page(33), page(70))];
        let affinities: Vec<Affinity> = claims
            .iter()
            .map(|(node, start, pages)| near(*node, page(*start), page(start + pages)))
            .collect();
        let nodes = Nodes::new(&map_of(&ram), &affinities, |_| ()).expect("few ranges");
        for number in 0..100 {
            let address = PhysAddr::new(page(number));
            let is_ram = ram.iter().any(|(start, end)| (*start..*end).contains(&address.as_u64()));
            let claim = affinities.iter().find(|claim| claim.range.contains(address));
            prop_assert_eq!(nodes.node_of(address).is_some(), is_ram);
            if let (true, Some(claim)) = (is_ram, claim) {
                prop_assert_eq!(nodes.node_of(address), NodeId::try_new(claim.node));
            }
        }
        let limits = ZoneLimits::x86_64();
        let present: u64 = nodes.zones(&limits).map(|zone| zone.present()).sum();
        prop_assert_eq!(present, 27 + 37);
    }
}
