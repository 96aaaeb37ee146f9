//! Building: how many frames it takes, and what happens when something is in the way.

mod machine;

use kspace::direct_map::{self, Plan, table_frames_needed};
use kspace::image::{self, ImageMap};
use kspace::{TableFrames, cpu_entry};
use kspace_frames::{EarlyFrames, FirmwareEntry, MemoryMap};
use kspace_layout::{
    AreaKind, KernelImage, PageSize, PagingMode, PhysAddr, PhysRange, SectionKind, VirtRange,
    X86_64,
};
use kspace_paging::{Access, Editor, FrameSource, Limits, LongMode, Protection};
use kspace_sim::{SimFrames, SimMemory};
use machine::{GIB, IMAGE_PHYS, IMAGE_VIRT, MIB, Machine};

const MODES: [PagingMode; 2] = [PagingMode::FourLevel, PagingMode::FiveLevel];

/// Builds only a direct map of RAM up to `end` (without the ISA hole and one below 4 GiB) and returns the tables used
/// and the least number, both without the root.
fn tables_for(mode: PagingMode, end: u64, limits: Limits) -> (u64, u64) {
    let ram = |start, end: u64| FirmwareEntry {
        start,
        size: end - start,
        kind: 1,
    };
    let entries = [ram(0, 0x9_fc00), ram(MIB, 3 * GIB), ram(4 * GIB, end)];
    let map = MemoryMap::from_firmware(entries, 52, |_| ()).expect("a sound map");
    let layout = X86_64::new(mode, map.ram_last())
        .build()
        .expect("a sound layout");
    let memory = SimMemory::sparse();
    let frames = SimFrames::new(&memory, PhysRange::new(PhysAddr::new(GIB), GIB));
    let root = frames.allocate().expect("a root");
    // SAFETY: nobody else edits these tables, and no CPU uses them.
    let editor = unsafe { Editor::<LongMode, _, _>::new(mode, root, limits, &memory, &frames) };
    let editor = editor.expect("an editor");
    let plan = Plan::for_layout(&layout, &map, limits);
    let least = direct_map::build(&editor, &layout, &plan).expect("a direct map");
    let start = layout
        .area(AreaKind::DirectMap)
        .expect("it has one")
        .range()
        .start();
    assert_eq!(least, table_frames_needed(&plan, start));
    (frames.in_use() as u64 - 1, least)
}

#[test]
fn page_tables_are_the_least_possible() {
    for (mode, end, limits, least) in [
        // One table for 4 KiB pages, one for 2 MiB pages, one for 1 GiB pages.
        (PagingMode::FourLevel, 6 * GIB, Limits::WIDEST, 3),
        (
            PagingMode::FourLevel,
            6 * GIB,
            Limits::WIDEST.with_gigabyte_pages(false),
            7,
        ),
        // 64 TiB are 128 tables of 512 GiB.
        (PagingMode::FourLevel, 64 << 40, Limits::WIDEST, 1 + 1 + 128),
        // 4 PiB are 8192 tables of 512 GiB, under 16 of 256 TiB.
        (
            PagingMode::FiveLevel,
            4 << 50,
            Limits::WIDEST,
            1 + 1 + 8192 + 16,
        ),
    ] {
        assert_eq!(
            tables_for(mode, end, limits),
            (least, least),
            "{mode}, {end:#x} bytes"
        );
    }
}

#[test]
fn early_frames_feed_the_tables_and_keep_the_first_16_mib_free() {
    let memory = SimMemory::arena(PhysRange::new(PhysAddr::ZERO, 64 * MIB));
    let ram = FirmwareEntry {
        start: MIB,
        size: 63 * MIB,
        kind: 1,
    };
    let mut map = MemoryMap::from_firmware([ram], 52, |_| ()).expect("a sound map");
    map.reserve(PhysRange::new(IMAGE_PHYS, 4 * MIB))
        .expect("room");
    let early = EarlyFrames::new(&map, PhysRange::new(PhysAddr::ZERO, 4 * GIB));
    // SAFETY: the arena is RAM that nothing else uses.
    let frames = unsafe { TableFrames::new(&early, &memory) };
    let root = frames.allocate().expect("a root");
    let mode = PagingMode::FourLevel;
    let limits = Limits::WIDEST;
    // SAFETY: nobody else edits these tables, and no CPU uses them.
    let editor = unsafe { Editor::<LongMode, _, _>::new(mode, root, limits, &memory, &frames) };
    let layout = X86_64::new(mode, map.ram_last())
        .build()
        .expect("a sound layout");
    let plan = Plan::for_layout(&layout, &map, limits);
    let least = direct_map::build(&editor.expect("an editor"), &layout, &plan).expect("a map");
    assert_eq!(least, 3);
    let counts = early.counts();
    assert_eq!((counts.in_use, counts.lost), (least + 1, 0));
    assert_eq!(root, PhysAddr::new(64 * MIB - 4096));
}

