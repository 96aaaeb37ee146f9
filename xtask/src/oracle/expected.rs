//! The third reading: which pages there should be, from the log's memory map and block, the ELF file, and the layout's rules.
//!
//! What a boot draws (addresses under KASLR) is taken from its log; everything else is computed here, by the library's pure parts
//! and never by the code that edited the tables:
//!
//! ```text
//!   direct map     kspace::direct_map::plan of the printed memory map, at the printed base
//!   image          the ELF file's sections at the printed address, code, constants and variables apart
//!   CPU entry      the IDT and each CPU's parts; which frames back them is the kernel's choice, but none may back two
//!   fixmap         the registers of the local APIC and of the I/O APIC, uncached
//!   vmemmap        pages for the books on the RAM of the memory map, from the library's plan; frames are the kernel's choice
//!   vmalloc        the CPUs' stacks, one each, where the log says that the areas are; likewise
//!   elsewhere      nothing
//! ```

use std::collections::BTreeSet;

use kspace::direct_map::plan;
use kspace::image::ImageMap;
use kspace::vmemmap;
use kspace_frames::zone::{Nodes, VmemmapPlan, ZoneLimits};
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_layout::{
    AreaKind, EntryPart, FRAME_SIZE, FixmapSlot, Layout, PageSize, PagingMode, PhysAddr, PhysRange,
    Regions, RowKind, VirtAddr, VirtRange, X86_64,
};
use kspace_paging::{Access, CacheType, Limits, Protection};

use super::Configuration;
use super::walked::WalkedPage;
use crate::failure::{Failure, Result};
use crate::kernel::Kernel;

/// Where the local APIC's registers are after reset (Intel SDM vol. 3, section 12.4.1).
const LOCAL_APIC: u64 = 0xfee0_0000;
/// Where a PC's only I/O APIC has its registers (QEMU: `IO_APIC_DEFAULT_ADDRESS`).
const IO_APIC: u64 = 0xfec0_0000;

/// A page that should be mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExpectedPage {
    virt: VirtAddr,
    /// Where it leads; `None` where the kernel chooses a frame of RAM.
    phys: Option<PhysAddr>,
    size: PageSize,
    protection: Protection,
    what: String,
}

/// Every page that `configuration`, booted with this log, should have, in ascending order of address.
///
/// # Errors
///
/// When the log lacks something or contradicts the layout.
pub(super) fn pages(
    configuration: &Configuration,
    mode: PagingMode,
    log: &str,
    kernel: &Kernel,
) -> Result<Vec<ExpectedPage>> {
    let (levels, asked) = (mode.levels(), if configuration.five_level { 5 } else { 4 });
    if levels != asked {
        return Err(Failure::failed(format!(
            "the CPU walks {levels} levels, not {asked}"
        )));
    }
    let map = memory_map(log)?;
    let layout = layout(configuration, mode, log, &map, kernel)?;
    let limits = Limits::WIDEST.with_gigabyte_pages(configuration.gigabyte_pages);

    let mut pages = Vec::new();
    direct_map(&layout, &map, limits, &mut pages)?;
    image(&layout, &mut pages)?;
    cpu_entry(&layout, configuration.cpus, &mut pages)?;
    fixmap(&layout, &mut pages);
    books(&layout, &map, configuration.cpus, &mut pages)?;
    stacks(log, configuration.cpus, &mut pages)?;
    pages.sort_by_key(|page| page.virt);
    Ok(pages)
}

/// Reads the log's lines `BIOS-e820: [mem 0x…-0x…] usable`.
fn memory_map(log: &str) -> Result<MemoryMap> {
    let entries: Vec<FirmwareEntry> = log.lines().filter_map(e820).collect();
    let map = MemoryMap::from_firmware(entries, 52, |_| {}).and_then(|mut map| {
        // The kernel leaves the first page to nobody.
        map.withdraw(PhysRange::new(PhysAddr::ZERO, FRAME_SIZE))?;
        Ok(map)
    });
    map.map_err(|error| Failure::failed(format!("the log's memory map: {error}")))
}

