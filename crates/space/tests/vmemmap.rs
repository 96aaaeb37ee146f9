//! Area vmemmap: backed where the plan says, or not at all; and every difference found.

mod machine;

use kspace::verify::{Claims, Difference, verify};
use kspace::{TableFrames, vmemmap};
use kspace_frames::zone::{Nodes, Vmemmap, VmemmapPlan, ZoneLimits};
use kspace_frames::{EarlyFrames, FirmwareEntry, MemoryMap};
use kspace_layout::{
    AreaKind, PageSize, PagingMode, PhysAddr, PhysRange, VirtAddr, VirtRange, X86_64,
};
use kspace_paging::{Access, Editor, FrameSource, Limits, LongMode, Protection};
use kspace_sim::SimMemory;
use machine::pages::SimPages;
use machine::{GIB, MIB, Machine};

const LIMITS: ZoneLimits = ZoneLimits::x86_64();

type PagesEditor<'a> = Editor<'a, LongMode, SimMemory, SimPages<'a>>;

/// A machine whose kernel has built everything but vmemmap.
struct Booted {
    machine: Machine,
    nodes: Nodes,
    books: Vmemmap,
    root: PhysAddr,
}

impl Booted {
    fn new(mode: PagingMode) -> Self {
        let machine = Machine::new(mode, Limits::WIDEST);
        let root = {
            let frames = machine.frames();
            let editor = machine.editor(&frames);
            machine.build(&editor);
            editor.root()
        };
        let nodes = Nodes::new(&machine.map, &[], |_| ()).expect("one node");
        let books = vmemmap::arrange(&machine.layout, &nodes, &LIMITS, &[], 1).expect("room");
        Self {
            machine,
            nodes,
            books,
            root,
        }
    }

    /// Frames that the tables above do not use.
    fn pages(&self) -> SimPages<'_> {
        let range = PhysRange::new(PhysAddr::new(800 * MIB), 16 * MIB);
        let frames = kspace_sim::SimFrames::new(&self.machine.memory, range);
        SimPages::new(&self.machine.memory, frames)
    }

    fn editor<'a>(&'a self, pages: &'a SimPages<'a>) -> PagesEditor<'a> {
        let Machine {
            mode,
            limits,
            memory,
            ..
        } = &self.machine;
        // SAFETY: nobody else edits these tables, and no CPU uses them.
        unsafe { Editor::new(*mode, self.root, *limits, memory, pages) }.expect("an editor")
    }

    fn plan(&self) -> VmemmapPlan<'_> {
        VmemmapPlan::new(&self.books, &self.nodes, PageSize::Size2M)
    }

    fn verify(&self, vmemmap: Option<VmemmapPlan<'_>>) -> Result<u64, Difference> {
        let claims = Claims {
            vmemmap,
            ..self.machine.claims()
        };
        verify(&self.machine.walker(self.root), &claims).map(|verified| verified.areas)
    }

    /// Everything mapped in the area.
    fn runs(&self) -> Vec<String> {
        let area = self
            .machine
            .layout
            .area(AreaKind::Vmemmap)
            .expect("it has one");
        let walker = self.machine.walker(self.root);
        let runs = walker.runs(area.range());
        runs.map(|run| run.expect("readable").to_string()).collect()
    }
}

fn start(booted: &Booted) -> VirtAddr {
    booted.machine.start_of(AreaKind::Vmemmap)
}

#[test]
fn what_was_built_is_what_the_plan_says() {
    for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
        let booted = Booted::new(mode);
        let pages = booted.pages();
        assert_eq!(booted.verify(None), Ok(4), "nothing is backed yet");
        let missing = booted.verify(Some(booted.plan())).unwrap_err();
        assert!(matches!(missing, Difference::Missing { .. }), "{missing}");
        let built = vmemmap::build(
            &booted.editor(&pages),
            &booted.machine.layout,
            &booted.plan(),
        );
        let built = built.unwrap_or_else(|error| panic!("{mode}: {error}"));
        // 1 GiB but for two MiB: 1 MiB of records; 2 GiB from 4 GiB on: one large page.
        assert_eq!(built.large, 1);
        assert_eq!(built.bytes(), booted.plan().bytes());
        let (frames, large) = pages.in_use();
        assert_eq!(frames as u64, built.small + built.tables);
        assert_eq!(large, 1);
        assert_eq!(booted.verify(Some(booted.plan())), Ok(5));
        let area = booted.machine.layout.area(AreaKind::Vmemmap);
        let area = area.expect("it has one").range();
        assert!(booted.machine.is_zero(booted.root, area), "{mode}");
        // Without the claim it is one too many.
        let unexpected = booted.verify(None).unwrap_err();
        assert!(
            unexpected
                .to_string()
                .starts_with("verify: vmemmap: expected nothing mapped")
        );
    }
}

