//! The planned page sizes held against what real kernels printed, and against the rule stated page by page.

use kspace::direct_map::{self, Run, table_frames_needed};
use kspace::image::ImageMap;
use kspace_frames::{FirmwareEntry, MemoryKind, MemoryMap};
use kspace_layout::{
    KernelImage, PageSize, PagingMode, PhysAddr, PhysRange, SectionKind, VirtAddr, VirtRange,
};
use kspace_paging::{Access, Limits};
use proptest::prelude::*;

const BOOT_3_15: &str = include_str!("data/boot-3.15-8G.txt");
const BOOT_4_3: &str = include_str!("data/boot-4.3-8G.txt");

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// The inclusive bounds in `[mem 0x...-0x...]`, and what follows.
fn mem_range(text: &str) -> Option<(u64, u64, &str)> {
    let (_, rest) = text.split_once("[mem 0x")?;
    let (range, after) = rest.split_once(']')?;
    let (start, last) = range.split_once("-0x")?;
    let hex = |digits| u64::from_str_radix(digits, 16).expect("hexadecimal");
    Some((hex(start), hex(last), after.trim_start()))
}

/// The firmware's entries in a boot log, and the kernel's changes to them.
fn firmware(log: &str) -> Vec<FirmwareEntry> {
    let mut entries = Vec::new();
    for line in log.lines() {
        let kind = if line.contains("BIOS-e820: ") {
            match mem_range(line).expect("a range").2 {
                "usable" => MemoryKind::Ram,
                "reserved" => MemoryKind::Reserved,
                "ACPI data" => MemoryKind::AcpiData,
                "ACPI NVS" => MemoryKind::AcpiNvs,
                other => panic!("what is {other}?"),
            }
        } else if line.contains("e820: update ") || line.contains("e820: remove ") {
            // Both mean: not RAM, whatever the firmware says.
            MemoryKind::Reserved
        } else {
            continue;
        };
        let (start, last, _) = mem_range(line).expect("a range");
        entries.push(FirmwareEntry {
            start,
            size: last - start + 1,
            kind: kind.code(),
        });
    }
    entries
}

/// The `page 4k|2M|1G` lines of a boot log, sorted and joined where they touch and agree.
fn printed_pages(log: &str) -> Vec<(u64, u64, &str)> {
    let lines = log.lines().filter_map(mem_range);
    let mut pages: Vec<(u64, u64, &str)> = lines
        .filter_map(|(start, last, rest)| Some((start, last, rest.strip_prefix("page ")?)))
        .collect();
    pages.sort_unstable();
    pages.dedup_by(|above, below| {
        let joins = below.1 + 1 == above.0 && below.2 == above.2;
        if joins {
            below.1 = above.1;
        }
        joins
    });
    pages
}

fn check_against_boot(log: &str, lines: usize) {
    let map = MemoryMap::from_firmware(firmware(log), 46, |_| ()).expect("a real machine's map");
    let plan = direct_map::plan(&map, PagingMode::FourLevel, Limits::WIDEST);
    let planned: Vec<_> = plan
        .runs()
        .map(|run| {
            (
                run.phys.start().as_u64(),
                run.phys.last().as_u64(),
                run.page.name(),
            )
        })
        .collect();
    let printed = printed_pages(log);
    assert_eq!(printed.len(), lines, "the log was not read whole");
    assert_eq!(planned, printed);
}

#[test]
fn page_sizes_are_those_of_linux_3_15() {
    check_against_boot(BOOT_3_15, 12);
}

#[test]
fn page_sizes_are_those_of_linux_4_3() {
    check_against_boot(BOOT_4_3, 11);
}

fn map_of(ram: &[(u64, u64)]) -> MemoryMap {
    let entries = ram.iter().map(|&(start, end)| FirmwareEntry {
        start,
        size: end - start,
        kind: 1,
    });
    MemoryMap::from_firmware(entries, 52, |_| ()).expect("a usable map")
}

fn covered(runs: impl Iterator<Item = Run>, page: PageSize) -> u64 {
    runs.filter(|run| run.page == page)
        .map(|run| run.phys.size())
        .sum()
}