fn e820(line: &str) -> Option<FirmwareEntry> {
    let (range, kind) = line.split_once("BIOS-e820: [mem 0x")?.1.split_once("] ")?;
    let (start, last) = range.split_once("-0x")?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let (start, last) = (number(start)?, number(last)?);
    // Only RAM matters for what is mapped; every other kind is as good as reserved.
    let kind = if kind.trim() == "usable" { 1 } else { 2 };
    Some(FirmwareEntry {
        start,
        size: last.checked_sub(start)?.checked_add(1)?,
        kind,
    })
}

/// The layout that the log's block describes. Its own block must come out the same, line for line.
fn layout(
    configuration: &Configuration,
    mode: PagingMode,
    log: &str,
    map: &MemoryMap,
    kernel: &Kernel,
) -> Result<Layout> {
    let text = row(log, ".text")?;
    let image = kernel.image_at(text.start())?;
    let mut parameters = X86_64::new(mode, map.ram_last()).image(image);
    if configuration.kaslr {
        parameters = parameters.regions(regions(log, map)?);
    }
    let layout = parameters
        .build()
        .map_err(|error| Failure::failed(format!("the log's block is no layout: {error}")))?;
    for expected in layout.block().rows() {
        let (found, expected) = (printed_row(log, expected.name())?, expected.to_string());
        if found != expected {
            return Err(Failure::failed(format!(
                "the block: the kernel printed \"{found}\", the layout prints \"{expected}\""
            )));
        }
    }
    Ok(layout)
}

/// The areas that KASLR moved. The block prints how much of the direct map is in use, not how much is reserved for it: that is RAM
/// in whole TiB and, as in Linux, 10 TiB for memory that is plugged in (`CONFIG_RANDOMIZE_MEMORY_PHYSICAL_PADDING`).
fn regions(log: &str, map: &MemoryMap) -> Result<Regions> {
    let reserved = map.ram_end_u64().next_multiple_of(1 << 40) + (10 << 40);
    let direct_map = VirtRange::try_new(row(log, RowKind::Lowmem.name())?.start(), reserved)
        .map_err(|error| Failure::failed(error.to_string()))?;
    Ok(Regions {
        direct_map,
        vmalloc: row(log, AreaKind::Vmalloc.name())?,
        vmemmap: row(log, AreaKind::Vmemmap.name())?,
    })
}

/// The block's row of this name, without the time before it.
fn printed_row<'a>(log: &'a str, name: &str) -> Result<&'a str> {
    let rows = log
        .lines()
        .skip_while(|line| !line.contains(kspace_layout::Block::HEADING))
        .skip(1);
    rows.take(10)
        .map(|line| line.split_once("] ").map_or(line, |(_, text)| text))
        .find(|line| line.trim_start().split(' ').next() == Some(name))
        .ok_or_else(|| Failure::failed(format!("the log's block has no row {name}")))
}

/// The range in that row.
fn row(log: &str, name: &str) -> Result<VirtRange> {
    let line = printed_row(log, name)?;
    parse_row(line).ok_or_else(|| Failure::failed(format!("the log's block: not a range: {line}")))
}

fn parse_row(line: &str) -> Option<VirtRange> {
    let (start, rest) = line.split_once(": 0x")?.1.split_once(" - 0x")?;
    let end = rest.split_whitespace().next()?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let start = VirtAddr::try_new(number(start)?).ok()?;
    VirtRange::try_from_bounds(start, VirtAddr::try_new(number(end)?.wrapping_sub(1)).ok()?).ok()
}

fn direct_map(
    layout: &Layout,
    map: &MemoryMap,
    limits: Limits,
    pages: &mut Vec<ExpectedPage>,
) -> Result {
    let base = layout
        .phys_to_virt(PhysAddr::ZERO)
        .map_err(|error| Failure::failed(format!("the layout's direct map: {error}")))?;
    let image = image_map(layout)?;
    for run in plan(map, layout.mode(), limits).with_image(&image).runs() {
        let what = format!("direct map of {}", run.phys);
        for offset in (0..run.phys.size()).step_by(run.page.bytes() as usize) {
            let phys = run.phys.start().checked_add(offset);
            let virt = phys.and_then(|phys| base.checked_add(phys.as_u64()));
            let (Ok(phys), Ok(virt)) = (phys, virt) else {
                return Err(Failure::failed(format!("{what}: leaves the address space")));
            };
            pages.push(ExpectedPage {
                virt,
                phys: Some(phys),
                size: run.page,
                protection: Protection::kernel(run.access),
                what: what.clone(),
            });
        }
    }
    Ok(())
}

