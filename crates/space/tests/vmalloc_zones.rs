//! Areas over the machine's zones and their real allocator: what the books on frames say meanwhile, and afterwards.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use kspace::areas::{Addresses, VmallocInfo};
use kspace::platform::{Complaint, Cpu, CpuId, CpuMask, Interrupts, LocalFlush, Tlb, TlbFeatures};
use kspace::shootdown::{Shootdown, Unprobed};
use kspace::vmalloc::{
    AreaError, AreaRequest, AreaZones, Arenas, Kernel, Kind, Pinned, Resized, Vmalloc,
};
use kspace_frames::zone::{
    Affinity, Hooks, NodeId, Nodes, Shortage, Zone, ZoneLimits, ZoneSpan, Zones,
};
use kspace_frames::{
    FirmwareEntry, Flags, FrameAllocator, History, MemoryMap, Metadata, MetadataSize, Order, Owner,
    PinnedCpu,
};
use kspace_layout::{PagingMode, Pfn, PhysAddr, PhysRange, VirtAddr, VirtRange};
use kspace_paging::{Editor, FrameSource, Limits, LongMode, Walker};
use kspace_sim::SimMemory;

const MIB: u64 = 1 << 20;
const K4: u64 = 4096;
const RAM: PhysRange = PhysRange::new(PhysAddr::new(MIB), 63 * MIB);
const AREA: VirtRange = VirtRange::new(VirtAddr::new(0xffff_c900_0000_0000), 1 << 40);

/// One CPU that is never interrupted.
struct OneCpu;

/// Proof of that.
struct Quiet(PinnedCpu);

impl Pinned for Quiet {
    fn pin(&self) -> &PinnedCpu {
        &self.0
    }

    fn home(&self) -> NodeId {
        NodeId::ZERO
    }
}

// SAFETY: there is one CPU.
unsafe impl Cpu for OneCpu {
    type Pin = ();

    fn id(&self) -> CpuId {
        CpuId::new(0)
    }

    fn pin(&self) {}

    fn is_atomic(&self) -> bool {
        false
    }

    fn report(&self, complaint: &Complaint) {
        panic!("{complaint}");
    }
}

// SAFETY: there are no interrupts.
unsafe impl Interrupts for OneCpu {
    type Off = Quiet;

    fn interrupts_off(&self) -> Quiet {
        // SAFETY: the test is one thread, which uses one such value at a time in the allocator.
        Quiet(unsafe { PinnedCpu::new(0) })
    }
}

// SAFETY: no translation is cached anywhere.
unsafe impl Tlb for OneCpu {
    fn features(&self) -> TlbFeatures {
        TlbFeatures::plain(PagingMode::FourLevel).with_global_pages()
    }

    fn perform(&self, _: LocalFlush) {}

    fn interrupt(&self, _: &CpuMask) {}
}

struct Zeros<'m>(&'m SimMemory);

impl Hooks for Zeros<'_> {
    fn reclaim(&self, _: &Shortage) -> u64 {
        panic!("areas purge, and reclaim nothing else");
    }

    fn zero(&self, first: Pfn, frames: u64) {
        (0..frames).for_each(|frame| self.0.clear(Pfn::new(first.as_u64() + frame)));
    }
}

struct TestKernel<'m>(std::marker::PhantomData<&'m ()>);

impl<'m> Kernel for TestKernel<'m> {
    type Platform = OneCpu;
    type Memory = SimMemory;
    type Format = LongMode;
    type Probe = Unprobed;
    type Frames = AreaZones<'m, OneCpu, Zeros<'m>>;
}

struct World<'a, 'm> {
    nodes: &'a Nodes,
    memory: &'m SimMemory,
    zones: &'m Zones<'m, FrameAllocator<'m>>,
    areas: &'a Vmalloc<'m, TestKernel<'m>, 1>,
}

impl World<'_, '_> {
    fn free_frames(&self) -> usize {
        // SAFETY: as in `interrupts_off`.
        let pin = unsafe { PinnedCpu::new(0) };
        let zones = self.zones.as_slice().iter();
        zones
            .map(|zone| {
                zone.frames().drain(&pin);
                zone.frames().free_frames_exact()
            })
            .sum()
    }

