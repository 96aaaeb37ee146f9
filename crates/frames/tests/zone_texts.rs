//! The texts of a kernel whose zones are as those of real Linux machines: the same as what those showed.
//!
//! `data/` has the files under `/proc` of 6.12 under QEMU with 64 MiB and 6 GiB, and of a live 6.18 with 24 GiB.

mod frozen_zone;
mod linux_logs;
mod linux_machines;

use frozen_zone::Frozen;
use kspace_frames::zone::text::{
    Buddyinfo, DirectMap, Iomem, Meminfo, Pageset, Resource, VmallocTotals, Zoneinfo,
};
use kspace_frames::zone::{Nodes, Tuning, Zone, ZoneKind, ZoneLimits, ZoneSpan, Zones, batch};
use kspace_frames::{FirmwareEntry, Order};
use kspace_layout::{PageSize, PhysAddr, PhysRange};
use linux_logs::section;
use linux_machines::{figure, live_map, nodes_of};

const QEMU_64M: &str = include_str!("data/linux-6.12-q35-64M.txt");
const QEMU_6G: &str = include_str!("data/linux-6.12-q35-6G.txt");
const LIVE_24G: &str = include_str!("data/linux-6.18-24G.txt");

/// The zones with memory of the live machine, in the state that it showed.
fn live_zones() -> Vec<Zone<Frozen>> {
    let nodes = Nodes::new(&live_map(), &[], |_| ()).expect("one node");
    let limits = ZoneLimits::x86_64();
    let zone = |span: ZoneSpan| {
        let name = span.kind().name();
        let heading = format!("Node 0, zone {name:>8} ");
        let line = LIVE_24G
            .lines()
            .find_map(|line| line.strip_prefix(&heading))
            .expect("blocks");
        let mut blocks = line
            .split_whitespace()
            .map(|count| count.parse().expect("a number"));
        let frozen = Frozen {
            managed: figure(LIVE_24G, name, "managed"),
            free: figure(LIVE_24G, name, "free"),
            blocks: [(); Order::COUNT].map(|()| blocks.next().expect("eleven orders")),
            lists: Vec::new(),
        };
        Zone::new(span, frozen)
    };
    nodes
        .zones(&limits)
        .filter(ZoneSpan::is_populated)
        .map(zone)
        .collect()
}

fn zones_of(zones: &[Zone<Frozen>]) -> Zones<'_, Frozen> {
    Zones::new(zones, ZoneLimits::x86_64(), |_, _| 10).expect("zones")
}

#[test]
fn the_reserves_of_a_live_machine_come_out_to_the_page() {
    let zones = live_zones();
    let zones = zones_of(&zones);
    let reserves = zones
        .set_reserves(&Tuning::new().with_huge_pages(512))
        .expect("possible");
    assert_eq!(reserves.min_free_kbytes(), 67_584);
    assert!(LIVE_24G.contains("vm.min_free_kbytes = 67584\n"));
    for zone in zones.as_slice() {
        let marks = zone.watermarks();
        let shown = |name| figure(LIVE_24G, zone.kind().name(), name);
        assert_eq!(marks.min, shown("min"));
        assert_eq!(marks.low, shown("low"));
        assert_eq!(marks.high, shown("high"));
        assert_eq!(marks.promo, shown("promo"));
    }
}

/// Every line that we print for a zone stands in the live machine's text in the same place, but for the lists of CPUs, which
/// have a newer form there.
#[test]
fn zoneinfo_has_the_lines_of_a_live_machine() {
    let zones = live_zones();
    let zones = zones_of(&zones);
    zones
        .set_reserves(&Tuning::new().with_huge_pages(512))
        .expect("possible");
    let counters = [
        ("pgpromote_success", 0),
        ("pgpromote_candidate", 0),
        ("pgpromote_candidate_nrl", 0),
    ];
    let text = Zoneinfo::new(&zones, 2, |_, _| Pageset::default())
        .with_node_counters(&counters)
        .to_string();
    let outside_of_lists = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| !line.starts_with("              ") && !line.contains("pagesets"))
            .filter(|line| !line.contains("nr_free") && !line.contains("per-node"))
            .map(str::to_owned)
            .collect()
    };
    let from = LIVE_24G
        .split_once("## /proc/zoneinfo")
        .expect("the heading")
        .1;
    let theirs = from.split_once('\n').expect("a line").1;
    assert_eq!(outside_of_lists(&text), outside_of_lists(theirs));
}