/// A live Linux 6.18 with RAM at 4 KiB-9fbff, 1 MiB-3 GiB and 4-25 GiB says, in /proc/meminfo: DirectMap4k 28672 kB,
/// DirectMap2M 2068480 kB, DirectMap1G 25165824 kB. That is 26 GiB on a machine with 24 GiB.
///
/// Linux counts a 1 GiB page again in each step that meets it (`phys_pud_init` increments before it looks); its steps
/// go down from the top by 2 MiB, 512 MiB, then all the rest. And after boot one 1 GiB page had been split into 2 MiB
/// pages.
#[test]
fn the_counters_of_linux_6_18_are_explained_to_the_byte() {
    let map = map_of(&[(0x1000, 0x9_fc00), (MIB, 3 * GIB), (4 * GIB, 25 * GIB)]);
    let plan = direct_map::plan(&map, PagingMode::FourLevel, Limits::WIDEST);
    let is_1g = |at: u64| {
        plan.runs()
            .any(|run| run.page == PageSize::Size1G && run.phys.contains(PhysAddr::new(at)))
    };
    // Where each of Linux's steps begins; the first ends at the end of RAM.
    let mut end = 25 * GIB;
    let mut counted_again = 0;
    for step in [2 * MIB, 512 * MIB, 128 * GIB] {
        let start = (end - 1) / step * step;
        // A step that begins inside a 1 GiB page counts it, and so does the step below.
        if !start.is_multiple_of(GIB) && is_1g(start) {
            counted_again += GIB;
        }
        end = start;
    }
    assert_eq!(counted_again, 2 * GIB);
    let split_later = GIB;
    assert_eq!(
        covered(plan.runs(), PageSize::Size1G) + counted_again - split_later,
        25_165_824 << 10
    );
    let small = covered(plan.runs(), PageSize::Size4K) + covered(plan.runs(), PageSize::Size2M);
    assert_eq!(small + split_later, (2_068_480 + 28_672) << 10);
    assert_eq!(plan.bytes(), 24 * GIB);
}

fn text_of(runs: impl Iterator<Item = Run>) -> Vec<String> {
    runs.map(|run| run.to_string()).collect()
}

#[test]
fn without_1_gib_pages_everything_large_is_2_mib() {
    let map = map_of(&[(0, 0x9_f000), (MIB, 3 * GIB), (4 * GIB, 5 * GIB)]);
    let limits = Limits::WIDEST.with_gigabyte_pages(false);
    assert_eq!(
        text_of(direct_map::plan(&map, PagingMode::FiveLevel, limits).runs()),
        [
            "[mem 0x00000000-0x001fffff] page 4k",
            "[mem 0x00200000-0xbfffffff] page 2M",
            "[mem 0x100000000-0x13fffffff] page 2M",
        ]
    );
}

#[test]
fn pae_keeps_the_first_2_mib_small_and_ends_with_low_memory() {
    let map = map_of(&[(0, 4 * GIB)]);
    let plan = direct_map::plan(&map, PagingMode::Pae, Limits::WIDEST);
    assert_eq!(
        text_of(plan.up_to(PhysAddr::new(0x377f_dfff)).runs()),
        [
            "[mem 0x00000000-0x001fffff] page 4k",
            "[mem 0x00200000-0x375fffff] page 2M",
            "[mem 0x37600000-0x377fdfff] page 4k",
        ]
    );
}

#[test]
fn two_level_paging_has_4_mib_pages_if_the_cpu_has_pse() {
    let map = map_of(&[(0, 0x9_f000), (MIB, 64 * MIB)]);
    let plan = direct_map::plan(&map, PagingMode::TwoLevel, Limits::WIDEST);
    assert_eq!(
        text_of(plan.runs()),
        [
            "[mem 0x00000000-0x003fffff] page 4k",
            "[mem 0x00400000-0x03ffffff] page 4M",
        ]
    );
    let no_pse = Limits::WIDEST.with_large_pages(false);
    assert_eq!(
        text_of(direct_map::plan(&map, PagingMode::TwoLevel, no_pse).runs()),
        ["[mem 0x00000000-0x03ffffff] page 4k"]
    );
}

#[test]
fn text_and_constants_are_read_only_and_break_up_the_pages_they_begin_in() {
    let map = map_of(&[(0, 0x9_f000), (MIB, 2 * GIB)]);
    let image = image(0x100_0000, 0x41_2000, 0x10_0000);
    let plan = direct_map::plan(&map, PagingMode::FourLevel, Limits::WIDEST).with_image(&image);
    assert_eq!(
        text_of(plan.runs()),
        [
            "[mem 0x00000000-0x001fffff] page 4k",
            "[mem 0x00200000-0x00ffffff] page 2M",
            "[mem 0x01000000-0x013fffff] page 2M read-only",
            "[mem 0x01400000-0x01511fff] page 4k read-only",
            "[mem 0x01512000-0x015fffff] page 4k",
            "[mem 0x01600000-0x3fffffff] page 2M",
            "[mem 0x40000000-0x7fffffff] page 1G",
        ]
    );
}

