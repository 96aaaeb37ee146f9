//! The same on 32 bits: the direct map is low memory, and the image is part of it.

use kspace::direct_map::{self, Plan, table_frames_needed};
use kspace::fault::{PageFault, explain};
use kspace::image::ImageMap;
use kspace::verify::{Claims, Difference, verify};
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_layout::{
    AreaKind, AreaState, I386, KernelImage, Layout, PagingMode, PhysAddr, PhysRange, SectionKind,
    Split, VirtAddr, VirtRange,
};
use kspace_paging::access::error_code;
use kspace_paging::{
    Access, Editor, EntryFormat, FrameSource, Limits, Pae, Protection, TwoLevel, Walker,
};
use kspace_sim::{SimFrames, SimMemory};

const MIB: u64 = 1 << 20;
const LIMITS: Limits = Limits::WIDEST;

/// 2 GiB of RAM, of which lowmem holds less than half.
fn memory_map() -> MemoryMap {
    let ram = |start, end: u64| FirmwareEntry {
        start,
        size: end - start,
        kind: 1,
    };
    let entries = [
        ram(0, 0x9_f000),
        ram(MIB, 100 * MIB),
        ram(101 * MIB, 2048 * MIB),
    ];
    MemoryMap::from_firmware(entries, 36, |_| ()).expect("a sound map")
}

/// An image at 16 MiB: 2 MiB of text, then constants, then data.
fn kernel_image() -> KernelImage {
    let at = |offset: u64, size| VirtRange::new(VirtAddr::new(0xc100_0000 + offset), size);
    KernelImage::try_new(at(0, 0x24_0000), PhysAddr::new(16 * MIB))
        .expect("a sound image")
        .with_section(SectionKind::Text, at(0, 0x20_0000))
        .with_section(SectionKind::Rodata, at(0x20_0000, 0x2_0000))
        .with_section(SectionKind::Data, at(0x22_0000, 0x2_0000))
}

/// Linux's default split; nothing is built but the direct map.
fn layout(mode: PagingMode) -> Layout {
    I386::new(Split::ThreeG, mode, memory_map().ram_last())
        .image(kernel_image())
        .build()
        .expect("a sound layout")
        .with_state(AreaKind::CpuEntry, AreaState::Reserved)
        .with_state(AreaKind::Fixmap, AreaState::Reserved)
}

/// Builds the direct map, lets `spoil` change something, and verifies.
fn build_and_verify<F: EntryFormat>(
    mode: PagingMode,
    spoil: impl FnOnce(&Editor<'_, F, SimMemory, SimFrames<'_>>),
) -> Result<Vec<String>, Difference> {
    let (map, layout) = (memory_map(), layout(mode));
    let memory = SimMemory::sparse();
    let frames = SimFrames::new(&memory, PhysRange::new(PhysAddr::new(64 * MIB), 16 * MIB));
    let root = frames.allocate().expect("a root");
    // SAFETY: nobody else edits these tables, and no CPU uses them.
    let editor = unsafe { Editor::<F, _, _>::new(mode, root, LIMITS, &memory, &frames) };
    let editor = editor.expect("an editor");
    let area = layout.area(AreaKind::DirectMap).expect("lowmem").range();
    let upper =
        VirtRange::try_from_bounds(area.start(), VirtAddr::new(0xffff_ffff)).expect("a range");
    if mode == PagingMode::Pae {
        let flush = editor.populate(upper).expect("frames");
        // SAFETY: there is no CPU.
        unsafe { flush.discharged(&memory, &frames) };
    }
    let image = ImageMap::try_new(&kernel_image()).expect("sections on pages");
    let plan = Plan::for_layout(&layout, &map, LIMITS).with_image(&image);
    let least = direct_map::build(&editor, &layout, &plan).expect("a direct map");
    assert_eq!(least, table_frames_needed(&plan, area.start()));
    assert_eq!(
        frames.in_use() as u64,
        1 + least,
        "no table but those needed"
    );
    spoil(&editor);
    let walker = Walker::new(mode, root, &memory).with_limits(LIMITS);
    let claims = Claims {
        layout: &layout,
        map: &map,
        limits: LIMITS,
        cpus: 0,
        fixed: &[],
        vmemmap: None,
        areas: None,
        changes: None,
    };
    let verified = verify(&walker, &claims)?;
    assert_eq!(verified.areas, 1);
    assert_eq!(verified.no_execute, mode == PagingMode::Pae);
    Ok(walker
        .runs(upper)
        .map(|run| run.expect("readable").to_string())
        .collect())
}

#[test]
fn pae_maps_lowmem_in_2_mib_pages_around_the_image() {
    let runs =
        build_and_verify::<Pae>(PagingMode::Pae, |_| ()).unwrap_or_else(|found| panic!("{found}"));
    assert_eq!(
        runs[..7],
        [
            "00000000c0000000-00000000c01fffff -> 0000000000000000 4k rw- supervisor global write-back",
            "00000000c0200000-00000000c0ffffff -> 0000000000200000 2M rw- supervisor global write-back",
            "00000000c1000000-00000000c11fffff -> 0000000001000000 2M r-x supervisor global write-back",
            "00000000c1200000-00000000c121ffff -> 0000000001200000 4k r-- supervisor global write-back",
            "00000000c1220000-00000000c13fffff -> 0000000001220000 4k rw- supervisor global write-back",
            "00000000c1400000-00000000c63fffff -> 0000000001400000 2M rw- supervisor global write-back",
            "00000000c6500000-00000000c65fffff -> 0000000006500000 4k rw- supervisor global write-back",
        ]
    );
}