#[test]
fn running_out_of_frames_changes_nothing_and_says_how_many_are_needed() {
    for mode in MODES {
        let machine = Machine::new(mode, Limits::WIDEST);
        let frames = machine.frames();
        let editor = machine.editor(&frames);
        let plan = Plan::for_layout(&machine.layout, &machine.map, machine.limits);
        let needed = table_frames_needed(&plan, machine.start_of(AreaKind::DirectMap));
        for had in 0..needed {
            frames.set_budget(Some(had as usize));
            let error = direct_map::build(&editor, &machine.layout, &plan).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "direct map: {needed} page tables are needed, and there are frames for {had}; nothing was changed"
                )
            );
            assert_eq!(frames.in_use(), 1, "the root alone");
            let root = machine.memory.snapshot(editor.root().pfn());
            assert!(root.iter().all(|&entry| entry == 0));
        }
    }
}

#[test]
fn what_is_mapped_already_is_named() {
    let machine = Machine::new(PagingMode::FourLevel, Limits::WIDEST);
    let frames = machine.frames();
    let editor = machine.editor(&frames);
    let page = VirtRange::new(
        machine
            .start_of(AreaKind::DirectMap)
            .checked_add(0x5000)
            .unwrap(),
        4096,
    );
    editor
        .map(page, IMAGE_PHYS, Protection::KERNEL_DATA, PageSize::Size4K)
        .expect("a page");
    let plan = Plan::for_layout(&machine.layout, &machine.map, machine.limits);
    let before = frames.in_use();
    assert_eq!(
        direct_map::build(&editor, &machine.layout, &plan)
            .unwrap_err()
            .to_string(),
        "direct map: ffff888000005000-ffff888000005fff -> 0000000001000000 4k rw- supervisor global write-back \
         is mapped already; unmap it first; nothing was changed"
    );
    assert_eq!(frames.in_use(), before);
}

#[test]
fn a_plan_larger_than_its_area_is_refused() {
    let machine = Machine::new(PagingMode::FourLevel, Limits::WIDEST);
    let frames = machine.frames();
    let editor = machine.editor(&frames);
    let ram = FirmwareEntry {
        start: 0,
        size: 65 << 40,
        kind: 1,
    };
    let map = MemoryMap::from_firmware([ram], 52, |_| ()).expect("a sound map");
    let plan = direct_map::plan(&map, machine.mode, machine.limits);
    assert_eq!(
        direct_map::build(&editor, &machine.layout, &plan)
            .unwrap_err()
            .to_string(),
        "direct map: ffff888000000000-ffffc87fffffffff does not reach physical 000040ffffffffff; use less RAM (mem=); \
         nothing was changed"
    );
}

/// A source that ran out between two runs left a half-built map: the frames are taken beforehand, and each once.
#[test]
fn no_frame_is_asked_for_twice_or_after_the_first_change() {
    let machine = Machine::new(PagingMode::FourLevel, Limits::WIDEST);
    let frames = machine.frames();
    let editor = machine.editor(&frames);
    let plan = Plan::for_layout(&machine.layout, &machine.map, machine.limits);
    let needed = table_frames_needed(&plan, machine.start_of(AreaKind::DirectMap));
    frames.set_budget(Some(needed as usize));
    assert_eq!(
        direct_map::build(&editor, &machine.layout, &plan),
        Ok(needed)
    );
    assert_eq!(frames.in_use() as u64, 1 + needed);
}

/// More frames than an early source can remember as released come back all the same.
#[test]
fn a_refused_build_loses_no_early_frame() {
    let ram = |start, size| FirmwareEntry {
        start,
        size,
        kind: 1,
    };
    // Each piece lies across a border of 512 GiB, so it takes six tables.
    let pieces = (1..111).map(|piece| ram((piece << 40) - 4096, 8192));
    let entries = pieces.chain([ram(MIB, 640 * 4096)]);
    let map = MemoryMap::from_firmware(entries, 52, |_| ()).expect("a sound map");
    let memory = SimMemory::arena(PhysRange::new(PhysAddr::ZERO, 4 * MIB));
    let early = EarlyFrames::new(&map, PhysRange::new(PhysAddr::ZERO, 4 * GIB));
    // SAFETY: the arena is RAM that nothing else uses.
    let frames = unsafe { TableFrames::new(&early, &memory) };
    let root = frames.allocate().expect("a root");
    let (mode, limits) = (PagingMode::FiveLevel, Limits::WIDEST);
    // SAFETY: nobody else edits these tables, and no CPU uses them.
    let editor = unsafe { Editor::<LongMode, _, _>::new(mode, root, limits, &memory, &frames) };
    let layout = X86_64::new(mode, map.ram_last())
        .build()
        .expect("a sound layout");
    let plan = Plan::for_layout(&layout, &map, limits);
    let before = early.counts();
    let error = direct_map::build(&editor.expect("an editor"), &layout, &plan).unwrap_err();
    // Six for each of 110 pieces; two tables of 4 KiB pages below 4 MiB and the two above them; and one above them all.
    assert_eq!(
        error.to_string(),
        "direct map: 665 page tables are needed, and there are frames for 639; nothing was changed"
    );
    assert_eq!(early.counts(), before);
}

