//! What is not a layout, and what is said about it.

use kspace_layout::{
    AreaKind, AreaState, CustomArea, I386, KernelImage, LayoutBuilder, PagingMode, PhysAddr,
    SectionKind, Split, VirtAddr, VirtRange, X86_64,
};

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

fn last(ram: u64) -> PhysAddr {
    PhysAddr::new(ram - 1)
}

fn range(start: u64, size: u64) -> VirtRange {
    VirtRange::new(VirtAddr::new(start), size)
}

/// What is said of these areas in 4-level paging.
fn check_areas(areas: &[(AreaKind, u64, u64)], message: &str) {
    // The order in which areas are added must not matter.
    for reversed in [false, true] {
        let mut builder = LayoutBuilder::new(PagingMode::FourLevel, last(GIB));
        for index in 0..areas.len() {
            let index = if reversed {
                areas.len() - 1 - index
            } else {
                index
            };
            let (kind, start, size) = areas[index];
            builder = builder.area(kind, range(start, size), AreaState::Reserved);
        }
        assert_eq!(builder.build().unwrap_err().to_string(), message);
    }
}

#[test]
fn overlapping_areas() {
    check_areas(
        &[
            (AreaKind::Vmalloc, 0xffff_c900_0000_0000, 32 * TIB),
            (AreaKind::Vmemmap, 0xffff_e800_0000_0000, TIB),
        ],
        "layout: vmemmap ffffe80000000000-ffffe8ffffffffff lies inside vmalloc ffffc90000000000-ffffe8ffffffffff; \
         move vmemmap up or shrink vmalloc by 1 TiB",
    );
    check_areas(
        &[
            (AreaKind::Vmalloc, 0xffff_c900_0000_0000, 32 * TIB),
            (AreaKind::Vmemmap, 0xffff_e8ff_ffe0_0000, TIB),
        ],
        "layout: vmemmap ffffe8ffffe00000-ffffe9ffffdfffff overlaps vmalloc ffffc90000000000-ffffe8ffffffffff; \
         move vmemmap up or shrink vmalloc by 2 MiB",
    );
    check_areas(
        &[
            (AreaKind::Vmalloc, 0xffff_c900_0000_0000, 32 * TIB),
            (AreaKind::Modules, 0xffff_c900_0000_0000, GIB),
        ],
        "layout: modules ffffc90000000000-ffffc9003fffffff lies inside vmalloc ffffc90000000000-ffffe8ffffffffff; \
         move one of them",
    );
    // Not next to each other when sorted by start, but found all the same.
    check_areas(
        &[
            (AreaKind::Vmalloc, 0xffff_c900_0000_0000, 32 * TIB),
            (AreaKind::Modules, 0xffff_c900_0000_1000, 0x1000),
            (AreaKind::Vmemmap, 0xffff_e800_0000_0000, TIB),
        ],
        "layout: modules ffffc90000001000-ffffc90000001fff lies inside vmalloc ffffc90000000000-ffffe8ffffffffff; \
         move modules up or shrink vmalloc by 31.9 TiB",
    );
}

#[test]
fn crooked_areas() {
    check_areas(
        &[(AreaKind::DirectMap, 0xffff_8880_0020_0000, TIB)],
        "layout: direct map ffff888000200000-ffff8980001fffff does not start on a multiple of 1 GiB; \
         move it down to ffff888000000000",
    );
    check_areas(
        &[(AreaKind::Modules, 0xffff_ffff_c000_0000, 0x1800)],
        "layout: modules ffffffffc0000000-ffffffffc00017ff has a size of 0x1800; make it a multiple of 4 KiB",
    );
    check_areas(
        &[(AreaKind::Vmalloc, 0xff11_0000_0000_0000, TIB)],
        "layout: vmalloc ff11000000000000-ff1100ffffffffff is not all within the 48 bits of 4-level paging; \
         move or shrink it",
    );
    check_areas(
        &[(AreaKind::User, 0, 1 << 56)],
        "layout: user 0000000000000000-00ffffffffffffff is not all within the 48 bits of 4-level paging; \
         move or shrink it",
    );
}