    fn frames_of(&self, range: VirtRange) -> Vec<Pfn> {
        let tables = self.areas.tables();
        let walker = Walker::new(tables.mode(), tables.root(), self.memory);
        walker
            .runs(range)
            .flatten()
            .flat_map(|run| {
                let first = run.phys.pfn().as_u64();
                (0..run.virt.size() / K4).map(move |page| Pfn::new(first + page))
            })
            .collect()
    }

    fn history(&self, frame: Pfn) -> Option<History> {
        self.zones.spanning(frame).next()?.frames().history(frame)
    }
}

fn with_world(test: impl FnOnce(&World<'_, '_>)) {
    with_nodes(&[], test);
}

/// Runs `test` on a machine whose memory is divided so; its CPU is in node 0.
fn with_nodes(affinities: &[Affinity], test: impl FnOnce(&World<'_, '_>)) {
    let memory = SimMemory::arena(RAM);
    let ram = FirmwareEntry {
        start: RAM.start().as_u64(),
        size: RAM.size(),
        kind: 1,
    };
    let map = MemoryMap::from_firmware([ram], 40, |_| ()).expect("a sound map");
    let nodes = Nodes::new(&map, affinities, |repair| panic!("{repair}")).expect("a node");
    let limits = ZoneLimits::x86_64();
    let mut books = Vec::new();
    let mut zones = Vec::new();
    for span in nodes.zones(&limits).filter(ZoneSpan::is_populated) {
        let frames = usize::try_from(span.spanned()).expect("few");
        let size = MetadataSize::new(Pfn::new(span.start()), frames, 1);
        let layout = Layout::from_size_align(size.bytes(), MetadataSize::ALIGN).expect("small");
        // SAFETY: the size is not zero.
        let place = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory");
        books.push((place, layout));
        // SAFETY: zeroed, aligned, of that size, and freed only when the zones are gone.
        let metadata = unsafe { Metadata::from_zeroed(place, size) };
        let allocator = FrameAllocator::new(Pfn::new(span.start()), frames, metadata);
        let allocator = allocator.expect("sound books");
        for free in nodes.free_of(span, &map) {
            let count = usize::try_from(free.size() / K4).expect("few");
            allocator.add(free.start().pfn(), count).expect("RAM");
        }
        zones.push(Zone::new(span, allocator));
    }
    {
        let zones = Zones::new(&zones, limits, |_, _| 10).expect("zones");
        let frames = AreaZones::new(&zones, &nodes, &OneCpu, Zeros(&memory));
        let root = frames.allocate().expect("memory");
        let mode = PagingMode::FourLevel;
        // SAFETY: the memory is simulated, and only the areas edit these tables.
        let editor = unsafe { Editor::new(mode, root, Limits::WIDEST, &memory, &frames) };
        let editor = editor.expect("a root").keep_root_entries(AREA);
        let populated = editor.populate(AREA).expect("memory");
        // SAFETY: no CPU has loaded the root.
        unsafe { populated.discharged(&memory, &frames) };
        let shootdown = Shootdown::new(OneCpu);
        shootdown.join();
        let arenas = Arenas::new();
        // SAFETY: nobody else uses the area, and the one CPU has joined.
        let areas = unsafe { Vmalloc::new(AREA, editor, &shootdown, &arenas, 1000) };
        let areas = areas.expect("memory");
        test(&World {
            nodes: &nodes,
            memory: &memory,
            zones: &zones,
            areas: &areas,
        });
    }
    drop(zones);
    for (place, layout) in books {
        // SAFETY: allocated above with this layout, and the zones are gone.
        unsafe { dealloc(place.as_ptr(), layout) };
    }
}

