//! The printed block of 64-bit modes.

use kspace_layout::{
    AreaKind, AreaState, DEFAULT_IMAGE_START, KernelImage, LayoutBuilder, PagingMode, PhysAddr,
    Regions, SectionKind, VirtAddr, VirtRange, X86_64,
};

fn image() -> KernelImage {
    let at =
        |offset, size| VirtRange::new(VirtAddr::new(DEFAULT_IMAGE_START.as_u64() + offset), size);
    KernelImage::try_new(at(0, 0x40_0000), PhysAddr::new(0x100_0000))
        .unwrap()
        .with_section(SectionKind::Text, at(0, 0x12_3456))
        .with_section(SectionKind::Rodata, at(0x12_4000, 0x1_0000))
        .with_section(SectionKind::Data, at(0x20_0000, 0x1_2345))
        .with_section(SectionKind::Bss, at(0x22_0000, 0x1_0000))
        .with_section(SectionKind::InitText, at(0x30_0000, 0x2_0000))
        .with_section(SectionKind::InitData, at(0x32_0000, 0x8000))
}

fn block(mode: PagingMode, ram: u64) -> String {
    X86_64::new(mode, PhysAddr::new(ram - 1))
        .image(image())
        .build()
        .unwrap()
        .block()
        .to_string()
}

#[test]
fn four_level() {
    let expected = "\
virtual kernel memory layout:
    fixmap  : 0xffffffffff57c000 - 0xffffffffff600000   ( 528 kB)
   vsyscall : 0xffffffffff600000 - 0xffffffffff601000   (   4 kB)
    modules : 0xffffffffc0000000 - 0xffffffffff000000   (1008 MB)
  cpu_entry : 0xfffffe0000000000 - 0xfffffe8000000000   ( 512 GB)
    vmemmap : 0xffffea0000000000 - 0xffffeb0000000000   (1024 GB)
    vmalloc : 0xffffc90000000000 - 0xffffe90000000000   (  32 TB)
    lowmem  : 0xffff888000000000 - 0xffff888140000000   (5120 MB)
      .init : 0xffffffff81300000 - 0xffffffff81328000   ( 160 kB)
      .data : 0xffffffff81124000 - 0xffffffff81212345   ( 952 kB)
      .text : 0xffffffff81000000 - 0xffffffff81123456   (1165 kB)";
    assert_eq!(block(PagingMode::FourLevel, 5 << 30), expected);
}

#[test]
fn five_level() {
    let expected = "\
virtual kernel memory layout:
    fixmap  : 0xffffffffff57c000 - 0xffffffffff600000   ( 528 kB)
   vsyscall : 0xffffffffff600000 - 0xffffffffff601000   (   4 kB)
    modules : 0xffffffffc0000000 - 0xffffffffff000000   (1008 MB)
  cpu_entry : 0xfffffe0000000000 - 0xfffffe8000000000   ( 512 GB)
    vmemmap : 0xffd4000000000000 - 0xffd6000000000000   ( 512 TB)
    vmalloc : 0xffa0000000000000 - 0xffd2000000000000   (12800 TB)
    lowmem  : 0xff11000000000000 - 0xff11000004000000   (  64 MB)
      .init : 0xffffffff81300000 - 0xffffffff81328000   ( 160 kB)
      .data : 0xffffffff81124000 - 0xffffffff81212345   ( 952 kB)
      .text : 0xffffffff81000000 - 0xffffffff81123456   (1165 kB)";
    assert_eq!(block(PagingMode::FiveLevel, 64 << 20), expected);
}

#[test]
fn sizes_change_unit_at_ten() {
    let lowmem = |ram| {
        let block = block(PagingMode::FourLevel, ram);
        let line = block
            .lines()
            .find(|line| line.contains("lowmem"))
            .unwrap()
            .to_owned();
        line[line.find('(').unwrap()..].to_owned()
    };
    // The image needs 20 MiB of RAM.
    assert_eq!(lowmem(20 << 20), "(  20 MB)");
    assert_eq!(lowmem((10 << 30) - 4096), "(10239 MB)");
    assert_eq!(lowmem(10 << 30), "(  10 GB)");
    assert_eq!(lowmem((10 << 40) - 4096), "(10239 GB)");
    assert_eq!(lowmem(10 << 40), "(  10 TB)");
    assert_eq!(lowmem(64 << 40), "(  64 TB)");
}

#[test]
fn rows_for_which_there_is_nothing_are_left_out() {
    let layout = X86_64::new(PagingMode::FourLevel, PhysAddr::new(4095))
        .build()
        .unwrap();
    assert_eq!(layout.block().rows().count(), 7);
    let empty = LayoutBuilder::new(PagingMode::FourLevel, PhysAddr::ZERO)
        .build()
        .unwrap();
    assert_eq!(empty.block().to_string(), "virtual kernel memory layout:");
}

#[test]
fn an_area_that_ends_at_the_top_is_printed_with_its_true_end() {
    for (mode, start, expected) in [
        (
            PagingMode::FourLevel,
            0xffff_ffff_ffe0_0000,
            "    fixmap  : 0xffffffffffe00000 - 0x10000000000000000   (2048 kB)",
        ),
        (
            PagingMode::Pae,
            0xffe0_0000,
            "    fixmap  : 0xffe00000 - 0x100000000   (2048 kB)",
        ),
    ] {
        let range = VirtRange::new(VirtAddr::new(start), 2 << 20);
        let layout = LayoutBuilder::new(mode, PhysAddr::ZERO)
            .area(AreaKind::Fixmap, range, AreaState::Built)
            .build()
            .unwrap();
        let row = layout.block().rows().next().unwrap();
        assert_eq!(row.to_string(), expected);
        assert_eq!(row.range(), range);
    }
}

#[test]
fn each_row_claims_what_it_prints() {
    // With every base drawn, so that no row is right by being a constant.
    let fixed = Regions::fixed(PagingMode::FourLevel).unwrap();
    let up = |range: VirtRange, gib: u64, size| {
        VirtRange::new(VirtAddr::new(range.start().as_u64() + (gib << 30)), size)
    };
    let regions = Regions {
        direct_map: up(fixed.direct_map, 7, 11 << 40),
        vmalloc: up(fixed.vmalloc, 3, 32 << 40),
        vmemmap: up(fixed.vmemmap, 5, 1 << 40),
    };
    let last_ram = PhysAddr::new((6 << 30) - 1);
    let layout = X86_64::new(PagingMode::FourLevel, last_ram)
        .regions(regions)
        .image(image())
        .build()
        .unwrap();
    let mut rows = 0;
    for row in layout.block().rows() {
        let (start, end) = (row.range().start(), row.range().end_u64());
        let text = row.to_string();
        assert!(
            text.contains(&format!(" : 0x{start:016x} - 0x{end:016x}   (")),
            "{text}"
        );
        assert!(text.trim_start().starts_with(row.name()), "{text}");
        assert_eq!(text.find(':'), Some(12), "{text}");
        rows += 1;
    }
    assert_eq!(rows, 10);
    let text = layout.block().to_string();
    assert!(
        text.contains("lowmem  : 0xffff8881c0000000 - 0xffff888340000000   (6144 MB)"),
        "{text}"
    );
}