#[test]
fn one_page_holds_text_and_constants_because_both_are_read_only() {
    let map = map_of(&[(0, 0x9_f000), (MIB, 64 * MIB)]);
    let image = image(0x100_0000, 0x10_0000, 0x10_0000);
    let plan = direct_map::plan(&map, PagingMode::FourLevel, Limits::WIDEST).with_image(&image);
    assert_eq!(
        text_of(plan.runs()),
        [
            "[mem 0x00000000-0x001fffff] page 4k",
            "[mem 0x00200000-0x00ffffff] page 2M",
            "[mem 0x01000000-0x011fffff] page 2M read-only",
            "[mem 0x01200000-0x03ffffff] page 2M",
        ]
    );
}

/// An image at `phys` with text, constants right after it, and data.
fn image(phys: u64, text: u64, rodata: u64) -> ImageMap {
    let start = VirtAddr::new(0xffff_ffff_8100_0000);
    let at =
        |offset: u64, size: u64| VirtRange::new(start.checked_add(offset).expect("fits"), size);
    let image = KernelImage::try_new(at(0, text + rodata + 0x3000), PhysAddr::new(phys))
        .expect("a sound image")
        .with_section(SectionKind::Text, at(0, text))
        .with_section(SectionKind::Rodata, at(text, rodata))
        .with_section(SectionKind::Data, at(text + rodata, 0x3000));
    ImageMap::try_new(&image).expect("sections on pages")
}

/// A machine of up to 8 GiB whose RAM has holes at odd places.
fn machines() -> impl Strategy<Value = MemoryMap> {
    let edge = prop_oneof![
        (0_u64..64).prop_map(|n| n * GIB / 8),
        (0_u64..4096).prop_map(|n| n * 2 * MIB),
        (0_u64..64, 0_u64..1024).prop_map(|(n, page)| n * GIB / 8 + page * 4096),
        (0_u64..2048).prop_map(|page| page * 4096),
    ];
    prop::collection::vec(edge, 1..9).prop_filter_map("needs low RAM", |mut edges| {
        edges.sort_unstable();
        let ram = edges.chunks_exact(2).map(|pair| (pair[0], pair[1]));
        let entries = ram.map(|(start, end)| FirmwareEntry {
            start,
            size: end - start,
            kind: 1,
        });
        MemoryMap::from_firmware(entries, 52, |_| ()).ok()
    })
}

/// The rule, stated for one address: the largest page that is RAM throughout and has one access, and not in the part
/// that must be small.
fn page_by_rule(
    map: &MemoryMap,
    mode: PagingMode,
    sizes: &[PageSize],
    ro: &[PhysRange],
    at: u64,
) -> Option<PageSize> {
    let first_mib = at < MIB;
    let small_below = if mode.virt_bits() > 32 {
        MIB
    } else {
        sizes.last()?.bytes()
    };
    let block =
        |page: PageSize| PhysRange::new(PhysAddr::new(at & !(page.bytes() - 1)), page.bytes());
    if !first_mib && !map.is_ram(block(PageSize::Size4K)) {
        return None;
    }
    let fits = |page: &PageSize| {
        let block = block(*page);
        let one_access = ro
            .iter()
            .all(|ro| !ro.overlaps(block) || ro.contains_range(block));
        let wide_enough = block.start().as_u64() >= small_below;
        *page == PageSize::Size4K || (wide_enough && one_access && map.is_ram(block))
    };
    sizes.iter().rev().copied().find(|page| fits(page))
}

