//! Our x86-64 layouts beside Linux's documentation and beside the page tables of running Linux kernels.

use kspace_layout::{
    AreaKind, Fixmap, FixmapSlot, Kaslr, Layout, PagingMode, PhysAddr, Place, Regions, VirtAddr,
    VirtRange, X86_64,
};

fn layout(mode: PagingMode) -> Layout {
    X86_64::new(mode, PhysAddr::new((512 << 20) - 1))
        .build()
        .unwrap()
}

/// The rows of `Documentation/arch/x86/x86_64/mm.rst`, inclusive ends, with modules behind a window of 1 GiB, as in a kernel that
/// may move its image. The document leaves the fixmap's start open; it and the early slots are from the dumps below.
const UPPER_4: &str = "
    0000000000000000 00007fffffffffff user
    ffff800000000000 ffff87ffffffffff guard hole
    ffff880000000000 ffff887fffffffff LDT remap
    ffff888000000000 ffffc87fffffffff direct map
    ffffc88000000000 ffffc8ffffffffff
    ffffc90000000000 ffffe8ffffffffff vmalloc
    ffffe90000000000 ffffe9ffffffffff
    ffffea0000000000 ffffeaffffffffff vmemmap
    ffffeb0000000000 ffffebffffffffff
    ffffec0000000000 fffffbffffffffff KASAN shadow";
const UPPER_5: &str = "
    0000000000000000 00ffffffffffffff user
    ff00000000000000 ff0fffffffffffff guard hole
    ff10000000000000 ff10ffffffffffff LDT remap
    ff11000000000000 ff90ffffffffffff direct map
    ff91000000000000 ff9fffffffffffff
    ffa0000000000000 ffd1ffffffffffff vmalloc
    ffd2000000000000 ffd3ffffffffffff
    ffd4000000000000 ffd5ffffffffffff vmemmap
    ffd6000000000000 ffdeffffffffffff
    ffdf000000000000 fffffbffffffffff KASAN shadow";
const TAIL: &str = "
    fffffc0000000000 fffffdffffffffff
    fffffe0000000000 fffffe7fffffffff cpu_entry_area
    fffffe8000000000 fffffeffffffffff
    ffffff0000000000 ffffff7fffffffff ESPFIX stacks
    ffffff8000000000 ffffffeeffffffff
    ffffffef00000000 fffffffeffffffff EFI runtime
    ffffffff00000000 ffffffff7fffffff
    ffffffff80000000 ffffffffbfffffff kernel image
    ffffffffc0000000 fffffffffeffffff modules
    ffffffffff000000 ffffffffff1fffff
    ffffffffff200000 ffffffffff3fffff early fixmap
    ffffffffff400000 ffffffffff57bfff
    ffffffffff57c000 ffffffffff5fffff fixmap
    ffffffffff600000 ffffffffff600fff vsyscall
    ffffffffff601000 ffffffffffffffff";

#[test]
fn areas_and_holes_are_those_of_the_documentation() {
    for (mode, upper) in [
        (PagingMode::FourLevel, UPPER_4),
        (PagingMode::FiveLevel, UPPER_5),
    ] {
        let layout = layout(mode);
        let ours: Vec<String> = layout
            .places()
            .map(|place| {
                let name = match place {
                    Place::Area { area, .. } => area.name(),
                    _ => "",
                };
                let range = place.range().unwrap();
                format!("{} {} {name}", range.start(), range.last())
                    .trim_end()
                    .to_owned()
            })
            .collect();
        let documented: Vec<&str> = upper
            .lines()
            .chain(TAIL.lines())
            .map(str::trim)
            .filter(|row| !row.is_empty())
            .collect();
        assert_eq!(ours, documented, "{mode}");
    }
}