#[test]
fn running_out_of_memory_anywhere_changes_nothing() {
    let booted = Booted::new(PagingMode::FourLevel);
    let pages = booted.pages();
    let editor = booted.editor(&pages);
    let build = || vmemmap::build(&editor, &booted.machine.layout, &booted.plan());
    let before = booted.machine.memory.snapshot(booted.root.pfn());
    let mut refused = 0;
    let built = loop {
        pages.set_budget(refused);
        match build() {
            Ok(built) => break built,
            Err(error) => {
                assert!(
                    error.to_string().ends_with("nothing was changed"),
                    "{error}"
                );
                assert_eq!(pages.in_use(), (0, 0), "after {refused} allocations");
                assert_eq!(booted.machine.memory.snapshot(booted.root.pfn()), before);
                assert_eq!(booted.runs(), [""; 0]);
            }
        }
        refused += 1;
    };
    assert_eq!(refused as u64, built.small + built.large + built.tables);
    pages.set_budget(usize::MAX);
    let again = build().unwrap_err().to_string();
    assert!(
        again.contains("is mapped already; unmap it first"),
        "{again}"
    );
    assert_eq!(booted.verify(Some(booted.plan())), Ok(5));
}

/// One page of a run each, as they are found.
fn frames_of(booted: &Booted) -> Vec<u64> {
    let area = booted.machine.layout.area(AreaKind::Vmemmap);
    let area = area.expect("it has one").range();
    let runs = booted.machine.walker(booted.root).runs(area);
    let frames = runs.flat_map(|run| {
        let run = run.expect("readable");
        let pages = (0..run.virt.size()).step_by(run.page.bytes() as usize);
        pages.map(move |at| run.phys.as_u64() + at)
    });
    frames.collect()
}

#[test]
fn pages_come_in_any_order_and_each_is_mapped_once() {
    // How long rows of frames are that lie one behind the other.
    for row in [1, 2, 7, 1000] {
        let booted = Booted::new(PagingMode::FourLevel);
        let pages = booted.pages();
        let mut frames: Vec<_> = (0..1000).map_while(|_| pages.frames.allocate()).collect();
        // What comes back last goes out first, and the pages that are taken last are mapped first.
        frames.chunks_mut(row).for_each(<[_]>::reverse);
        frames
            .iter()
            .rev()
            .for_each(|frame| pages.frames.release(*frame));
        let built = vmemmap::build(
            &booted.editor(&pages),
            &booted.machine.layout,
            &booted.plan(),
        );
        let built = built.expect("memory enough");
        assert_eq!(booted.verify(Some(booted.plan())), Ok(5), "rows of {row}");
        let mut mapped = frames_of(&booted);
        let count = mapped.len() as u64;
        mapped.sort_unstable();
        mapped.dedup();
        assert_eq!(count, built.small + built.large, "rows of {row}");
        assert_eq!(
            mapped.len() as u64,
            count,
            "rows of {row}: a page is mapped twice"
        );
    }
}

#[test]
fn pages_of_a_refused_edit_go_back() {
    let booted = Booted::new(PagingMode::FourLevel);
    let pages = booted.pages();
    // The large page will lie above 4 GiB, the others below.
    let limits = Limits::WIDEST.with_phys_bits(32);
    let Machine { mode, memory, .. } = &booted.machine;
    // SAFETY: nobody else edits these tables, and no CPU uses them.
    let editor: PagesEditor<'_> =
        unsafe { Editor::new(*mode, booted.root, limits, memory, &pages) }.expect("an editor");
    let error = vmemmap::build(&editor, &booted.machine.layout, &booted.plan()).unwrap_err();
    let vmemmap::BuildError::Edit { mapped, .. } = error else {
        panic!("{error}");
    };
    let (frames, large) = pages.in_use();
    assert_eq!(large, 0, "{error}");
    let mapped_frames = frames_of(&booted).len() as u64;
    assert_eq!(mapped_frames * 4096, mapped, "{error}");
    let tables = frames as u64 - mapped_frames;
    assert!((1..=5).contains(&tables), "{tables} tables");
}