proptest! {
    #[test]
    fn every_address_gets_the_largest_page_of_ram_around_it(
        map in machines(),
        image_at in prop_oneof![Just(None), (0_u64..4096).prop_map(|n| Some(n * 0x7_f000))],
        text in 1_u64..1200,
        mode in prop::sample::select(&PagingMode::ALL),
        gigabyte in any::<bool>(),
        probes in prop::collection::vec(0_u64..(9 * GIB / 4096), 64),
    ) {
        let limits = Limits::WIDEST.with_gigabyte_pages(gigabyte);
        let sizes: &[PageSize] = match mode {
            PagingMode::TwoLevel => &[PageSize::Size4K, PageSize::Size4M],
            PagingMode::Pae => &[PageSize::Size4K, PageSize::Size2M],
            _ if gigabyte => &[PageSize::Size4K, PageSize::Size2M, PageSize::Size1G],
            _ => &[PageSize::Size4K, PageSize::Size2M],
        };
        let image = image_at.map(|phys| image(phys, text * 4096, 0x3000));
        let mut plan = direct_map::plan(&map, mode, limits);
        // Where the image's text and constants lie, and what the direct map may do there.
        let mut special = Vec::new();
        if let Some((image, at)) = image.as_ref().zip(image_at) {
            plan = plan.with_image(image);
            let long = mode.upper_half_start().is_some();
            let text_access = if long { Access::ReadOnly } else { Access::ReadExecute };
            special.push((PhysRange::new(PhysAddr::new(at), text * 4096), text_access));
            special.push((PhysRange::new(PhysAddr::new(at + text * 4096), 0x3000), Access::ReadOnly));
            if long {
                special = vec![(PhysRange::new(PhysAddr::new(at), text * 4096 + 0x3000), Access::ReadOnly)];
            }
        }
        let ranges: Vec<PhysRange> = special.iter().map(|(range, _)| *range).collect();
        let runs: Vec<Run> = plan.runs().collect();
        for pair in runs.windows(2) {
            prop_assert!(pair[0].phys.last() < pair[1].phys.start());
            let alike = pair[0].page == pair[1].page && pair[0].access == pair[1].access;
            prop_assert!(!alike || pair[0].phys.end_u64() != pair[1].phys.start().as_u64(), "not joined");
        }
        // The probes, and every address at which something changes, with its neighbours.
        let edges = runs.iter().flat_map(|run| [run.phys.start().as_u64(), run.phys.last().as_u64()]);
        let ram_edges = map.ram().flat_map(|ram| [ram.start().as_u64(), ram.last().as_u64()]);
        let around = edges.chain(ram_edges).flat_map(|at| [at.saturating_sub(4096), at, at + 4096]);
        for at in around.chain(probes.into_iter().map(|page| page * 4096)) {
            let found = runs.iter().find(|run| run.phys.contains(PhysAddr::new(at)));
            let page = found.map(|run| run.page);
            prop_assert_eq!(page, page_by_rule(&map, mode, sizes, &ranges, at), "at {:x}", at);
            if let Some(run) = found {
                prop_assert!(run.phys.is_aligned(run.page.bytes()));
                let here = special.iter().find(|(range, _)| range.contains(PhysAddr::new(at)));
                let access = here.map_or(Access::ReadWrite, |(_, access)| *access);
                prop_assert_eq!(run.access, access, "at {:x}", at);
            }
        }
    }

    #[test]
    fn table_frames_are_the_distinct_tables_on_the_way_to_each_leaf(
        map in machines(),
        mode in prop::sample::select(&PagingMode::ALL[2..]),
        base in 0_u64..2048,
        gigabyte in any::<bool>(),
    ) {
        let base = VirtAddr::new(0xffff_8880_0000_0000 + base * GIB);
        let plan = direct_map::plan(&map, mode, Limits::WIDEST.with_gigabyte_pages(gigabyte));
        let mut tables = std::collections::BTreeSet::new();
        for run in plan.runs() {
            let leaf = mode.leaf_level(run.page).expect("a page of the mode");
            let mut at = run.phys.start().as_u64();
            while at <= run.phys.last().as_u64() {
                for level in leaf..mode.levels() {
                    tables.insert((level, (base.as_u64() + at) >> mode.level_shift(level + 1)));
                }
                // Smaller steps would meet no other table.
                at += run.page.bytes().max(2 * MIB) - (at & (2 * MIB - 1)) % run.page.bytes().max(2 * MIB);
            }
        }
        prop_assert_eq!(table_frames_needed(&plan, base), tables.len() as u64);
    }
}

/// A direct map of 5 GiB in 1 GiB pages: one table for the first 2 MiB, one for the first GiB, one above.
#[test]
fn five_gib_take_three_tables() {
    let map = map_of(&[(0, 0x9_f000), (MIB, 3 * GIB), (4 * GIB, 6 * GIB)]);
    let base = VirtAddr::new(0xffff_8880_0000_0000);
    let plan = direct_map::plan(&map, PagingMode::FourLevel, Limits::WIDEST);
    assert_eq!(table_frames_needed(&plan, base), 3);
    let without = Limits::WIDEST.with_gigabyte_pages(false);
    let plan = direct_map::plan(&map, PagingMode::FourLevel, without);
    assert_eq!(table_frames_needed(&plan, base), 1 + 5 + 1);
}