#[test]
fn two_level_paging_has_no_bit_against_execution_and_passes() {
    let runs = build_and_verify::<TwoLevel>(PagingMode::TwoLevel, |_| ())
        .unwrap_or_else(|found| panic!("{found}"));
    assert_eq!(
        runs[..4],
        [
            "00000000c0000000-00000000c03fffff -> 0000000000000000 4k rwx supervisor global write-back",
            "00000000c0400000-00000000c0ffffff -> 0000000000400000 4M rwx supervisor global write-back",
            "00000000c1000000-00000000c121ffff -> 0000000001000000 4k r-x supervisor global write-back",
            "00000000c1220000-00000000c13fffff -> 0000000001220000 4k rwx supervisor global write-back",
        ]
    );
}

#[test]
fn writable_text_is_found_in_two_level_paging_too() {
    let text = VirtRange::new(VirtAddr::new(0xc100_3000), 4096);
    let difference = build_and_verify::<TwoLevel>(PagingMode::TwoLevel, |editor| {
        let flush = editor
            .protect(text, Protection::kernel(Access::ReadOnly))
            .expect("mapped");
        // SAFETY: there is no CPU.
        unsafe { flush.discharged(editor.memory(), editor.frames()) };
        let flush = editor
            .protect(text, Protection::kernel(Access::ReadWrite))
            .expect("mapped");
        // SAFETY: as above.
        unsafe { flush.discharged(editor.memory(), editor.frames()) };
    })
    .unwrap_err();
    assert_eq!(
        difference.to_string(),
        "verify: direct map: rights: expected 00000000c1003000-00000000c11fffff -> 0000000001003000 4k r-x supervisor \
         global write-back, found 00000000c1003000-00000000c1003fff -> 0000000001003000 4k rwx supervisor global \
         write-back"
    );
}

/// The row of lowmem was held to end with a page, also where RAM does not.
#[test]
fn lowmem_may_end_in_a_hole_between_pieces_of_ram() {
    let ram = |start, end: u64| FirmwareEntry {
        start,
        size: end - start,
        kind: 1,
    };
    let entries = [ram(0, 512 * MIB), ram(4096 * MIB, 8192 * MIB)];
    let map = MemoryMap::from_firmware(entries, 36, |_| ()).expect("a sound map");
    let layout = I386::new(Split::ThreeG, PagingMode::Pae, map.ram_last())
        .build()
        .expect("a sound layout")
        .with_state(AreaKind::CpuEntry, AreaState::Reserved)
        .with_state(AreaKind::Fixmap, AreaState::Reserved);
    let memory = SimMemory::sparse();
    let frames = SimFrames::new(&memory, PhysRange::new(PhysAddr::new(64 * MIB), 16 * MIB));
    let (mode, root) = (PagingMode::Pae, frames.allocate().expect("a root"));
    // SAFETY: nobody else edits these tables, and no CPU uses them.
    let editor = unsafe { Editor::<Pae, _, _>::new(mode, root, LIMITS, &memory, &frames) };
    let editor = editor.expect("an editor");
    let area = layout.area(AreaKind::DirectMap).expect("lowmem").range();
    let flush = editor.populate(area).expect("frames");
    // SAFETY: there is no CPU.
    unsafe { flush.discharged(&memory, &frames) };
    let plan = Plan::for_layout(&layout, &map, LIMITS);
    direct_map::build(&editor, &layout, &plan).expect("a direct map");
    let claims = Claims {
        layout: &layout,
        map: &map,
        limits: LIMITS,
        cpus: 0,
        fixed: &[],
        vmemmap: None,
        areas: None,
        changes: None,
    };
    let walker = Walker::new(mode, root, &memory).with_limits(LIMITS);
    verify(&walker, &claims).unwrap_or_else(|difference| panic!("{difference}"));
    assert!(layout.direct_mapped().expect("lowmem").size() > 512 * MIB);
}

#[test]
fn faults_in_the_image_and_in_high_memory() {
    let check = |address, error_code, expected: &str| {
        let fault = PageFault {
            address: VirtAddr::new(address),
            error_code,
        };
        let text = explain(&layout(PagingMode::Pae), &memory_map(), fault, None).to_string();
        assert_eq!(text, expected);
    };
    check(
        0xc100_1068,
        error_code::PRESENT | error_code::WRITE,
        "write to 00000000c1001068: read-only, kernel text, 4.1 KiB into .text",
    );
    check(
        0xc650_0000 - 0x1000,
        0,
        "read of 00000000c64ff000: not mapped, direct map, but physical 00000000064ff000 is not RAM, it is in no entry of \
         the memory map",
    );
}