#[test]
fn too_many_areas() {
    check_areas(
        &[
            (AreaKind::Vmalloc, 0xffff_c900_0000_0000, TIB),
            (AreaKind::Vmalloc, 0xffff_d000_0000_0000, TIB),
        ],
        "layout: vmalloc is there twice, ffffc90000000000-ffffc9ffffffffff and \
         ffffd00000000000-ffffd0ffffffffff; leave one out",
    );
    // A custom area may not borrow the name of one of ours.
    static POSER: CustomArea = CustomArea::new("vmalloc", "Nothing.");
    check_areas(
        &[
            (AreaKind::Vmalloc, 0xffff_c900_0000_0000, TIB),
            (AreaKind::Custom(&POSER), 0xffff_d000_0000_0000, TIB),
        ],
        "layout: vmalloc is there twice, ffffc90000000000-ffffc9ffffffffff and \
         ffffd00000000000-ffffd0ffffffffff; leave one out",
    );
    let mut builder = LayoutBuilder::new(PagingMode::FourLevel, last(GIB));
    for index in 0..30 {
        let page = range(0xffff_c900_0000_0000 + index * 0x2000, 0x1000);
        builder = builder.area(AreaKind::Vmalloc, page, AreaState::Reserved);
    }
    assert_eq!(
        builder.build().unwrap_err().to_string(),
        "layout: vmalloc ffffc90000030000-ffffc90000030fff is one area too many; at most 24 fit, leave out or join some"
    );
}

#[test]
fn areas_too_small_for_the_memory() {
    check_areas(
        &[(AreaKind::DirectMap, 0xffff_8880_0000_0000, GIB / 2)],
        "layout: direct map ffff888000000000-ffff88801fffffff covers 512 MiB of physical memory, but RAM ends at \
         000000003fffffff; enlarge it or use less RAM (mem=)",
    );
    // One byte too many is too many.
    let odd = LayoutBuilder::new(PagingMode::FourLevel, PhysAddr::new(GIB));
    let map = range(0xffff_8880_0000_0000, GIB);
    assert_eq!(
        odd.area(AreaKind::DirectMap, map, AreaState::Built)
            .build()
            .unwrap_err()
            .to_string(),
        "layout: direct map ffff888000000000-ffff88803fffffff covers 1 GiB of physical memory, but RAM ends at \
         0000000040000000; enlarge it or use less RAM (mem=)"
    );
    check_areas(
        &[(AreaKind::Vmemmap, 0xffff_ea00_0000_0000, 8 << 20)],
        "layout: vmemmap ffffea0000000000-ffffea00007fffff holds 8 MiB, but records of 64 bytes for all frames need \
         16 MiB; enlarge it or shrink the record",
    );
    let build = |layout: X86_64| layout.build().unwrap_err().to_string();
    assert_eq!(
        build(X86_64::new(PagingMode::FourLevel, last(64 * TIB)).frame_data(128)),
        "layout: vmemmap ffffea0000000000-ffffeaffffffffff holds 1 TiB, but records of 128 bytes for all frames need \
         2 TiB; enlarge it or shrink the record"
    );
    for (bytes, text) in [(0, "0 bytes"), (4097, "4 KiB")] {
        assert_eq!(
            build(X86_64::new(PagingMode::FourLevel, last(GIB)).frame_data(bytes)),
            format!("layout: a record of {text} per frame is refused; ask for 1 to 4096 bytes")
        );
    }
    assert_eq!(
        build(X86_64::new(PagingMode::FourLevel, PhysAddr::new(64 * TIB))),
        "layout: RAM ends at 0000400000000000, 4-level paging reaches 00003fffffffffff; use less RAM (mem=)"
    );
    assert_eq!(
        build(X86_64::new(PagingMode::Pae, last(GIB))),
        "layout: x86-64 has no PAE paging; choose a mode of x86-64"
    );
    // The most that each mode can have is fine.
    for (mode, bits) in [(PagingMode::FourLevel, 46), (PagingMode::FiveLevel, 52)] {
        assert!(X86_64::new(mode, last(1 << bits)).build().is_ok());
    }
}

/// What is said of a 4-level layout with this image.
fn check_image(image: KernelImage, message: &str) {
    let layout = X86_64::new(PagingMode::FourLevel, last(GIB)).image(image);
    assert_eq!(layout.build().unwrap_err().to_string(), message);
}

fn image(virt: VirtRange, phys: u64) -> KernelImage {
    KernelImage::try_new(virt, PhysAddr::new(phys)).unwrap()
}