#[test]
fn the_error_says_what_is_short() {
    let booted = Booted::new(PagingMode::FourLevel);
    let pages = booted.pages();
    let error = |budget| {
        pages.set_budget(budget);
        vmemmap::build(
            &booted.editor(&pages),
            &booted.machine.layout,
            &booted.plan(),
        )
        .unwrap_err()
        .to_string()
    };
    assert_eq!(
        error(0),
        "vmemmap: 5 page tables are needed, and there is memory for 0; give the machine more RAM; nothing was changed"
    );
    assert!(
        error(5).starts_with("vmemmap: 1 pages of 2 MiB are needed, and there is memory for 0")
    );
    assert!(error(9).contains("pages of 4 KiB are needed, and there is memory for 3"));
}

/// Builds, lets `spoil` change something, and returns what is found.
fn spoiled(spoil: impl FnOnce(&Booted, &PagesEditor<'_>)) -> String {
    let booted = Booted::new(PagingMode::FourLevel);
    let pages = booted.pages();
    let editor = booted.editor(&pages);
    vmemmap::build(&editor, &booted.machine.layout, &booted.plan()).expect("memory enough");
    spoil(&booted, &editor);
    let difference = booted
        .verify(Some(booted.plan()))
        .expect_err("something is wrong");
    difference.to_string()
}

fn page(booted: &Booted, offset: u64) -> VirtRange {
    VirtRange::new(
        start(booted).checked_add(offset).expect("in the area"),
        4096,
    )
}

fn unmap(booted: &Booted, editor: &PagesEditor<'_>, range: VirtRange) {
    let flush = editor.unmap(range).expect("mapped");
    // SAFETY: there is no CPU.
    unsafe { flush.discharged(&booted.machine.memory, editor.frames()) };
}

fn protect(booted: &Booted, editor: &PagesEditor<'_>, range: VirtRange, access: Access) {
    let flush = editor
        .protect(range, Protection::kernel(access))
        .expect("mapped");
    // SAFETY: there is no CPU.
    unsafe { flush.discharged(&booted.machine.memory, editor.frames()) };
}

#[test]
fn a_missing_page_is_found() {
    let found = spoiled(|booted, editor| unmap(booted, editor, page(booted, 0x3000)));
    assert!(
        found.starts_with("verify: vmemmap: expected ffffea0000003000-"),
        "{found}"
    );
    assert!(found.ends_with("found nothing mapped"), "{found}");
}

#[test]
fn a_page_too_many_is_found() {
    let found = spoiled(|booted, editor| {
        // Records of the hole below 4 GiB.
        let frame = editor.frames().allocate().expect("a frame");
        editor
            .map(
                page(booted, 3 * MIB),
                frame,
                Protection::KERNEL_DATA,
                PageSize::Size4K,
            )
            .expect("free");
    });
    assert!(
        found.starts_with(
            "verify: vmemmap: expected nothing mapped, found ffffea0000300000-ffffea0000300fff"
        ),
        "{found}"
    );
}

#[test]
fn a_page_of_another_size_is_found() {
    let found = spoiled(|booted, editor| {
        // Splits the large page, and leaves the rights as they were.
        let inside = page(booted, 4 * MIB + 0x5000);
        protect(booted, editor, inside, Access::ReadOnly);
        protect(booted, editor, inside, Access::ReadWrite);
    });
    assert!(
        found.starts_with("verify: vmemmap: page size: expected ffffea0000400000-"),
        "{found}"
    );
    assert!(
        found.contains(" 2M rw-") && found.contains(" 4k rw-"),
        "{found}"
    );
}

#[test]
fn a_read_only_page_is_found() {
    let found =
        spoiled(|booted, editor| protect(booted, editor, page(booted, 0x1000), Access::ReadOnly));
    assert!(
        found.starts_with("verify: vmemmap: rights: expected ffffea0000001000-"),
        "{found}"
    );
    assert!(found.contains("4k r-- "), "{found}");
}

#[test]
fn a_page_on_no_ram_is_found() {
    let found = spoiled(|booted, editor| {
        let at = page(booted, 0x2000);
        unmap(booted, editor, at);
        editor
            .map(
                at,
                PhysAddr::new(0xfee0_0000),
                Protection::KERNEL_DATA,
                PageSize::Size4K,
            )
            .expect("free");
    });
    assert!(
        found.starts_with("verify: vmemmap: not RAM: expected ffffea0000002000-"),
        "{found}"
    );
}

/// A guest of 64 MiB with frames from its own memory: 18 pages and their tables, and not one more.
#[test]
fn a_small_machine_pays_for_18_pages() {
    let memory = SimMemory::arena(PhysRange::new(PhysAddr::ZERO, 64 * MIB));
    let ram = |start, size| FirmwareEntry {
        start,
        size,
        kind: 1,
    };
    let entries = [ram(0, 0x9_fc00), ram(MIB, 63 * MIB)];
    let map = MemoryMap::from_firmware(entries, 40, |_| ()).expect("a sound map");
    let early = EarlyFrames::new(&map, PhysRange::new(PhysAddr::ZERO, 4 * GIB));
    // SAFETY: the arena is RAM that nothing else uses.
    let frames = unsafe { TableFrames::new(&early, &memory) };
    let root = frames.allocate().expect("a root");
    let mode = PagingMode::FourLevel;
    let limits = Limits::WIDEST;
    // SAFETY: nobody else edits these tables, and no CPU uses them.
    let editor = unsafe { Editor::<LongMode, _, _>::new(mode, root, limits, &memory, &frames) };
    let editor = editor.expect("an editor");
    let layout = X86_64::new(mode, map.ram_last())
        .build()
        .expect("a sound layout");
    let nodes = Nodes::new(&map, &[], |_| ()).expect("one node");
    let books = vmemmap::arrange(&layout, &nodes, &LIMITS, &[], 1).expect("room");
    let plan = VmemmapPlan::new(&books, &nodes, PageSize::Size2M);
    let before = early.counts();
    let built = vmemmap::build(&editor, &layout, &plan).expect("memory enough");
    assert_eq!((built.small, built.large), (18, 0));
    assert_eq!(
        built.to_string(),
        "vmemmap: 72 KiB in 18 pages of 4k and 0 of 2M"
    );
    let after = early.counts();
    // Records and the zones' arrays lie far apart: a table of pages and one above it for each, and the one that leads to both.
    assert_eq!(built.tables, 5);
    assert_eq!(after.in_use, before.in_use + 18 + 5);
    assert_eq!((after.lost, after.total), (0, before.total));
}

/// A machine where no 2 MiB in a row are left keeps its early frames.
#[test]
fn a_refused_build_gives_every_early_frame_back() {
    let ram = |start, size| FirmwareEntry {
        start,
        size,
        kind: 1,
    };
    let memory = SimMemory::arena(PhysRange::new(PhysAddr::ZERO, 4 * MIB));
    let entries = [ram(MIB, 3 * MIB - 4096), ram(4 * GIB, 2 * GIB)];
    let map = MemoryMap::from_firmware(entries, 40, |_| ()).expect("a sound map");
    let early = EarlyFrames::new(&map, PhysRange::new(PhysAddr::ZERO, 4 * GIB));
    // SAFETY: the arena is RAM that nothing else uses.
    let frames = unsafe { TableFrames::new(&early, &memory) };
    let root = frames.allocate().expect("a root");
    let (mode, limits) = (PagingMode::FourLevel, Limits::WIDEST);
    // SAFETY: nobody else edits these tables, and no CPU uses them.
    let editor = unsafe { Editor::<LongMode, _, _>::new(mode, root, limits, &memory, &frames) };
    let layout = X86_64::new(mode, map.ram_last())
        .build()
        .expect("a sound layout");
    let nodes = Nodes::new(&map, &[], |_| ()).expect("one node");
    let books = vmemmap::arrange(&layout, &nodes, &LIMITS, &[], 1).expect("room");
    let plan = VmemmapPlan::new(&books, &nodes, PageSize::Size2M);
    let before = early.counts();
    let error = vmemmap::build(&editor.expect("an editor"), &layout, &plan).unwrap_err();
    assert!(
        error.to_string().contains("1 pages of 2 MiB are needed"),
        "{error}"
    );
    assert_eq!(early.counts(), before);
}
