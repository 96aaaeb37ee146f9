//! Zones over the real allocator: from a firmware map to the last frame and back, and memory that is plugged in.

mod allocator_books;

use allocator_books::Books;
use kspace_frames::zone::text::{Buddyinfo, Meminfo};
use kspace_frames::zone::{
    Fallback, Hooks, NodeId, Nodes, Request, Shortage, Tuning, Urgency, Zone, ZoneFrames, ZoneKind,
    ZoneLimits, ZoneProblem, ZoneSpan, Zones,
};
use kspace_frames::{Block, FirmwareEntry, FrameAllocator, MemoryMap, Order, PinnedCpu};
use kspace_layout::{Pfn, PhysAddr, PhysRange};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const CPUS: usize = 4;

struct Quiet;

impl Hooks for Quiet {
    fn reclaim(&self, _: &Shortage) -> u64 {
        0
    }

    fn zero(&self, _: Pfn, _: u64) {}
}

fn pin(cpu: u16) -> PinnedCpu {
    // SAFETY: each test is one thread, which uses one CPU's value at a time.
    unsafe { PinnedCpu::new(cpu) }
}

/// 128 MiB below 4 GiB with a kernel at 16 MiB, and 64 MiB above.
fn machine() -> (MemoryMap, Nodes) {
    let ram = |start, end| FirmwareEntry {
        start,
        size: end - start,
        kind: 1,
    };
    let entries = [
        ram(0x1000, 0x9_f000),
        ram(MIB, 128 * MIB),
        ram(4 * GIB, 4 * GIB + 64 * MIB),
    ];
    let mut map = MemoryMap::from_firmware(entries, 40, |_| ()).expect("a usable map");
    let mut reserve = |start, size| {
        map.reserve(PhysRange::new(PhysAddr::new(start), size))
            .expect("room")
    };
    reserve(0, MIB);
    reserve(16 * MIB, 5 * MIB + 123);
    let nodes = Nodes::new(&map, &[], |repair| panic!("{repair}")).expect("a node");
    (map, nodes)
}

/// Books for each zone with memory, with room for `more` frames above.
fn books_of(nodes: &Nodes, limits: &ZoneLimits, more: u64) -> Vec<(ZoneSpan, Books)> {
    nodes
        .zones(limits)
        .filter(ZoneSpan::is_populated)
        .map(|span| {
            let frames = usize::try_from(span.spanned() + more).expect("few");
            (span, Books::new(span.start(), frames, CPUS))
        })
        .collect()
}

fn zones_of<'b>(
    map: &MemoryMap,
    nodes: &Nodes,
    books: &'b [(ZoneSpan, Books)],
) -> Vec<Zone<FrameAllocator<'b>>> {
    books
        .iter()
        .map(|(span, books)| {
            let allocator = books.allocator();
            for free in nodes.free_of(*span, map) {
                let frames = usize::try_from(free.size() / 4096).expect("few");
                allocator
                    .add(free.start().pfn(), frames)
                    .expect("new frames");
            }
            assert_eq!(allocator.managed_frames() as u64, nodes.managed(*span, map));
            Zone::new(*span, allocator)
        })
        .collect()
}

/// Everything that `request` gets on all CPUs in turn, until it is refused on each.
fn take_all<'z>(
    zones: &Zones<'z, FrameAllocator<'z>>,
    request: &Request,
    held: &mut Vec<Block<'z>>,
) -> ZoneProblem {
    let mut problem = None;
    for cpu in 0..CPUS as u16 {
        let error = loop {
            match zones.allocate(&pin(cpu), NodeId::ZERO, request, &Quiet) {
                Ok(block) => held.push(block),
                Err(error) => break error,
            }
        };
        problem = Some(error.problem());
    }
    problem.expect("a CPU")
}