#[test]
fn frames_are_mapped_in_the_books_as_long_as_they_are_and_come_back() {
    with_world(|world| {
        let before = world.free_frames();
        for round in 0..3 {
            let made: Vec<VirtRange> = (1..120)
                .map(|count| {
                    let kind = if count % 5 == 0 {
                        Kind::Stack
                    } else {
                        Kind::Memory
                    };
                    let request = AreaRequest::new(count * K4).kind(kind).zeroed();
                    world.areas.allocate(&request).expect("memory")
                })
                .collect();
            let mut blocks = Vec::new();
            for (range, count) in made.iter().zip(1..) {
                let owner = if count % 5 == 0 {
                    Owner::STACK
                } else {
                    Owner::VMALLOC
                };
                let frames = world.frames_of(*range);
                assert_eq!(frames.len() as u64, count, "round {round}");
                let mut covered = 0;
                while covered < frames.len() {
                    let Some(History::InUse {
                        order,
                        owner: its,
                        flags,
                        references: 1,
                    }) = world.history(frames[covered])
                    else {
                        panic!("frame {} of {range} is in use", frames[covered]);
                    };
                    assert!(its == owner && flags.contains(Flags::MAPPED));
                    blocks.push(frames[covered]);
                    covered += order.frames();
                }
                assert_eq!(covered, frames.len(), "blocks end with their area");
                for frame in frames {
                    assert!(world.memory.snapshot(frame).iter().all(|word| *word == 0));
                }
            }
            for range in made {
                // SAFETY: nobody uses it.
                unsafe { world.areas.free(range.start()) }.expect("it lives");
            }
            world.areas.purge();
            for block in blocks {
                assert!(matches!(world.history(block), Some(History::Freed { .. })));
            }
            assert_eq!(world.areas.totals().lost_blocks, 0);
            assert_eq!(world.free_frames(), before, "round {round}");
        }
    });
}

#[test]
fn blocks_in_small_areas_come_back_whole() {
    with_world(|world| {
        let before = world.free_frames();
        let mut larger = 0;
        let mut made = Vec::new();
        for pages in (1..=9).cycle().take(90) {
            let area = world.areas.allocate(&AreaRequest::new(64 * K4));
            let start = area.expect("memory").start();
            // What is left is parts of a row: blocks, where they fit, and not single frames as areas of this size are made of.
            // SAFETY: the area is the test's, and nobody uses it.
            let shrunk = unsafe { world.areas.resize(start, &AreaRequest::new(pages * K4)) };
            let Ok(Resized::InPlace(range)) = shrunk else {
                panic!("{shrunk:?}");
            };
            assert_eq!(range.size(), pages * K4);
            let frames = world.frames_of(range);
            larger += frames
                .iter()
                .filter(|frame| {
                    matches!(world.history(**frame), Some(History::InUse { order, .. }) if order > Order::FRAME)
                })
                .count();
            made.push(range);
        }
        assert!(larger > 90, "{larger} blocks");
        for range in made {
            // SAFETY: as above.
            unsafe { world.areas.free(range.start()) }.expect("it lives");
        }
        let purged = world.areas.purge();
        assert_eq!(purged.pages, 450);
        assert_eq!(world.areas.totals().lost_blocks, 0);
        assert_eq!(world.free_frames(), before);
    });
}

#[test]
fn all_memory_can_be_had_and_is_purged_before_it_is_refused() {
    with_world(|world| {
        let before = world.free_frames();
        for _ in 0..2 {
            let mut made = Vec::new();
            while let Ok(range) = world.areas.allocate(&AreaRequest::new(100 * K4)) {
                made.push(range);
            }
            let had = made.len() as u64 * 100;
            assert!(had + 400 > before as u64, "{had} of {before}");
            // Freed frames wait, and the next request finds none but these.
            let last = made.pop().expect("many");
            // SAFETY: nobody uses it.
            unsafe { world.areas.free(last.start()) }.expect("it lives");
            assert_eq!(world.areas.totals().lazy_pages, 100);
            let again = world.areas.allocate(&AreaRequest::new(100 * K4));
            made.push(again.expect("a purge gives them back"));
            for range in made {
                // SAFETY: nobody uses it.
                unsafe { world.areas.free(range.start()) }.expect("it lives");
            }
            world.areas.purge();
            assert_eq!(world.free_frames(), before);
        }
    });
}

/// Two nodes of about 32 MiB.
fn two_nodes() -> [Affinity; 2] {
    let border = PhysAddr::new(32 * MIB);
    let affinity = |node, range| Affinity {
        node,
        range,
        hot_pluggable: false,
    };
    [
        affinity(0, PhysRange::new(RAM.start(), 31 * MIB)),
        affinity(1, PhysRange::new(border, 32 * MIB)),
    ]
}

const SECOND: NodeId = match NodeId::try_new(1) {
    Some(node) => node,
    None => NodeId::ZERO,
};