/// What `/sys/kernel/debug/page_tables/kernel` showed.
struct Dump(&'static str);

/// One row of a dump: where, and what stands behind it.
struct DumpRow {
    range: VirtRange,
    flags: &'static str,
}

impl DumpRow {
    fn parse(line: &'static str) -> Option<Self> {
        let (range, flags) = line.strip_prefix("0x")?.split_once(' ')?;
        let (start, end) = range.split_once("-0x")?;
        let [start, end] = [start, end].map(|number| u64::from_str_radix(number, 16).unwrap());
        let [start, last] = [start, end.wrapping_sub(1)].map(VirtAddr::try_new);
        // The rows of the user half end in the non-canonical part; they are of no use here.
        let range = VirtRange::try_from_bounds(start.ok()?, last.ok()?).ok()?;
        Some(Self { range, flags })
    }

    /// Rows of holes have no flags but the level.
    fn is_mapped(&self) -> bool {
        self.flags.contains("RW") || self.flags.contains("ro")
    }
}

impl Dump {
    /// The address at which the part with this heading begins.
    fn heading(&self, name: &str) -> VirtAddr {
        let heading = format!("---[ {name} ]---");
        let mut lines = self.0.lines().skip_while(|line| *line != heading).skip(1);
        let row = lines
            .find_map(DumpRow::parse)
            .unwrap_or_else(|| panic!("no {heading}"));
        row.range.start()
    }

    fn mapped(&self) -> impl Iterator<Item = DumpRow> {
        self.0
            .lines()
            .filter_map(DumpRow::parse)
            .filter(DumpRow::is_mapped)
    }
}

const LINUX_4: Dump = Dump(include_str!("data/linux-6.12-4-level.txt"));
const LINUX_5: Dump = Dump(include_str!("data/linux-6.12-5-level.txt"));

#[test]
fn the_areas_begin_where_a_running_linux_has_them() {
    for (mode, dump) in [
        (PagingMode::FourLevel, LINUX_4),
        (PagingMode::FiveLevel, LINUX_5),
    ] {
        let layout = layout(mode);
        for (heading, kind) in [
            ("Low Kernel Mapping", AreaKind::DirectMap),
            ("vmalloc() Area", AreaKind::Vmalloc),
            ("Vmemmap", AreaKind::Vmemmap),
            ("CPU entry Area", AreaKind::CpuEntry),
            ("High Kernel Mapping", AreaKind::KernelImage),
            ("Modules", AreaKind::Modules),
            ("Fixmap Area", AreaKind::Fixmap),
        ] {
            let area = layout.area(kind).unwrap();
            assert_eq!(
                area.range().start(),
                dump.heading(heading),
                "{mode} {heading}"
            );
        }
        let modules = layout.area(AreaKind::Modules).unwrap();
        assert_eq!(
            modules.range().end_u64(),
            dump.heading("End Modules").as_u64()
        );
    }
}

#[test]
fn everything_linux_maps_lies_in_one_area() {
    for (mode, dump) in [
        (PagingMode::FourLevel, LINUX_4),
        (PagingMode::FiveLevel, LINUX_5),
    ] {
        let layout = layout(mode);
        let mut rows = 0;
        for row in dump.mapped() {
            let place = layout.find(row.range.start());
            assert!(
                matches!(place, Place::Area { .. }),
                "{mode}: {} is in {place}",
                row.range
            );
            assert!(
                place.range().unwrap().contains_range(row.range),
                "{mode}: {}",
                row.range
            );
            rows += 1;
        }
        assert!(rows > 30, "{mode}: {rows} rows");
    }
}

#[test]
fn linux_has_its_interrupt_controllers_in_our_slots() {
    for dump in [LINUX_4, LINUX_5] {
        let uncached: Vec<VirtRange> = dump
            .mapped()
            .filter(|row| Fixmap::PERMANENT.overlaps(row.range))
            .map(|row| row.range)
            .collect();
        // The only ones that this machine has: the CPU's own, and the first I/O APIC in the slot below.
        let local = Fixmap.address(FixmapSlot::LocalApic).unwrap();
        let io = Fixmap.address(FixmapSlot::IoApic(0)).unwrap();
        assert_eq!(
            uncached,
            [VirtRange::try_from_bounds(io, VirtAddr::new(local.as_u64() + 0xfff)).unwrap()]
        );
    }
}

#[test]
fn what_linux_drew_is_a_layout_and_could_have_been_drawn_here() {
    const TIB: u64 = 1 << 40;
    for (mode, ram, text) in [
        (
            PagingMode::FourLevel,
            512 << 20,
            include_str!("data/linux-6.12-4-level-kaslr-512M.txt"),
        ),
        (
            PagingMode::FourLevel,
            3 << 30,
            include_str!("data/linux-6.12-4-level-kaslr-3G.txt"),
        ),
        (
            PagingMode::FiveLevel,
            512 << 20,
            include_str!("data/linux-6.12-5-level-kaslr-512M.txt"),
        ),
    ] {
        let (dump, last_ram) = (Dump(text), PhysAddr::new(ram - 1));
        let fixed = Regions::fixed(mode).unwrap();
        // Built without memory hot-plug, so without padding: less than 1 TiB of RAM, and its records, take 1 TiB each.
        let drawn = Regions {
            direct_map: VirtRange::new(dump.heading("Low Kernel Mapping"), TIB),
            vmalloc: VirtRange::new(dump.heading("vmalloc() Area"), fixed.vmalloc.size()),
            vmemmap: VirtRange::new(dump.heading("Vmemmap"), TIB),
        };
        let layout = X86_64::new(mode, last_ram).regions(drawn).build().unwrap();
        for row in dump.mapped() {
            let place = layout.find(row.range.start());
            assert!(
                matches!(place, Place::Area { .. }),
                "{mode}: {} is in {place}",
                row.range
            );
        }

        let ours = Kaslr::new(mode, last_ram)
            .padding_tib(0)
            .draw(|| 0)
            .unwrap();
        assert_eq!(ours.regions.direct_map.size(), TIB);
        assert_eq!(ours.regions.vmemmap.size(), TIB);
        let slot = (drawn.direct_map.start().as_u64() - fixed.direct_map.start().as_u64()) >> 30;
        assert!(slot < ours.entropy[0].slots(), "{mode}: slot {slot}");
    }
}