#[test]
fn every_frame_is_handed_out_down_to_the_marks_and_comes_back() {
    let (map, nodes) = machine();
    let limits = ZoneLimits::x86_64();
    let books = books_of(&nodes, &limits, 0);
    let all = zones_of(&map, &nodes, &books);
    let zones = Zones::new(&all, limits, |_, _| 10).expect("zones");
    zones.set_reserves(&Tuning::new()).expect("possible");
    let managed = zones.managed_frames();
    // 192 MiB without the first MiB and the kernel's 1281 pages.
    assert_eq!(managed, 191 * 256 - 1281);

    let mut held = Vec::new();
    let usual = Request::order(0);
    assert_eq!(take_all(&zones, &usual, &mut held), ZoneProblem::Exhausted);
    for zone in &all {
        let kept = zone.watermarks().min + zone.protection().from(ZoneKind::Normal);
        let free = ZoneFrames::free_frames_exact(zone.frames());
        // What CPUs keep is counted as taken, so a little more can be left than is kept back.
        assert!(free <= kept, "{} {free} > {kept}", zone.kind());
    }
    // Exactly: what the reserve gives may be less than what one CPU has not told the others.
    let free = || -> usize {
        all.iter()
            .map(|zone| zone.frames().free_frames_exact())
            .sum()
    };
    let left = free();
    let atomic = usual.urgency(Urgency::Atomic);
    assert_eq!(
        take_all(&zones, &atomic, &mut held),
        ZoneProblem::ReserveExhausted
    );
    assert!(free() < left);

    let mut numbers: Vec<u64> = held.iter().map(|block| block.pfn().as_u64()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), held.len());
    assert!(
        numbers
            .iter()
            .all(|number| map.is_ram(PhysRange::new(Pfn::new(*number).start(), 4096)))
    );
    assert!(
        !numbers
            .iter()
            .any(|number| (0x1000..0x1501).contains(number))
    );

    drop(held);
    for zone in &all {
        for cpu in 0..CPUS as u16 {
            zone.frames().drain(&pin(cpu));
        }
    }
    let free: u64 = all
        .iter()
        .map(|zone| ZoneFrames::free_frames_exact(zone.frames()))
        .sum();
    assert_eq!(free, managed);
    let meminfo = Meminfo::of(&zones).to_string();
    assert!(
        meminfo.starts_with("MemTotal:         190460 kB\nMemFree:          190460 kB\n"),
        "{meminfo}"
    );
}

#[test]
fn blocks_come_from_the_zone_and_below_the_limit() {
    let (map, nodes) = machine();
    let limits = ZoneLimits::x86_64();
    let books = books_of(&nodes, &limits, 0);
    let all = zones_of(&map, &nodes, &books);
    let zones = Zones::new(&all, limits, |_, _| 10).expect("zones");
    zones.set_reserves(&Tuning::new()).expect("possible");
    let first = |request: &Request| {
        let block = zones
            .allocate(&pin(0), NodeId::ZERO, request, &Quiet)
            .expect("memory");
        assert_eq!(u32::from(block.order().get()), request.wanted_order());
        block.range()
    };
    let huge = Request::order(9);
    assert!(first(&huge).start().as_u64() >= 4 * GIB);
    let dma32 = first(&huge.up_to(ZoneKind::Dma32));
    assert!(dma32.start().as_u64() >= 16 * MIB && dma32.last().as_u64() < 128 * MIB);
    assert!(first(&huge.up_to(ZoneKind::Dma)).last().as_u64() < 16 * MIB);
    let limit = PhysAddr::new(32 * MIB + 5);
    for order in 0..10 {
        assert!(first(&Request::order(order).below(limit)).last() <= limit);
    }
    // The kernel and the limit leave 11 MiB of DMA32 and 15 of DMA: the last pieces come from there, too.
    let limited = Request::order(4).below(limit).urgency(Urgency::Atomic);
    let mut held = Vec::new();
    let problem = take_all(&zones, &limited, &mut held);
    assert_eq!(problem, ZoneProblem::Fragmented);
    assert!(held.iter().all(|block| block.range().last() <= limit));
    let dma32 = held
        .iter()
        .filter(|block| block.pfn().as_u64() >= 0x1000)
        .count();
    // From 0x1501 (rounded up to 0x1510) to 0x2000.
    assert_eq!(dma32, (0x2000 - 0x1510) / 16);
}