fn image_map(layout: &Layout) -> Result<ImageMap> {
    let image = layout
        .image()
        .ok_or_else(|| Failure::failed("the layout has no image"))?;
    ImageMap::try_new(image).map_err(|error| Failure::failed(error.to_string()))
}

/// The image's pages: 2 MiB where addresses and sections allow, else 4 KiB.
fn image(layout: &Layout, pages: &mut Vec<ExpectedPage>) -> Result {
    let large = PageSize::Size2M.bytes();
    for run in image_map(layout)?.runs() {
        let mut offset = 0;
        while offset < run.virt.size() {
            let (Ok(virt), Ok(phys)) = (
                run.virt.start().checked_add(offset),
                run.phys.checked_add(offset),
            ) else {
                return Err(Failure::failed("the image leaves the address space"));
            };
            let fits = virt.is_aligned(large)
                && phys.is_aligned(large)
                && run.virt.size() - offset >= large;
            let size = if fits {
                PageSize::Size2M
            } else {
                PageSize::Size4K
            };
            pages.push(ExpectedPage {
                virt,
                phys: Some(phys),
                size,
                protection: Protection::kernel(run.access),
                what: format!("image, {}", run.access),
            });
            offset += size.bytes();
        }
    }
    Ok(())
}

fn cpu_entry(layout: &Layout, cpus: u32, pages: &mut Vec<ExpectedPage>) -> Result {
    let area = layout
        .cpu_entry()
        .ok_or_else(|| Failure::failed("the layout has no CPU entry area"))?;
    let mut add = |range: VirtRange, access, what: String| {
        pages.extend(four_kib(range).map(|virt| ExpectedPage {
            virt,
            phys: None,
            size: PageSize::Size4K,
            protection: Protection::kernel(access),
            what: what.clone(),
        }));
    };
    add(area.idt(), Access::ReadOnly, "the IDT".to_owned());
    for cpu in 0..cpus {
        for part in EntryPart::of(cpu) {
            if let Some(range) = area.part(cpu, part) {
                let access = if part.writable() {
                    Access::ReadWrite
                } else {
                    Access::ReadOnly
                };
                add(range, access, format!("CPU {cpu}'s {part}"));
            }
        }
    }
    Ok(())
}

fn fixmap(layout: &Layout, pages: &mut Vec<ExpectedPage>) {
    let slots = [
        (FixmapSlot::LocalApic, LOCAL_APIC),
        (FixmapSlot::IoApic(0), IO_APIC),
    ];
    for (slot, registers) in slots {
        let page = layout.fixmap().and_then(|fixmap| fixmap.address(slot));
        pages.extend(page.map(|virt| ExpectedPage {
            virt,
            phys: Some(PhysAddr::new(registers)),
            size: PageSize::Size4K,
            protection: Protection::KERNEL_DATA.with_cache(CacheType::Uncached),
            what: format!("the fixmap slot of the {slot}"),
        }));
    }
}

/// The pages that hold the frame allocators' books.
fn books(layout: &Layout, map: &MemoryMap, cpus: u32, pages: &mut Vec<ExpectedPage>) -> Result {
    let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("the books: {error}"));
    let area = layout.area(AreaKind::Vmemmap);
    let start = area.ok_or_else(|| failed(&"no vmemmap"))?.range().start();
    let (limits, nodes) = (ZoneLimits::x86_64(), Nodes::new(map, &[], |_| {}));
    let nodes = nodes.map_err(|error| failed(&error))?;
    let arranged = vmemmap::arrange(layout, &nodes, &limits, &[], cpus as usize);
    let arranged = arranged.map_err(|error| failed(&error))?;
    for run in VmemmapPlan::new(&arranged, &nodes, PageSize::Size2M).runs() {
        for page in 0..run.pages() {
            let offset = run.offset() + page * run.page().bytes();
            pages.push(ExpectedPage {
                virt: start.checked_add(offset).map_err(|error| failed(&error))?,
                phys: None,
                size: run.page(),
                protection: Protection::KERNEL_DATA,
                what: "books on frames".to_owned(),
            });
        }
    }
    Ok(())
}