#[test]
fn misplaced_images() {
    const START: u64 = 0xffff_ffff_8100_0000;
    check_image(
        image(range(START, 1 << 20), 0x10_0800),
        "layout: kernel image ffffffff81000000-ffffffff810fffff at physical 0000000000100800-00000000002007ff does not \
         start on a page; link or load it at a multiple of 4 KiB",
    );
    check_image(
        image(range(START, 1 << 20), GIB - 4096),
        "layout: kernel image at physical 000000003ffff000-00000000400fefff, but RAM ends at 000000003fffffff; \
         give the image's real place",
    );
    check_image(
        image(range(START, 1008 * (1 << 20) + 1), 0),
        "layout: kernel image ffffffff81000000-ffffffffc0000000 is not inside kernel image \
         ffffffff80000000-ffffffffbfffffff; link it there or move the area",
    );
    let bare =
        LayoutBuilder::new(PagingMode::FourLevel, last(GIB)).image(image(range(START, 1 << 20), 0));
    assert_eq!(
        bare.build().unwrap_err().to_string(),
        "layout: kernel image ffffffff81000000-ffffffff810fffff has no area to lie in; add one"
    );
}

#[test]
fn misplaced_sections() {
    const START: u64 = 0xffff_ffff_8100_0000;
    let image = image(range(START, 1 << 20), 0);
    check_image(
        image.with_section(SectionKind::Bss, range(START + 0xf_f000, 0x1001)),
        "layout: section .bss ffffffff810ff000-ffffffff81100000 is not inside the kernel image \
         ffffffff81000000-ffffffff810fffff; check the linker script",
    );
    check_image(
        image
            .with_section(SectionKind::Text, range(START + 0x1000, 0x1000))
            .with_section(SectionKind::InitData, range(START, 0x1001)),
        "layout: sections .init.data ffffffff81000000-ffffffff81001000 and \
         .text ffffffff81001000-ffffffff81001fff overlap; check the linker script",
    );
}

#[test]
fn impossible_i386_layouts() {
    let pae = |split| I386::new(split, PagingMode::Pae, last(GIB));
    let message = |layout: I386| layout.build().unwrap_err().to_string();
    for split in [Split::ThreeGOpt, Split::TwoGOpt] {
        assert_eq!(
            message(pae(split)),
            format!(
                "layout: split {split} divides a part of 1 GiB between user and kernel, which PAE cannot; \
                 choose 3G, 2G or 1G, or no PAE"
            )
        );
        assert!(
            I386::new(split, PagingMode::TwoLevel, last(GIB))
                .build()
                .is_ok()
        );
    }
    assert_eq!(
        message(I386::new(Split::ThreeG, PagingMode::FourLevel, last(GIB))),
        "layout: i386 has no 4-level paging; choose a mode of i386"
    );
    assert_eq!(
        message(pae(Split::ThreeG).vmalloc(GIB)),
        "layout: vmalloc= of 1 GiB leaves less than 64 MiB of lowmem; give at most 941.9 MiB"
    );
    assert_eq!(
        message(pae(Split::ThreeG).reserve_top(GIB)),
        "layout: reservetop= of 1 GiB leaves no room for the kernel; give at most 830 MiB"
    );
    assert_eq!(
        message(pae(Split::ThreeG).cpus(8192)),
        "layout: fixmap and cpu_entry_area need 1.7 GiB, the kernel has 831.9 MiB; support fewer CPUs"
    );
    assert_eq!(
        message(pae(Split::ThreeG).cpus(u32::MAX).cpu_entry_pages(u32::MAX)),
        "layout: fixmap and cpu_entry_area need 15.9 EiB, the kernel has 831.9 MiB; support fewer CPUs"
    );
    assert_eq!(
        message(pae(Split::ThreeG).permanent_fixmap_slots(u32::MAX)),
        "layout: fixmap and cpu_entry_area need 16 TiB, the kernel has 831.9 MiB; support fewer CPUs"
    );
    assert_eq!(
        message(pae(Split::ThreeG).vmalloc(u64::MAX)),
        "layout: vmalloc= of 15.9 EiB leaves less than 64 MiB of lowmem; give at most 941.9 MiB"
    );
    assert_eq!(
        message(pae(Split::ThreeG).reserve_top(u64::MAX)),
        "layout: reservetop= of 15.9 EiB leaves no room for the kernel; give at most 830 MiB"
    );
    assert_eq!(
        message(pae(Split::ThreeG).image(image(range(0xc010_0000, 0x1000), 0x20_0000))),
        "layout: kernel image 00000000c0100000-00000000c0100fff is at physical 0000000000200000-0000000000200fff, \
         which the direct map has at 00000000c0200000; link it there or load it elsewhere"
    );
    assert_eq!(
        message(pae(Split::ThreeG).image(image(range(0xc010_0000, 0x1000), 0x3800_0000))),
        "layout: kernel image 00000000c0100000-00000000c0100fff is at physical 0000000038000000-0000000038000fff, \
         which is high memory; load it lower"
    );
}