#[test]
fn plugged_in_memory_raises_marks_and_totals() {
    let (map, mut nodes) = machine();
    let limits = ZoneLimits::x86_64();
    let books = books_of(&nodes, &limits, 2 * 32768);
    let all = zones_of(&map, &nodes, &books);
    let zones = Zones::new(&all, limits, |_, _| 10).expect("zones");
    zones.set_reserves(&Tuning::new()).expect("possible");
    let normal = zones.get(NodeId::ZERO, ZoneKind::Normal).expect("memory");
    let before = (normal.watermarks(), zones.managed_frames());

    let new = PhysRange::new(PhysAddr::new(4 * GIB + 128 * MIB), 128 * MIB);
    nodes.add(NodeId::ZERO, new).expect("new memory");
    normal.extend(nodes.zone(zones.limits(), NodeId::ZERO, ZoneKind::Normal));
    normal
        .frames()
        .add(new.start().pfn(), 32768)
        .expect("new frames");
    zones.set_reserves(&Tuning::new()).expect("possible");

    assert_eq!(
        (normal.span().spanned(), normal.span().present()),
        (65536, 16384 + 32768)
    );
    assert_eq!(zones.managed_frames(), before.1 + 32768);
    assert!(normal.watermarks().min > before.0.min);
    let request = Request::order(10).fallback(Fallback::None);
    let held: Vec<_> = (0..20)
        .map(|_| {
            zones
                .allocate(&pin(1), NodeId::ZERO, &request, &Quiet)
                .expect("memory")
        })
        .collect();
    assert!(held.iter().any(|block| new.contains(block.pfn().start())));
}

#[test]
fn several_cpus_at_once_lose_nothing() {
    let (map, nodes) = machine();
    let limits = ZoneLimits::x86_64();
    let books = books_of(&nodes, &limits, 0);
    let all = zones_of(&map, &nodes, &books);
    let zones = Zones::new(&all, limits, |_, _| 10).expect("zones");
    zones.set_reserves(&Tuning::new()).expect("possible");
    std::thread::scope(|scope| {
        for cpu in 0..CPUS as u16 {
            let zones = &zones;
            scope.spawn(move || {
                // SAFETY: each thread has the number of a CPU to itself.
                let pin = unsafe { PinnedCpu::new(cpu) };
                let mut held = Vec::new();
                let mut seed = u64::from(cpu) + 1;
                for _ in 0..20_000 {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let order = (seed >> 60) as u32 % 11;
                    let kind = ZoneKind::ALL[(seed >> 40) as usize % 3];
                    let request = Request::order(order).up_to(kind);
                    match zones.allocate(&pin, NodeId::ZERO, &request, &Quiet) {
                        Ok(block) if seed >> 32 & 1 == 0 => held.push(block),
                        Ok(block) => block.free(&pin).expect("ours"),
                        Err(_) => held.truncate(held.len() / 2),
                    }
                }
                drop(held);
                for zone in zones.as_slice() {
                    zone.frames().drain(&pin);
                }
            });
        }
    });
    assert_eq!(zones.free_frames(), zones.managed_frames());
}

#[test]
fn buddyinfo_accounts_for_every_free_frame() {
    let (map, nodes) = machine();
    let limits = ZoneLimits::x86_64();
    let books = books_of(&nodes, &limits, 0);
    let all = zones_of(&map, &nodes, &books);
    let zones = Zones::new(&all, limits, |_, _| 10).expect("zones");
    let _held: Vec<_> = [0, 1, 3, 9]
        .map(|order| {
            zones
                .allocate(&pin(0), NodeId::ZERO, &Request::order(order), &Quiet)
                .expect("memory")
        })
        .into();
    for line in Buddyinfo(&zones).to_string().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let zone = all
            .iter()
            .find(|zone| zone.kind().name() == words[3])
            .expect("the zone");
        let counts = words[4..]
            .iter()
            .map(|count| count.parse::<u64>().expect("a number"));
        let frames: u64 = counts
            .enumerate()
            .map(|(order, count)| count << order)
            .sum();
        assert_eq!(words.len(), 4 + usize::from(Order::MAX.get()) + 1);
        assert_eq!(frames, ZoneFrames::free_frames_exact(zone.frames()));
    }
}

