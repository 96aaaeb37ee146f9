//! The allocator looks at nothing that the plan does not back: all its doings on books of which the rest cannot be touched.

#![cfg(all(target_os = "linux", not(feature = "loom")))]

mod reserved_area;

use kspace_frames::zone::{
    Affinity, NodeId, Nodes, PossibleZone, Vmemmap, VmemmapPlan, ZoneKind, ZoneLimits,
};
use kspace_frames::{
    Block, Constraint, FrameAllocator, FreeProblem, History, MemoryMap, Order, Owner, PinnedCpu,
};
use kspace_layout::{PageSize, Pfn, PhysAddr, PhysRange};
use proptest::prelude::*;
use reserved_area::{GIB, MIB, ReservedArea, map_of};

const LIMITS: ZoneLimits = ZoneLimits::x86_64();
const REACH: PhysRange = PhysRange::new(PhysAddr::ZERO, 64 * GIB);
const SECTION: u64 = 128 * MIB;

fn pin() -> PinnedCpu {
    // SAFETY: one thread.
    unsafe { PinnedCpu::new(0) }
}

fn node(number: u32) -> NodeId {
    NodeId::try_new(number).expect("a node")
}

struct Machine {
    map: MemoryMap,
    nodes: Nodes,
    vmemmap: Vmemmap,
    area: ReservedArea,
}

impl Machine {
    /// RAM of two nodes, which interleave as the affinities say, with the vmemmap that it needs.
    fn new(ram: &[(u64, u64)], affinities: &[Affinity]) -> Self {
        let map = map_of(ram);
        let nodes = Nodes::new(&map, affinities, |_| ()).expect("few nodes");
        let zones = nodes.possible_zones(&LIMITS, affinities, REACH.last().pfn());
        let vmemmap = Vmemmap::new(zones, 1, REACH, GIB).expect("room");
        let area = ReservedArea::new(vmemmap.bytes());
        VmemmapPlan::new(&vmemmap, &nodes, PageSize::Size2M)
            .runs()
            .for_each(|run| area.back(run));
        Self {
            map,
            nodes,
            vmemmap,
            area,
        }
    }

    fn allocator(&self, zone: PossibleZone) -> FrameAllocator<'_> {
        let books = self.area.metadata(&self.vmemmap, zone.node(), zone.kind());
        FrameAllocator::new(zone.start(), zone.frames(), books).expect("books of that size")
    }
}

/// Takes all there is, largest first, and gives it back in another order.
fn exhaust(zone: &FrameAllocator<'_>) {
    let free = zone.free_frames_exact();
    let pin = pin();
    let mut held: Vec<Block<'_>> = Vec::new();
    for order in (0..=10).rev().map(Order::new) {
        // A few of each, so that every kind of search is made on every kind of tree.
        let take = if order == Order::FRAME {
            usize::MAX
        } else {
            40
        };
        held.extend((0..take).map_while(|_| zone.allocate(&pin, order, Owner::KERNEL).ok()));
    }
    assert_eq!(zone.free_frames_exact(), 0);
    let taken: usize = held.iter().map(|block| block.order().frames()).sum();
    assert_eq!(taken, free, "frames were lost or made");
    for (index, block) in held.into_iter().enumerate() {
        if index % 3 == 0 {
            drop(block);
        } else {
            block.free(&pin).expect("ours");
        }
    }
    zone.drain(&pin);
    assert_eq!(zone.free_frames_exact(), free);
}

/// Names every kind of frame by number: those of the span with memory, without, and outside.
fn poke(zone: &FrameAllocator<'_>, span: PossibleZone, nodes: &Nodes) {
    let owner = |frame| nodes.node_of(Pfn::new(frame).start());
    let is_ram = |frame| owner(frame) == Some(span.node());
    let (first, end) = (span.start().as_u64(), span.end());
    let around = (first.saturating_sub(3)..end + 3).step_by(61);
    for frame in around.chain([first, end - 1, end]) {
        let pfn = Pfn::new(frame);
        let history = zone.history(pfn);
        if owner(frame).is_none() {
            assert!(!matches!(history, Some(History::InUse { .. })), "{frame:x}");
        }
        for order in [Order::FRAME, Order::new(3), Order::HUGE, Order::MAX] {
            // SAFETY: nothing is in use, and that is what has to be found out.
            let error = unsafe { zone.free(&pin(), pfn, order) }.expect_err("nothing is in use");
            if owner(frame).is_none() && span.start() <= pfn && frame < end {
                let reserved = matches!(
                    error.problem(),
                    FreeProblem::Reserved | FreeProblem::Misaligned
                );
                assert!(reserved, "{error}");
            }
            // SAFETY: as above.
            assert!(unsafe { Block::from_raw(zone, pfn, order) }.is_err());
        }
        // SAFETY: as above.
        assert!(unsafe { zone.free_mapped(&pin(), pfn) }.is_err());
        let range = zone.allocate_at(pfn, 700, Owner::KERNEL);
        if let Ok(range) = range {
            let frames = range.range();
            assert!((0..700).all(|at| is_ram(frame + at)), "{frames} is no RAM");
        }
    }
    for (frames, align) in [(1, 1), (600, 1), (5000, 512), (40_000, 1), (1 << 20, 1)] {
        let within = Constraint {
            align,
            ..Constraint::NONE
        };
        let _ = zone.allocate_contiguous(&pin(), frames, within, Owner::KERNEL);
    }
    zone.drain(&pin());
    let _ = (zone.free_huges(), zone.free_frames());
}