/// The whole text of the smaller machine, byte for byte: its kernel is 6.12. Left out on both sides: counters that we do not
/// keep. It has no zone for memory of devices, hence one column less.
#[test]
fn zoneinfo_is_that_of_linux_6_12() {
    let nodes = nodes_of(QEMU_64M);
    let limits = ZoneLimits::x86_64();
    let zoneinfo = section(QEMU_64M, "zoneinfo");
    let zones: Vec<Zone<Frozen>> = nodes
        .zones(&limits)
        .filter(ZoneSpan::is_populated)
        .map(|span| {
            let name = span.kind().name();
            let frozen = Frozen {
                // The marks were computed with what was managed then; see above.
                managed: if name == "DMA" { 3840 } else { 8385 },
                free: figure(zoneinfo, name, "free"),
                blocks: [0; Order::COUNT],
                lists: Vec::new(),
            };
            Zone::new(span, frozen)
        })
        .collect();
    let zones = zones_of(&zones);
    zones.set_reserves(&Tuning::new()).expect("possible");
    let pageset = |zone: &Zone<Frozen>, cpu: u32| {
        let (count, high) = match (zone.kind(), cpu) {
            (ZoneKind::Dma32, 0) => (61, 131),
            (ZoneKind::Dma32, 1) => (7, 155),
            _ => (0, 0),
        };
        Pageset {
            count,
            high,
            batch: batch(zone.frames().managed).max(1),
        }
    };
    let counters = [("nr_inactive_anon", 19), ("nr_active_anon", 1)];
    let ours = Zoneinfo::new(&zones, 2, pageset)
        .with_node_counters(&counters)
        .to_string()
        .replace(", 32)\n", ")\n")
        .replace(", 0)\n", ")\n")
        .replace("managed  8385", "managed  9439");
    let ours = ours.split("Node 0, zone   Device").next().expect("text");
    let known = ["nr_free_pages ", "nr_inactive_anon ", "nr_active_anon "];
    let theirs: String = zoneinfo
        .lines()
        .filter(|line| {
            !line.starts_with("      ")
                || line.starts_with("        ")
                || known.iter().any(|name| line.trim_start().starts_with(name))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(ours, theirs);
}

#[test]
fn buddyinfo_is_that_of_a_live_machine() {
    let zones = live_zones();
    let ours = Buddyinfo(&zones_of(&zones)).to_string();
    assert_eq!(ours, section(LIVE_24G, "/proc/buddyinfo"));
}

#[test]
fn iomem_is_that_of_a_live_machine() {
    let entry = |start, last, kind| FirmwareEntry {
        start,
        size: last - start + 1,
        kind,
    };
    let kernel = |start, last, name| {
        let range = PhysRange::try_from_bounds(PhysAddr::new(start), PhysAddr::new(last));
        Resource::new(range.expect("a range"), name)
    };
    let firmware = [
        entry(0, 0xfff, 2),
        entry(0x1000, 0x9_fbff, 1),
        entry(0x9_fc00, 0xf_ffff, 2),
        entry(0x10_0000, 0xbfff_ffff, 1),
        entry(0xeec0_0000, 0xfebf_ffff, 2),
        entry(0x1_0000_0000, 0x6_3fff_ffff, 1),
    ];
    let image = [
        kernel(0x3b3_4000, 0x3c5_7fff, "Kernel bss"),
        kernel(0x300_0000, 0x327_c0ff, "Kernel data"),
        kernel(0x240_0000, 0x2e0_9fff, "Kernel rodata"),
        kernel(0x100_0000, 0x220_9987, "Kernel code"),
    ];
    let all = image
        .into_iter()
        .chain(firmware.into_iter().filter_map(Resource::firmware));
    let ours = Iomem(all).to_string();
    assert_eq!(ours, section(LIVE_24G, "/proc/iomem (System RAM lines)"));
}

#[test]
fn iomem_nests_as_deep_as_ranges_do() {
    let range = |start, last| {
        PhysRange::try_from_bounds(PhysAddr::new(start), PhysAddr::new(last)).expect("a range")
    };
    let resources = [
        Resource::new(range(0xb000_0000, 0xbfff_ffff), "PCI ECAM 0000 [bus 00-ff]"),
        Resource::new(range(0xb000_0000, 0xbfff_ffff), "Reserved"),
        Resource::new(range(0xb000_0000, 0xbfff_ffff), "pnp 00:05"),
        Resource::new(range(0x8000_0000, 0xafff_ffff), "PCI Bus 0000:00"),
        Resource::new(range(0xf_0000, 0xf_ffff), "Reserved"),
        Resource::new(range(0xf_0000, 0xf_ffff), "System ROM"),
    ];
    let text = Iomem(resources.into_iter()).to_string();
    let iomem = section(QEMU_6G, "iomem");
    for part in text
        .split("80000000-")
        .map(|part| part.trim_start_matches("afffffff : PCI Bus 0000:00\n"))
    {
        assert!(iomem.contains(part), "{part}");
    }
    assert!(iomem.contains(&text[text.find("80000000").expect("the line")..]));
}

#[test]
fn meminfo_has_lines_of_a_live_machine() {
    let zones = live_zones();
    let zones = zones_of(&zones);
    let text = Meminfo::of(&zones)
        .with_vmalloc(VmallocTotals {
            total: 34_359_738_367 << 10,
            used: 14_300 << 10,
        })
        .with_per_cpu(952 << 10)
        .with_direct_map(DirectMap {
            small: 28_672 << 10,
            large_page: PageSize::Size2M,
            large: 2_068_480 << 10,
            huge: Some(25_165_824 << 10),
        })
        .to_string();
    let (ours, shared) = text.split_at(text.find("VmallocTotal").expect("the line"));
    assert!(section(LIVE_24G, "/proc/meminfo").ends_with(shared));
    assert_eq!(
        ours,
        "MemTotal:       12413140 kB\nMemFree:         9470180 kB\nMemAvailable:    9470180 kB\n"
    );
}

/// Free memory that programs can count on: without the high marks and the protections, as the machine said itself.
#[test]
fn available_memory_leaves_out_what_zones_keep() {
    let nodes = nodes_of(QEMU_64M);
    let zoneinfo = section(QEMU_64M, "zoneinfo");
    let free = |name| figure(zoneinfo, name, "free");
    // At the time of meminfo a little less was free than a moment later.
    let zones: Vec<Zone<Frozen>> = nodes
        .zones(&ZoneLimits::x86_64())
        .filter(ZoneSpan::is_populated)
        .map(|span| {
            let (managed, free) = match span.kind() {
                ZoneKind::Dma => (3840, free("DMA")),
                _ => (8385, 46_192 / 4 - free("DMA")),
            };
            let blocks = [0; 11];
            Zone::new(
                span,
                Frozen {
                    managed,
                    free,
                    blocks,
                    lists: Vec::new(),
                },
            )
        })
        .collect();
    let zones = zones_of(&zones);
    zones.set_reserves(&Tuning::new()).expect("possible");
    let text = Meminfo::of(&zones).to_string();
    let theirs = section(QEMU_64M, "meminfo");
    for line in text.lines().skip(1) {
        assert!(theirs.lines().any(|other| other == line), "{line}");
    }
}