#[test]
fn frames_come_from_the_node_that_is_named_and_the_list_says_so() {
    with_nodes(&two_nodes(), |world| {
        let node_of = |frame: Pfn| world.nodes.node_of(frame.start());
        for pages in [1, 5, 100, 600] {
            for (node, expected) in [(None, 0), (Some(NodeId::ZERO), 0), (Some(SECOND), 1)] {
                for strict in [false, true] {
                    let mut request = AreaRequest::new(pages * K4);
                    request = node.map_or(request, |node| request.node(node));
                    request = if strict { request.this_node() } else { request };
                    let range = world.areas.allocate(&request).expect("memory");
                    let nodes = world.frames_of(range).into_iter().map(node_of);
                    let expected_node = NodeId::try_new(expected);
                    assert!({ nodes }.all(|node| node == expected_node), "{request:?}");
                    assert_eq!(world.areas.find(range.start()).expect("lives").node, node);
                    let text = VmallocInfo::new(world.areas, Addresses::Real, node_of).to_string();
                    let row = text
                        .lines()
                        .find(|row| row.contains(&format!(" pages={pages} ")));
                    let row = row.expect("it is listed");
                    assert!(
                        row.contains(&format!(" vmalloc N{expected}={pages}")),
                        "{row}"
                    );
                    // SAFETY: nobody uses it.
                    unsafe { world.areas.free(range.start()) }.expect("it lives");
                    world.areas.purge();
                }
            }
        }
    });
}

/// The other node serves who did not say that it must not.
#[test]
fn a_full_node_is_passed_over_unless_it_must_be_that_one() {
    with_nodes(&two_nodes(), |world| {
        let node_of = |frame: Pfn| world.nodes.node_of(frame.start());
        let request = AreaRequest::new(64 * K4).node(SECOND);
        let before = world.free_frames();
        let mut made = Vec::new();
        loop {
            match world.areas.allocate(&request.this_node()) {
                Ok(range) => made.push(range),
                Err(AreaError::NoFrames { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(
            made.len() > 100 && world.free_frames() > 4000,
            "{}",
            made.len()
        );
        let all = made.iter().flat_map(|range| world.frames_of(*range));
        assert!({ all }.all(|frame| node_of(frame) == Some(SECOND)));
        let elsewhere = world
            .areas
            .allocate(&request)
            .expect("the other node has some");
        let nodes = world.frames_of(elsewhere).into_iter().map(node_of);
        assert!({ nodes }.any(|node| node == Some(NodeId::ZERO)));
        made.push(elsewhere);
        for range in made {
            // SAFETY: nobody uses it.
            unsafe { world.areas.free(range.start()) }.expect("it lives");
        }
        world.areas.purge();
        assert_eq!(world.free_frames(), before);
    });
}

/// Blocks are cut in the books on frames, too, wherever an area is.
#[test]
fn a_shrunk_area_gives_parts_of_blocks_back() {
    with_world(|world| {
        // The books on large areas keep a frame once there has been one.
        let first = world
            .areas
            .allocate(&AreaRequest::new(600 * K4))
            .expect("memory");
        // SAFETY: nobody uses it.
        unsafe { world.areas.free(first.start()) }.expect("it lives");
        world.areas.purge();
        let before = world.free_frames();
        for pages in [600_u64, 200, 64] {
            for rest in [1, 3, 63, pages / 2 + 1, pages - 1] {
                let range = world.areas.allocate(&AreaRequest::new(pages * K4));
                let range = range.expect("memory");
                let frames = world.frames_of(range);
                let free = world.free_frames();
                // SAFETY: the area is the test's.
                let now = unsafe {
                    world
                        .areas
                        .reallocate(range.start(), &AreaRequest::new(rest * K4))
                };
                let now = now.expect("it can be cut");
                assert_eq!(now.size(), rest * K4, "{pages} pages to {rest}");
                assert_eq!(world.frames_of(now)[..], frames[..rest as usize]);
                // A large page that is cut takes a table.
                let gained = world.free_frames() - free;
                let gone = (pages - rest) as usize;
                assert!(gained == gone || gained + 1 == gone, "{gained} of {gone}");
                // SAFETY: nobody uses it.
                unsafe { world.areas.free(now.start()) }.expect("it lives");
                world.areas.purge();
                assert_eq!(world.areas.totals().lost_blocks, 0);
                assert_eq!(world.free_frames(), before, "{pages} pages to {rest}");
            }
        }
    });
}
