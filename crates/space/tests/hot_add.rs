//! Memory that is plugged in: direct map, vmemmap and zones have it all, or none of it.

#![cfg(target_os = "linux")]

mod machine;
#[path = "../../frames/tests/reserved_area/mod.rs"]
mod reserved_area;

use std::sync::atomic::Ordering::Relaxed;

use kspace::hot_add::{Added, Arranged, Known, hot_add};
use kspace::verify::{Claims, verify};
use kspace::vmemmap;
use kspace_frames::zone::{
    Affinity, Hooks, NodeId, Nodes, Request, Shortage, Tuning, Vmemmap, VmemmapPlan, Zone,
    ZoneKind, ZoneLimits, Zones,
};
use kspace_frames::{FrameAllocator, MapError, MemoryMap, Owner, PinnedCpu};
use kspace_layout::{AreaKind, PageSize, PagingMode, Pfn, PhysAddr, PhysRange, VirtRange};
use kspace_paging::{Access, Editor, Limits, LongMode, Protection};
use kspace_sim::{SimFrames, SimMemory};
use machine::pages::SimPages;
use machine::{GIB, MIB, Machine};
use reserved_area::ReservedArea;

const LIMITS: ZoneLimits = ZoneLimits::x86_64();
const SECTION: u64 = 128 * MIB;

fn pin() -> PinnedCpu {
    // SAFETY: one thread.
    unsafe { PinnedCpu::new(0) }
}

fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), size)
}

fn slot(node: u32, start: u64, end: u64) -> Affinity {
    Affinity {
        node,
        range: range(start, end - start),
        hot_pluggable: true,
    }
}

struct Idle;

impl Hooks for Idle {
    fn reclaim(&self, _: &Shortage) -> u64 {
        0
    }

    fn zero(&self, _: Pfn, _: u64) {}
}

/// A kernel at the end of its boot, with the host's memory for the books' virtual addresses.
struct Booted {
    machine: Machine,
    boot: Nodes,
    books: Vmemmap,
    area: ReservedArea,
    root: PhysAddr,
}

impl Booted {
    fn new(mode: PagingMode, map: MemoryMap, slots: &[Affinity]) -> Self {
        let machine = Machine::with_map(mode, Limits::WIDEST, map);
        let root = {
            let frames = machine.frames();
            let editor = machine.editor(&frames);
            machine.build(&editor);
            editor.root()
        };
        let boot = Nodes::new(&machine.map, slots, |_| ()).expect("few nodes");
        let books = vmemmap::arrange(&machine.layout, &boot, &LIMITS, slots, 1).expect("room");
        let area = ReservedArea::new(books.bytes());
        let booted = Self {
            machine,
            boot,
            books,
            area,
            root,
        };
        let pages = SimPages::new(&booted.machine.memory, booted.tables(768 * MIB + 8 * MIB));
        // SAFETY: nobody else edits these tables, and no CPU uses them.
        let editor = unsafe { booted.editor_with::<SimPages<'_>>(&pages) };
        vmemmap::build(&editor, &booted.machine.layout, &booted.plan()).expect("memory enough");
        booted.plan().runs().for_each(|run| booted.area.back(run));
        booted
    }

    fn tables(&self, start: u64) -> SimFrames<'_> {
        SimFrames::new(&self.machine.memory, range(start, 8 * MIB))
    }