/// An image of two sections, `gap` bytes apart.
fn two_sections(first: SectionKind, second: SectionKind, size: u64, gap: u64) -> KernelImage {
    let at = |offset, size| VirtRange::new(IMAGE_VIRT.checked_add(offset).unwrap(), size);
    KernelImage::try_new(at(0, 2 * size + gap), IMAGE_PHYS)
        .expect("a sound image")
        .with_section(first, at(0, size))
        .with_section(second, at(size + gap, size))
}

#[test]
fn sections_of_different_rights_may_not_share_a_page() {
    let image = two_sections(SectionKind::Text, SectionKind::Data, 0x1800, 0);
    assert_eq!(
        ImageMap::try_new(&image).unwrap_err().to_string(),
        "kernel image: .text ffffffff81000000-ffffffff810017ff is executable and .data \
         ffffffff81001800-ffffffff81002fff is writable, and they share a page; align .data to 4 KiB in the linker script"
    );
    let image = two_sections(SectionKind::Data, SectionKind::Bss, 0x1800, 0);
    let map = ImageMap::try_new(&image).expect("both are writable");
    let runs: Vec<_> = map
        .runs()
        .map(|run| (run.virt.size(), run.access))
        .collect();
    assert_eq!(runs, [(0x3000, Access::ReadWrite)]);
}

#[test]
fn sections_must_lie_in_the_image_and_the_image_on_pages() {
    let image = two_sections(SectionKind::Text, SectionKind::Rodata, 0x1000, 0);
    let below = VirtRange::new(IMAGE_VIRT.align_down(GIB), 0x1000);
    assert_eq!(
        ImageMap::try_new(&image.with_section(SectionKind::Data, below))
            .unwrap_err()
            .to_string(),
        "kernel image: .data ffffffff80000000-ffffffff80000fff is not inside the image \
         ffffffff81000000-ffffffff81001fff; check the linker script"
    );
    let odd = KernelImage::try_new(image.virt(), PhysAddr::new(0x100_0800)).expect("fits");
    assert_eq!(
        ImageMap::try_new(&odd).unwrap_err().to_string(),
        "kernel image: virtual ffffffff81000000-ffffffff81001fff, physical 0000000001000800-00000000010027ff: \
         both must begin at a page"
    );
}

#[test]
fn the_image_is_in_2_mib_pages_where_they_fit() {
    let machine = Machine::new(PagingMode::FourLevel, Limits::WIDEST);
    let frames = machine.frames();
    let editor = machine.editor(&frames);
    let sections = ImageMap::try_new(&machine::kernel_image()).expect("sections on pages");
    image::build(&editor, &sections).expect("an image");
    let whole = VirtRange::new(IMAGE_VIRT, GIB / 2);
    let found: Vec<String> = machine
        .walker(editor.root())
        .runs(whole)
        .map(|run| run.expect("readable").to_string())
        .collect();
    assert_eq!(
        found,
        [
            "ffffffff81000000-ffffffff811fffff -> 0000000001000000 2M r-x supervisor global write-back",
            "ffffffff81200000-ffffffff812fffff -> 0000000001200000 4k r-x supervisor global write-back",
            "ffffffff81300000-ffffffff81380fff -> 0000000001300000 4k r-- supervisor global write-back",
            "ffffffff81382000-ffffffff81405fff -> 0000000001382000 4k rw- supervisor global write-back",
        ]
    );
}

#[test]
fn an_entry_area_needs_a_cpu_that_fits_and_a_frame_for_each_page() {
    let machine = Machine::new(PagingMode::FourLevel, Limits::WIDEST);
    let frames = machine.frames();
    let editor = machine.editor(&frames);
    let area = machine.layout.cpu_entry().expect("x86-64 has one");
    assert_eq!(
        cpu_entry::build(&editor, area, area.capacity())
            .unwrap_err()
            .to_string(),
        "CPU entry area: CPU 6100805 was asked for, there is room for 6100805; use fewer CPUs"
    );
    // The IDT and its three tables, then the GDT; the guard takes nothing; nothing is left for the entry stack.
    frames.set_budget(Some(5));
    assert_eq!(
        cpu_entry::build(&editor, area, 0).unwrap_err().to_string(),
        "CPU entry area: no frame left for fffffe0000003000-fffffe0000003fff; give the machine more RAM below 4 GiB"
    );
    frames.set_budget(None);
    cpu_entry::build(&editor, area, 1).expect("CPU 1 has frames");
    assert_eq!(
        cpu_entry::build(&editor, area, 1).unwrap_err().to_string(),
        "CPU entry area: map fffffe0000017000-fffffe0000017fff: page 1 of 1 (fffffe0000017000) already maps physical \
         0000000030006000; nothing was changed"
    );
}
