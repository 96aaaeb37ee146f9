//! Our i386 block beside the ones that real kernels printed: `data/i386-*.txt`, each with its source in the first line.

use kspace_layout::{
    AreaKind, AreaState, I386, KernelImage, Layout, LayoutBuilder, PagingMode, PhysAddr,
    SectionKind, Split, VirtAddr, VirtRange,
};

/// A boot log, and what of it a test needs.
struct Log {
    text: &'static str,
    mode: PagingMode,
}

const LINUX_2_6_32: Log = Log {
    text: include_str!("data/i386-2.6.32-el6-pae-1016M.txt"),
    mode: PagingMode::Pae,
};
const LINUX_2_6_38: Log = Log {
    text: include_str!("data/i386-2.6.38-ubuntu-nonpae-2G.txt"),
    mode: PagingMode::TwoLevel,
};
const LINUX_3_13: Log = Log {
    text: include_str!("data/i386-3.13-rc8-1G-pae-nohighmem-255M.txt"),
    mode: PagingMode::Pae,
};
const LINUX_4_13: Log = Log {
    text: include_str!("data/i386-4.13-ubuntu-kpti-pae-6G-kaslr.txt"),
    mode: PagingMode::Pae,
};
const LINUX_4_14: Log = Log {
    text: include_str!("data/i386-4.14-1G-nonpae-319M.txt"),
    mode: PagingMode::TwoLevel,
};
const LINUX_4_15: Log = Log {
    text: include_str!("data/i386-4.15-rc8-nonpae-2G-qemu.txt"),
    mode: PagingMode::TwoLevel,
};
const LINUX_5_4: Log = Log {
    text: include_str!("data/i386-5.4.83-rosa-pae-1014M.txt"),
    mode: PagingMode::Pae,
};

impl Log {
    /// The block as Linux wrote it, without time stamps. Some logs have a stamp on each line, some (one record of
    /// several lines) only on the first and as many blanks on the others, some have none.
    fn block(&self) -> String {
        const HEADING: &str = "virtual kernel memory layout:";
        let mut lines = self
            .text
            .lines()
            .skip_while(|line| !line.ends_with(HEADING));
        let first = lines.next().expect("a block");
        let stamp = first.len() - HEADING.len();
        let rows = lines
            .take_while(|line| line.ends_with("B)"))
            .map(|line| &line[stamp..]);
        [HEADING]
            .into_iter()
            .chain(rows)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// The range of the row with this name.
    fn row(&self, name: &str) -> Option<VirtRange> {
        let block = self.block();
        let row = block
            .lines()
            .find(|line| line.trim_start().starts_with(&format!("{name} ")))?;
        let numbers: Vec<u64> = row
            .split_whitespace()
            .filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
            .collect();
        Some(VirtRange::new(
            VirtAddr::new(numbers[0]),
            numbers[1] - numbers[0],
        ))
    }

    /// The last byte of RAM, from `last_pfn = `.
    fn last_ram(&self) -> PhysAddr {
        let (_, after) = self.text.split_once("last_pfn = 0x").expect("last_pfn");
        let pfn = u64::from_str_radix(after.split(' ').next().unwrap(), 16).unwrap();
        PhysAddr::new(pfn * 4096 - 1)
    }

    /// The image that the last three rows describe, mapped at the start of lowmem.
    fn image(&self) -> KernelImage {
        let [text, data, init] = [".text", ".data", ".init"].map(|name| self.row(name).unwrap());
        let last = data.last().max(init.last());
        let virt = VirtRange::try_from_bounds(text.start(), last).unwrap();
        let phys = text
            .start()
            .offset_from(self.row("lowmem").unwrap().start())
            .unwrap();
        KernelImage::try_new(virt, PhysAddr::new(phys))
            .unwrap()
            .with_section(SectionKind::Text, text)
            .with_section(SectionKind::Data, data)
            .with_section(SectionKind::InitData, init)
    }

    /// A layout with the addresses of the rows, whatever rules the kernel placed them by.
    fn copied(&self) -> Layout {
        let mut builder = LayoutBuilder::new(self.mode, self.last_ram());
        for (name, kind) in [
            ("fixmap", AreaKind::Fixmap),
            ("cpu_entry", AreaKind::CpuEntry),
            ("pkmap", AreaKind::Pkmap),
            ("vmalloc", AreaKind::Vmalloc),
            ("lowmem", AreaKind::DirectMap),
        ] {
            if let Some(range) = self.row(name) {
                builder = builder.area(kind, range, AreaState::Built);
            }
        }
        builder.image(self.image()).build().unwrap()
    }
}

#[test]
fn the_text_is_that_of_every_kernel_that_printed_it() {
    for (log, rows) in [
        (LINUX_2_6_32, 7),
        (LINUX_2_6_38, 7),
        (LINUX_3_13, 6),
        (LINUX_4_13, 8),
        (LINUX_4_14, 7),
        (LINUX_4_15, 8),
        (LINUX_5_4, 8),
    ] {
        let printed = log.block();
        assert_eq!(printed.lines().count(), 1 + rows, "{printed}");
        assert_eq!(log.copied().block().to_string(), printed);
    }
}

#[test]
fn linux_5_4_is_reproduced_from_its_configuration_and_memory() {
    let log = LINUX_5_4;
    // What the configuration decides: the number of permanent slots (which is all the fixmap's row shows), the number of CPUs
    // (setup_percpu), the size of struct cpu_entry_area, and where the image was linked. All else follows.
    let slots = log.row("fixmap").unwrap().size() / 4096;
    assert!(log.text.contains("setup_percpu: NR_CPUS:8 "));
    let layout = I386::new(Split::ThreeG, PagingMode::Pae, log.last_ram())
        .permanent_fixmap_slots(slots as u32)
        .cpus(8)
        .cpu_entry_pages(39)
        .image(log.image())
        .build()
        .unwrap();
    assert_eq!(layout.block().to_string(), log.block());

    // Other lines of the same boot say how much of RAM is lowmem.
    let lowmem = layout.direct_mapped().unwrap();
    assert!(
        log.text
            .contains(&format!("  low ram: 0 - {:08x}\n", lowmem.end_u64()))
    );
    assert!(
        log.text
            .contains(&format!(" {}MB LOWMEM available.", lowmem.size() >> 20))
    );
    let highmem = layout.last_ram().as_u64() - lowmem.last().as_u64();
    assert!(
        log.text
            .contains(&format!(" {}MB HIGHMEM available.", highmem >> 20))
    );
}

#[test]
fn each_row_is_a_line_of_its_own() {
    let layout = LINUX_5_4.copied();
    let lines: Vec<String> = layout.block().rows().map(|row| row.to_string()).collect();
    let block = LINUX_5_4.block();
    assert_eq!(lines, block.lines().skip(1).collect::<Vec<_>>());
    let names: Vec<&str> = layout.block().rows().map(|row| row.name()).collect();
    let expected = [
        "fixmap",
        "cpu_entry",
        "pkmap",
        "vmalloc",
        "lowmem",
        ".init",
        ".data",
        ".text",
    ];
    assert_eq!(names, expected);
}