    unsafe fn editor_with<'a, S: kspace_paging::FrameSource>(
        &'a self,
        frames: &'a S,
    ) -> Editor<'a, LongMode, SimMemory, S> {
        let Machine {
            mode,
            limits,
            memory,
            ..
        } = &self.machine;
        // SAFETY: by the caller.
        unsafe { Editor::new(*mode, self.root, *limits, memory, frames) }.expect("an editor")
    }

    fn plan(&self) -> VmemmapPlan<'_> {
        VmemmapPlan::new(&self.books, &self.boot, PageSize::Size2M)
    }

    fn known(&self) -> Known {
        Known {
            layout: self.machine.layout,
            map: self.machine.map,
            nodes: self.boot,
        }
    }

    fn zones(&self) -> Vec<Zone<FrameAllocator<'_>>> {
        let zone = |span: kspace_frames::zone::PossibleZone| {
            let books = self.area.metadata(&self.books, span.node(), span.kind());
            let frames = FrameAllocator::new(span.start(), span.frames(), books).expect("a span");
            let now = self.boot.zone(&LIMITS, span.node(), span.kind());
            for free in self.boot.free_of(now, &self.machine.map) {
                frames
                    .add(free.start().pfn(), (free.size() / 4096) as usize)
                    .expect("new memory");
            }
            Zone::new(now, frames)
        };
        self.books.zones().map(zone).collect()
    }

    fn verify(&self, known: &Known) {
        let claims = Claims {
            layout: &known.layout,
            map: &known.map,
            vmemmap: Some(self.plan().with_plugged(&known.nodes)),
            ..self.machine.claims()
        };
        verify(&self.machine.walker(self.root), &claims)
            .unwrap_or_else(|difference| panic!("{difference}"));
    }

    /// What the firmware and the host's MMU do: memory appears there, and the books' part of it can be touched through vmemmap.
    fn plug(&self, known: &Known, at: PhysRange) {
        let end = at.last().pfn().as_u64() + 1;
        let books = 80 + at.size() / 4096 / 512;
        for frame in (end - books..end).map(Pfn::new) {
            self.machine.memory.add(frame);
            // Nobody has cleared it.
            let words = self.machine.memory.words(frame);
            words.iter().for_each(|word| word.store(0xdead, Relaxed));
        }
        let mut nodes = known.nodes;
        if nodes.add(NodeId::ZERO, at).is_ok() {
            let before = self.plan().with_plugged(&known.nodes);
            let runs = self.plan().with_plugged(&nodes).runs_since(&before);
            runs.for_each(|run| self.area.back(run));
        }
    }

    /// Every table and what it holds.
    fn tables_of(&self, frames: &SimFrames<'_>) -> Vec<Vec<u64>> {
        let root = [self.root.pfn()];
        let used = frames.used();
        let all = root.iter().chain(&used);
        all.map(|frame| self.machine.memory.snapshot(*frame))
            .collect()
    }

    fn mapped(&self) -> Vec<String> {
        let upper = self.machine.mode.upper_half_start().expect("64 bits");
        let half = VirtRange::try_from_bounds(upper, kspace_layout::VirtAddr::LAST);
        let walker = self.machine.walker(self.root);
        let runs = walker.runs(half.expect("a half"));
        runs.map(|run| run.expect("readable").to_string()).collect()
    }
}

fn zones_of<'z>(zones: &'z [Zone<FrameAllocator<'z>>]) -> Zones<'z, FrameAllocator<'z>> {
    let zones = Zones::new(zones, LIMITS, |_, _| 10).expect("zones");
    zones.set_reserves(&Tuning::new()).expect("possible");
    zones
}

/// Adds, with no CPU to flush.
fn add(
    booted: &Booted,
    frames: &SimFrames<'_>,
    known: &mut Known,
    zones: &Zones<'_, FrameAllocator<'_>>,
    at: PhysRange,
) -> Result<Added, String> {
    booted.plug(known, at);
    // SAFETY: nobody else edits these tables, and no CPU uses them.
    let editor = unsafe { booted.editor_with::<SimFrames<'_>>(frames) };
    let arranged = Arranged {
        limits: &LIMITS,
        vmemmap: &booted.books,
        zones,
    };
    let mut next = *known;
    let flush = hot_add(&editor, known, &mut next, &arranged, NodeId::ZERO, at);
    let flush = flush.map_err(|error| error.to_string())?;
    // SAFETY: there is no CPU.
    Ok(unsafe { flush.discharged(&booted.machine.memory, frames) })
}

/// RAM up to 1 GiB and from 4 to 6 GiB; up to 16 GiB may be plugged in.
fn usual(mode: PagingMode) -> Booted {
    Booted::new(mode, machine::memory_map(), &[slot(0, 6 * GIB, 16 * GIB)])
}

#[test]
fn a_section_is_mapped_has_books_and_can_be_allocated() {
    for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
        let booted = usual(mode);
        let frames = booted.tables(800 * MIB);
        let (list, mut known) = (booted.zones(), booted.known());
        let zones = zones_of(&list);
        let new = range(7 * GIB, SECTION);
        let before = zones.managed_frames();
        let added = add(&booted, &frames, &mut known, &zones, new).expect("room");
        booted.verify(&known);
        // Records take 32 pages, bits and counters one or two each.
        assert!((33..=36).contains(&added.books), "{added:?}");
        assert_eq!(added.managed + added.books, SECTION / 4096);
        let area = known.layout.area(AreaKind::Vmemmap);
        let area = area.expect("it has one").range();
        assert!(booted.machine.is_zero(booted.root, area), "{mode}");
        assert_eq!(zones.managed_frames(), before + added.managed);
        let direct = known
            .layout
            .phys_to_virt(new.last())
            .expect("it reaches so far");
        let walker = booted.machine.walker(booted.root);
        assert_eq!(walker.translate(direct), Some(new.last()), "{mode}");
        // Not covered yet: the layout before.
        assert!(booted.machine.layout.phys_to_virt(new.start()).is_err());
        let zone = zones.get(NodeId::ZERO, ZoneKind::Normal).expect("a zone");
        assert_eq!(zone.span().end(), (7 * GIB + SECTION) / 4096);
        assert_eq!(zone.span().present(), (2 * GIB + SECTION) / 4096);
        // All of it can be had at once, and not one frame of its books.
        let first = new.start().pfn();
        let all = zone
            .frames()
            .allocate_at(first, added.managed as usize, Owner::USER);
        assert_eq!(all.expect("all free").range().start(), new.start());
        assert!(
            zone.frames()
                .allocate_at(first, added.managed as usize + 1, Owner::USER)
                .is_err()
        );
        let books = Pfn::new(first.as_u64() + added.managed);
        assert!(zone.frames().allocate_at(books, 1, Owner::USER).is_err());
    }
}