/// The stacks that the CPUs run on, from the log's `vmallocinfo`, in which there must be nothing else.
fn stacks(log: &str, cpus: u32, pages: &mut Vec<ExpectedPage>) -> Result {
    let rows = log
        .lines()
        .skip_while(|line| !line.ends_with("vmallocinfo:"));
    let rows: Vec<&str> = rows.filter(|line| line.contains("] 0x")).collect();
    if rows.len() != cpus as usize {
        return Err(Failure::failed(format!(
            "the log has {} areas, not one stack for each of {cpus} CPUs",
            rows.len()
        )));
    }
    for row in rows {
        let range = stack(row).ok_or_else(|| Failure::failed(format!("no stack: {row}")))?;
        pages.extend(four_kib(range).map(|virt| ExpectedPage {
            virt,
            phys: None,
            size: PageSize::Size4K,
            protection: Protection::KERNEL_DATA,
            what: "a stack".to_owned(),
        }));
    }
    Ok(())
}

/// What `0xffffc90000000000-0xffffc90000005000   20480 kernel/src/… pages=4 vmalloc stack N0=4` has mapped: 16 KiB (Linux: `THREAD_SIZE`);
/// the page behind is its guard.
fn stack(row: &str) -> Option<VirtRange> {
    let (start, rest) = row.split_once("] 0x")?.1.split_once("-0x")?;
    let (end, rest) = rest.split_once(' ')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = (number(start)?, number(end)?);
    let sound = rest.contains(" pages=4 vmalloc stack N") && end.checked_sub(start)? == 0x5000;
    let start = VirtAddr::try_new(start).ok().filter(|_| sound)?;
    VirtRange::try_new(start, 0x4000).ok()
}

fn four_kib(range: VirtRange) -> impl Iterator<Item = VirtAddr> {
    // Every page of a range of whole pages begins inside it.
    (0..range.size())
        .step_by(FRAME_SIZE as usize)
        .filter_map(move |offset| range.start().checked_add(offset).ok())
}

/// Compares the third reading with the second.
///
/// # Errors
///
/// The first page in which they differ.
pub(super) fn same_pages(expected: &[ExpectedPage], walked: &[WalkedPage]) -> Result {
    let mut chosen = BTreeSet::new();
    let mut walked = walked.iter().peekable();
    for page in expected {
        if let Some(stray) = walked.next_if(|found| found.leaf.virt < page.virt.as_u64()) {
            return Err(stray_page(stray));
        }
        let found = walked.next_if(|found| found.leaf.virt == page.virt.as_u64());
        let Some(found) = found else {
            return Err(Failure::failed(format!(
                "{} ({}) is not mapped",
                page.virt, page.what
            )));
        };
        let phys_agrees = match page.phys {
            Some(phys) => phys.as_u64() == found.leaf.phys,
            None => chosen.insert(found.leaf.phys),
        };
        if !phys_agrees || found.size != page.size || !found.attributes.grants(page.protection) {
            let phys = page
                .phys
                .map_or("a frame of its own".to_owned(), |phys| phys.to_string());
            return Err(Failure::failed(format!(
                "{} ({}) should be {} at {phys}, {:?}; it is {} at {:016x}, {}",
                page.virt,
                page.what,
                page.size,
                page.protection,
                found.size,
                found.leaf.phys,
                found.attributes
            )));
        }
    }
    walked.next().map_or(Ok(()), |stray| Err(stray_page(stray)))
}

fn stray_page(page: &WalkedPage) -> Failure {
    Failure::failed(format!(
        "{:016x} should not be mapped; it is {} at {:016x}, {}",
        page.leaf.virt, page.size, page.leaf.phys, page.attributes
    ))
}

#[cfg(test)]
mod tests {
    use super::super::tlb::Leaf;
    use super::*;
    use kspace_paging::Attributes;

    const BASE: u64 = 0xffff_8880_0000_0000;

    fn expected(number: u64, phys: Option<u64>) -> ExpectedPage {
        ExpectedPage {
            virt: VirtAddr::new(BASE + number * FRAME_SIZE),
            phys: phys.map(PhysAddr::new),
            size: PageSize::Size4K,
            protection: Protection::KERNEL_DATA,
            what: "a test".to_owned(),
        }
    }