#[test]
fn a_frame_is_found_in_the_one_zone_that_has_a_number_for_it() {
    let limits = ZoneLimits::x86_64();
    let (map, nodes) = machine();
    let books = books_of(&nodes, &limits, 0);
    let zones = zones_of(&map, &nodes, &books);
    let zones = Zones::new(&zones, limits, |_, _| 10).expect("zones");
    for block in nodes.blocks() {
        let (first, last) = (block.range().start().pfn(), block.range().last().pfn());
        for frame in [first, last] {
            let of = nodes.zone_of(zones.limits(), frame).expect("RAM");
            let zone = zones.sole(NodeId::ZERO, frame).expect("no zones overlap");
            assert_eq!((zone.node(), zone.kind()), of, "{frame:?}");
        }
    }
    let nowhere = Pfn::new(5 * GIB / 4096);
    assert!(zones.sole(NodeId::ZERO, nowhere).is_none());
    let most = Pfn::new((1 << 40) - 1);
    assert!(zones.sole(NodeId::ZERO, most).is_none());

    // With room for what may be plugged in, the books of each zone have numbers for frames of the next: none has its own alone.
    let books = books_of(&nodes, zones.limits(), 16 * MIB / 4096);
    let overlapping = zones_of(&map, &nodes, &books);
    let zones = Zones::new(&overlapping, limits, |_, _| 10).expect("zones");
    for frame in [1, 4096, 4 * GIB / 4096].map(Pfn::new) {
        assert!(zones.sole(NodeId::ZERO, frame).is_none());
        assert_eq!(zones.spanning(frame).count(), 1);
    }
}

/// Marks are about what is free, and what a CPU keeps is not: it may be had below every mark, and leaves as much free.
#[test]
fn what_a_cpu_keeps_is_had_below_the_marks_and_lowers_nothing() {
    let limits = ZoneLimits::x86_64();
    let (map, nodes) = machine();
    let books = books_of(&nodes, &limits, 0);
    let zones = zones_of(&map, &nodes, &books);
    let zones = Zones::new(&zones, limits, |_, _| 10).expect("zones");
    let pin = pin(0);
    let request = Request::order(0).fallback(Fallback::All);
    let block = zones.allocate(&pin, NodeId::ZERO, &request, &Quiet);
    let block = block.expect("much is free");
    let normal = zones.get(NodeId::ZERO, ZoneKind::Normal).expect("memory");
    let kept = normal.frames().cached_frames_on(0);
    assert!(kept > 1);
    // Another CPU takes all that the marks let it have.
    zones.set_reserves(&Tuning::new()).expect("possible");
    let other = self::pin(1);
    let take = || zones.allocate(&other, NodeId::ZERO, &request, &Quiet).ok();
    let others: Vec<_> = std::iter::from_fn(take).collect();
    let free: Vec<u64> = zones
        .as_slice()
        .iter()
        .map(|zone| zone.frames().free_frames_exact() as u64)
        .collect();
    for (zone, free) in zones.as_slice().iter().zip(&free) {
        let protection = zone.protection().from(ZoneKind::Normal);
        assert!(
            *free <= zone.watermarks().min + protection,
            "{}",
            zone.kind()
        );
    }
    let mut had = Vec::new();
    for _ in 0..kept {
        had.push(
            zones
                .allocate(&pin, NodeId::ZERO, &request, &Quiet)
                .expect("kept"),
        );
    }
    let after: Vec<u64> = zones
        .as_slice()
        .iter()
        .map(|zone| zone.frames().free_frames_exact() as u64)
        .collect();
    assert_eq!(after, free);
    let refused = zones.allocate(&pin, NodeId::ZERO, &request, &Quiet);
    let error = refused.expect_err("nothing is kept, and nothing above a mark");
    assert_eq!(error.problem(), ZoneProblem::Exhausted);
    // The other CPU still keeps some: they are what may help.
    drop(others);
    zones
        .as_slice()
        .iter()
        .for_each(|zone| zone.frames().drain(&other));
    let take = || zones.allocate(&other, NodeId::ZERO, &request, &Quiet).ok();
    let mut others: Vec<_> = std::iter::from_fn(take).collect();
    others.sort_by_key(Block::pfn);
    for block in others.drain(others.len() - 5..) {
        block.free(&other).expect("in use");
    }
    let refused = zones.allocate(&pin, NodeId::ZERO, &request, &Quiet);
    let error = refused.expect_err("another CPU keeps what could be had");
    assert_eq!(normal.frames().cached_frames_on(1), 5);
    assert_eq!(error.state().expect("a zone").cached, 5);
    assert!(
        error
            .to_string()
            .ends_with(", CPUs keep 5 more for themselves"),
        "{error}"
    );
    drop((block, had, others));
}