#[test]
fn a_failure_anywhere_changes_nothing() {
    // At 40 GiB no table of the direct map or of the records is there yet.
    let booted = Booted::new(
        PagingMode::FourLevel,
        machine::memory_map(),
        &[slot(0, 6 * GIB, 2048 * GIB)],
    );
    let frames = booted.tables(800 * MIB);
    let (list, mut known) = (booted.zones(), booted.known());
    let zones = zones_of(&list);
    let new = range(1024 * GIB - SECTION, 2 * SECTION);
    let (mapped, tables) = (booted.mapped(), booted.tables_of(&frames));
    let zone_spans = || list.iter().map(|zone| zone.span()).collect::<Vec<_>>();
    let (spans, managed) = (zone_spans(), zones.managed_frames());
    // Of the direct map two tables of large pages, each under one of its own; of vmemmap, for the records two of pages under two,
    // for counters and bits one of pages each under one; and what is above both.
    let needed = 12;
    let mut refused = 0;
    loop {
        frames.set_budget(Some(refused));
        let Err(error) = add(&booted, &frames, &mut known, &zones, new) else {
            break;
        };
        let told = format!(
            "hot add: up to {needed} page tables are needed, and there are frames for {refused}; free some memory; \
             nothing was changed"
        );
        assert_eq!(error, told);
        assert_eq!(booted.mapped(), mapped);
        assert_eq!(booted.tables_of(&frames), tables);
        assert_eq!(frames.in_use(), 0);
        assert_eq!(
            (zone_spans(), zones.managed_frames()),
            (spans.clone(), managed)
        );
        assert_eq!(known.nodes.end(), booted.boot.end());
        booted.verify(&known);
        refused += 1;
    }
    assert_eq!(refused, needed);
    // What the boot's tables have already went back.
    assert!(frames.in_use() < needed);
    frames.set_budget(None);
    booted.verify(&known);
    assert_ne!(booted.mapped(), mapped);
}

/// Section by section in any order, a gibibyte becomes one page of the direct map, as if it had been there at boot.
#[test]
fn what_is_filled_bit_by_bit_ends_as_if_it_had_always_been_there() {
    for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
        let booted = usual(mode);
        let frames = booted.tables(800 * MIB);
        let (list, mut known) = (booted.zones(), booted.known());
        let zones = zones_of(&list);
        let page_of = |known: &Known| {
            let at = known
                .layout
                .phys_to_virt(PhysAddr::new(8 * GIB))
                .expect("mapped");
            let area = VirtRange::new(at, 4096);
            let run = booted.machine.walker(booted.root).runs(area).next();
            run.expect("mapped").expect("readable").page
        };
        let mut managed = zones.managed_frames();
        for section in [11, 8, 9, 14, 12, 15, 10, 13, 1, 0] {
            let new = range(7 * GIB + section * SECTION, SECTION);
            let added = add(&booted, &frames, &mut known, &zones, new).expect("room");
            managed += added.managed;
            assert_eq!(zones.managed_frames(), managed);
            booted.verify(&known);
            if section == 10 {
                assert_eq!(page_of(&known), PageSize::Size2M);
            }
        }
        assert_eq!(page_of(&known), PageSize::Size1G);
        // One go over a border, with a whole gibibyte in the middle.
        let large = range(9 * GIB + 5 * SECTION, 2 * GIB);
        add(&booted, &frames, &mut known, &zones, large).expect("room");
        booted.verify(&known);
        zones.set_reserves(&Tuning::new()).expect("possible");
    }
}