    fn walked(number: u64, phys: u64) -> WalkedPage {
        let attributes = Attributes {
            write: true,
            user: false,
            execute: false,
            global: true,
            cache: CacheType::WriteBack,
            accessed: true,
            dirty: false,
        };
        let leaf = Leaf {
            virt: BASE + number * FRAME_SIZE,
            phys,
            flags: 0,
        };
        WalkedPage {
            leaf,
            size: PageSize::Size4K,
            attributes,
        }
    }

    #[track_caller]
    fn differ(expected: &[ExpectedPage], walked: &[WalkedPage], message: &str) {
        assert_eq!(same_pages(expected, walked).unwrap_err().message(), message);
    }

    #[test]
    fn equal_pages_agree_and_history_does_not_count() {
        let mut used = walked(1, 0x2000);
        used.attributes.dirty = true;
        let expected = [expected(0, Some(0x1000)), expected(1, None)];
        assert_eq!(same_pages(&expected, &[walked(0, 0x1000), used]), Ok(()));
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let want = [
            expected(1, Some(0x1000)),
            expected(2, None),
            expected(3, None),
        ];
        let have = [walked(1, 0x1000), walked(2, 0x5000), walked(3, 0x6000)];
        let with = |index: usize, page: WalkedPage| {
            let mut pages = have.to_vec();
            pages[index] = page;
            pages
        };
        differ(&want, &have[..2], "ffff888000003000 (a test) is not mapped");
        differ(
            &want[..2],
            &have,
            "ffff888000003000 should not be mapped; it is 4k at 0000000000006000, rw- supervisor global write-back",
        );
        differ(
            &want[1..],
            &have,
            "ffff888000001000 should not be mapped; it is 4k at 0000000000001000, rw- supervisor global write-back",
        );
        let start = "ffff888000001000 (a test) should be 4k at 0000000000001000, ";
        for (change, found) in [
            (
                (|page| page.leaf.phys = 0x7000) as fn(&mut WalkedPage),
                "4k at 0000000000007000, rw- supervisor global write-back",
            ),
            (
                |page| page.size = PageSize::Size2M,
                "2M at 0000000000001000, rw- supervisor global write-back",
            ),
            (
                |page| page.attributes.execute = true,
                "4k at 0000000000001000, rwx supervisor global write-back",
            ),
            (
                |page| page.attributes.global = false,
                "4k at 0000000000001000, rw- supervisor write-back",
            ),
        ] {
            let mut page = have[0];
            change(&mut page);
            let message = same_pages(&want, &with(0, page)).unwrap_err();
            let message = message.message();
            assert!(
                message.starts_with(start) && message.ends_with(&format!("; it is {found}")),
                "{message}"
            );
        }
        // One frame behind two pages that should each have their own.
        let message = same_pages(&want, &with(2, walked(3, 0x5000))).unwrap_err();
        assert!(
            message
                .message()
                .starts_with("ffff888000003000 (a test) should be 4k at a frame of its own")
        );
    }

    #[test]
    fn memory_map_lines_are_read_as_linux_prints_them() {
        let line = "[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable";
        assert_eq!(
            e820(line),
            Some(FirmwareEntry {
                start: 0,
                size: 0x9fc00,
                kind: 1
            })
        );
        let line = "BIOS-e820: [mem 0x00000000fffc0000-0x00000000ffffffff] ACPI data";
        assert_eq!(
            e820(line),
            Some(FirmwareEntry {
                start: 0xfffc_0000,
                size: 0x4_0000,
                kind: 2
            })
        );
        assert_eq!(e820("BIOS-provided physical RAM map:"), None);
    }

    #[test]
    fn rows_of_the_block_are_found_by_name() {
        let log = "\
[    0.1] vmalloc : not yet
[    0.1] virtual kernel memory layout:
[    0.1]     fixmap  : 0xffffffffff57c000 - 0xffffffffff600000   ( 528 kB)
[    0.1]     vmalloc : 0xffffc90000000000 - 0xffffe90000000000   (  32 TB)
";
        let vmalloc = row(log, "vmalloc").unwrap();
        assert_eq!(vmalloc.to_string(), "ffffc90000000000-ffffe8ffffffffff");
        assert_eq!(
            row(log, "vmemmap").unwrap_err().to_string(),
            "kspace: the log's block has no row vmemmap"
        );
    }
}