fn near(number: u32, start: u64, end: u64) -> Affinity {
    Affinity {
        node: number,
        range: PhysRange::new(PhysAddr::new(start), end - start),
        hot_pluggable: true,
    }
}

/// A zone of which all RAM but every seventh page is added.
fn fill(machine: &Machine, zone: &FrameAllocator<'_>, span: PossibleZone) -> usize {
    let mut added = 0;
    for range in machine.nodes.free_of(
        machine.nodes.zone(&LIMITS, span.node(), span.kind()),
        &machine.map,
    ) {
        let (first, frames) = (range.start().pfn(), (range.size() / 4096) as usize);
        // What boot has used at the end of each.
        let frames = frames - frames / 7;
        if frames > 0 {
            zone.add(first, frames).expect("new memory");
            added += frames;
        }
    }
    added
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn nothing_is_touched_that_is_not_backed(
        ram in prop::collection::vec((0_u64..0x60_000, 1_u64..0x8000), 1..6),
        second in prop::collection::vec((0_u64..0x60_000, 1_u64..0x8000), 0..3),
        plugged in prop::collection::btree_set(0_u64..14, 0..3),
    ) {
        let ram: Vec<(u64, u64)> = ram.iter().map(|(start, len)| (start << 12, (start + len) << 12)).collect();
        let mut affinities: Vec<Affinity> = second.iter().map(|(start, len)| near(1, start << 12, (start + len) << 12)).collect();
        affinities.push(near(0, 0, 14 * SECTION));
        let machine = Machine::new(&ram, &affinities);
        let zones: Vec<_> = machine.vmemmap.zones().map(|zone| (zone, machine.allocator(zone))).collect();
        for (span, zone) in &zones {
            let added = fill(&machine, zone, *span);
            prop_assert_eq!(zone.free_frames_exact(), added);
            poke(zone, *span, &machine.nodes);
            exhaust(zone);
        }
        let mut now = machine.nodes;
        for section in plugged {
            let range = PhysRange::new(PhysAddr::new(section * SECTION), SECTION);
            let before = now;
            if now.add(node(0), range).is_err() {
                continue;
            }
            let at_boot = VmemmapPlan::new(&machine.vmemmap, &machine.nodes, PageSize::Size2M);
            let runs = at_boot.with_plugged(&now).runs_since(&at_boot.with_plugged(&before));
            runs.for_each(|run| machine.area.back(run));
            for (owner, kind, part) in now.zones_in(&LIMITS, range) {
                let (span, zone) = zones.iter().find(|(span, _)| (span.node(), span.kind()) == (owner, kind)).expect("possible");
                zone.add(part.start().pfn(), (part.size() / 4096) as usize).expect("new memory");
                poke(zone, *span, &now);
                exhaust(zone);
            }
        }
    }
}

/// Two nodes that share a pair of huge frames, a tree and a page of books: neither takes what is the other's.
#[test]
fn nodes_that_meet_inside_a_huge_frame_keep_apart() {
    let border = 100 * MIB + 300 * 4096;
    let affinities = [
        near(0, 0, border),
        near(1, border, 200 * MIB),
        near(0, 200 * MIB, 256 * MIB),
    ];
    let machine = Machine::new(&[(MIB, 256 * MIB)], &affinities);
    let zones: Vec<_> = machine
        .vmemmap
        .zones()
        .map(|zone| (zone, machine.allocator(zone)))
        .collect();
    let names: Vec<_> = zones
        .iter()
        .map(|(zone, _)| (zone.node().get(), zone.kind()))
        .collect();
    assert_eq!(
        names,
        [
            (0, ZoneKind::Dma),
            (0, ZoneKind::Dma32),
            (1, ZoneKind::Dma32)
        ]
    );
    for (span, zone) in &zones {
        for (owner, kind, part) in machine.nodes.zones_in(&LIMITS, REACH) {
            if (owner, kind) == (span.node(), span.kind()) {
                zone.add(part.start().pfn(), (part.size() / 4096) as usize)
                    .expect("new memory");
            }
        }
    }
    let held: Vec<_> = zones
        .iter()
        .map(|(span, zone)| {
            let blocks: Vec<_> =
                std::iter::from_fn(|| zone.allocate(&pin(), Order::FRAME, Owner::USER).ok())
                    .collect();
            for block in &blocks {
                let its = machine.nodes.zone_of(&LIMITS, block.pfn());
                assert_eq!(its, Some((span.node(), span.kind())), "{block:?}");
            }
            blocks
        })
        .collect();
    let taken: usize = held.iter().map(Vec::len).sum();
    assert_eq!(taken as u64, 255 * MIB / 4096);
}