/// What QEMU does with `maxmem`: all RAM is below 4 GiB, and the first zone above comes with the first plug.
#[test]
fn a_zone_that_had_no_memory_comes_to_life() {
    let ram = reserved_area::map_of(&[(0, 0x9_f000), (MIB, GIB)]);
    let booted = Booted::new(PagingMode::FourLevel, ram, &[slot(0, 4 * GIB, 8 * GIB)]);
    let frames = booted.tables(800 * MIB);
    let (list, mut known) = (booted.zones(), booted.known());
    let zones = zones_of(&list);
    let kind_of_next = || {
        let request = Request::order(0);
        let block = zones
            .allocate(&pin(), NodeId::ZERO, &request, &Idle)
            .expect("memory");
        let zone = zones.spanning(block.pfn()).next().expect("a zone");
        zone.kind()
    };
    assert_eq!(kind_of_next(), ZoneKind::Dma32);
    add(
        &booted,
        &frames,
        &mut known,
        &zones,
        range(4 * GIB, SECTION),
    )
    .expect("room");
    booted.verify(&known);
    zones.set_reserves(&Tuning::new()).expect("possible");
    assert_eq!(kind_of_next(), ZoneKind::Normal);
}

#[test]
fn what_cannot_be_is_refused_in_clear_words() {
    let booted = usual(PagingMode::FourLevel);
    let frames = booted.tables(800 * MIB);
    let (list, mut known) = (booted.zones(), booted.known());
    let zones = zones_of(&list);
    let mut refused = |at: PhysRange| {
        let error = add(&booted, &frames, &mut known, &zones, at).expect_err("refused");
        assert!(error.ends_with("nothing was changed"), "{error}");
        error
    };
    assert_eq!(
        refused(range(7 * GIB + 64 * MIB, SECTION)),
        "hot add: nodes: add 00000001c4000000-00000001cbffffff: not whole sections of 128 MiB; nothing was changed"
    );
    assert!(refused(range(5 * GIB, SECTION)).contains("there is RAM already at"));
    assert_eq!(
        refused(range(15 * GIB, 2 * GIB)),
        "hot add: 00000003c0000000-000000043fffffff is outside what node 0 zone Normal was made for, \
         0000000100000000-00000003ffffffff; plug in there, or have the firmware name it as hot-pluggable (SRAT) and boot \
         again; nothing was changed"
    );
    let beyond = refused(range(64 << 40, SECTION));
    assert!(beyond.contains("direct map"), "{beyond}");
    assert_eq!(frames.in_use(), 0);
}

#[test]
fn what_is_in_the_way_is_named() {
    let booted = usual(PagingMode::FourLevel);
    let frames = booted.tables(800 * MIB);
    let (list, mut known) = (booted.zones(), booted.known());
    let zones = zones_of(&list);
    // SAFETY: nobody else edits these tables, and no CPU uses them.
    let editor = unsafe { booted.editor_with::<SimFrames<'_>>(&frames) };
    let base = booted.machine.start_of(AreaKind::DirectMap);
    let at = VirtRange::new(base.checked_add(7 * GIB + 4096).expect("in the area"), 4096);
    let protection = Protection::kernel(Access::ReadOnly);
    editor
        .map(at, PhysAddr::new(64 * MIB), protection, PageSize::Size4K)
        .expect("free");
    let mapped = booted.mapped();
    let error = add(
        &booted,
        &frames,
        &mut known,
        &zones,
        range(7 * GIB, SECTION),
    );
    let error = error.expect_err("refused");
    assert!(
        error.contains("is mapped already where its direct map belongs"),
        "{error}"
    );
    assert_eq!(booted.mapped(), mapped);
    let mut map = known.map;
    assert!(matches!(
        map.plug(range(1008 * MIB, 4096)),
        Err(MapError::Plugged { known: Some(_), .. })
    ));
}
