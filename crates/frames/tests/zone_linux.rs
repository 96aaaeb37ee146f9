//! What real Linux machines counted, kept back and printed, and what we make of the same memory.
//!
//! `data/` has boot logs and the files under `/proc` of four machines: 3.15 and 4.3 on desktops with 8 GiB, 6.12 under QEMU
//! with 64 MiB and 6 GiB, and a live 6.18 with 24 GiB.

use kspace_frames::zone::text::{
    Buddyinfo, DirectMap, Iomem, Meminfo, NodeLines, Pageset, Resource, VmallocTotals, ZoneLines,
    ZoneRanges, Zoneinfo,
};
use kspace_frames::zone::{
    NodeId, Nodes, Reserves, Tuning, Zone, ZoneFrames, ZoneKind, ZoneLimits, ZoneShare, ZoneSpan,
    Zones,
};
use kspace_frames::{FirmwareEntry, MemoryMap, Order, Owner};
use kspace_layout::{PageSize, Pfn, PhysAddr, PhysRange};

const DESKTOP_3_15: &str = include_str!("data/boot-3.15-8G.txt");
const DESKTOP_4_3: &str = include_str!("data/boot-4.3-8G.txt");
const QEMU_64M: &str = include_str!("data/linux-6.12-q35-64M.txt");
const QEMU_6G: &str = include_str!("data/linux-6.12-q35-6G.txt");
const LIVE_24G: &str = include_str!("data/linux-6.18-24G.txt");

/// The firmware's map in a boot log. Linux takes the first page away, and so does who boots on us.
fn map_of(log: &str) -> MemoryMap {
    let first_page = FirmwareEntry {
        start: 0,
        size: 0x1000,
        kind: 2,
    };
    let entries = log.lines().filter_map(|line| {
        let (range, kind) = line.strip_prefix("BIOS-e820: [mem ")?.split_once("] ")?;
        let (start, last) = range.split_once('-')?;
        let number = |text: &str| u64::from_str_radix(&text[2..], 16).expect("an address");
        Some(FirmwareEntry {
            start: number(start),
            size: number(last) - number(start) + 1,
            kind: match kind {
                "usable" => 1,
                "ACPI NVS" => 4,
                _ => 2,
            },
        })
    });
    MemoryMap::from_firmware(entries.chain([first_page]), 52, |_| ()).expect("a usable map")
}

fn nodes_of(log: &str) -> Nodes {
    Nodes::new(&map_of(log), &[], |repair| panic!("{repair}")).expect("one node")
}

/// The part of a file of `/proc` below its heading.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let from = text
        .split_once(&format!("## {heading}\n"))
        .expect("the heading")
        .1;
    from.split("## ").next().unwrap_or(from)
}

/// The number behind `name` in the paragraph on a zone.
fn figure(zoneinfo: &str, zone: &str, name: &str) -> u64 {
    let heading = format!("Node 0, zone {zone:>8}\n");
    let from = zoneinfo.split_once(&heading).expect("the zone").1;
    let text = from
        .lines()
        .find_map(|line| line.trim().trim_start_matches("pages ").strip_prefix(name))
        .expect("the figure");
    text.trim_start_matches(':')
        .trim()
        .parse()
        .expect("a number")
}

#[test]
fn zone_ranges_are_those_of_the_boot_logs() {
    for log in [DESKTOP_4_3, QEMU_64M, QEMU_6G] {
        let nodes = nodes_of(log);
        let limits = ZoneLimits::x86_64();
        let zones = ZoneRanges {
            nodes: &nodes,
            limits: &limits,
        };
        let node = NodeLines {
            nodes: &nodes,
            node: NodeId::ZERO,
        };
        let ours = format!("{zones}\n{node}");
        // None of these kernels has a zone for memory of devices; 4.3's log was kept without two more lines.
        let absent = ["  Device", "Movable", "Initmem"];
        let absent = &absent[..if log == DESKTOP_4_3 { 3 } else { 1 }];
        let ours = ours
            .lines()
            .filter(|line| !absent.iter().any(|start| line.starts_with(start)));
        let from = log.find("Zone ranges").expect("the line");
        let theirs = log[from..].lines().take_while(|line| {
            let others = ["On node", "## "];
            !others.iter().any(|start| line.starts_with(start))
        });
        assert_eq!(ours.collect::<Vec<_>>(), theirs.collect::<Vec<_>>());
    }
}

#[test]
fn pages_and_their_records_are_counted_as_in_the_boot_logs() {
    for log in [DESKTOP_3_15, DESKTOP_4_3] {
        let nodes = nodes_of(log);
        let limits = ZoneLimits::x86_64();
        let mut total = 0;
        for span in nodes.zones(&limits).filter(ZoneSpan::is_populated) {
            total += span.present();
            let lines = ZoneLines {
                span,
                record_bytes: 64,
            };
            for line in lines.to_string().lines() {
                // The size of a batch was computed otherwise then.
                let line = line.split("LIFO").next().unwrap_or(line);
                assert!(log.lines().any(|theirs| theirs.starts_with(line)), "{line}");
            }
        }
        assert!(log.contains(&format!("On node 0 totalpages: {total}\n")));
    }
}

#[test]
fn spanned_and_present_are_those_of_zoneinfo() {
    for (log, zones) in [
        (QEMU_64M, &["DMA", "DMA32", "Normal", "Movable"][..]),
        (QEMU_6G, &["DMA", "DMA32", "Normal", "Movable"]),
    ] {
        let nodes = nodes_of(log);
        let limits = ZoneLimits::x86_64();
        for name in zones {
            let kind = kind_called(name);
            let span = nodes.zone(&limits, NodeId::ZERO, kind);
            let zoneinfo = section(log, "zoneinfo");
            assert_eq!(span.spanned(), figure(zoneinfo, name, "spanned"), "{name}");
            assert_eq!(span.present(), figure(zoneinfo, name, "present"), "{name}");
            if span.is_populated() {
                assert_eq!(span.start(), figure(zoneinfo, name, "start_pfn"));
            }
        }
    }
}

fn live_map() -> MemoryMap {
    let ram = |start, end| FirmwareEntry {
        start,
        size: end - start,
        kind: 1,
    };
    let entries = [
        ram(0x1000, 0x9_fc00),
        ram(0x10_0000, 0xc000_0000),
        ram(0x1_0000_0000, 0x6_4000_0000),
    ];
    MemoryMap::from_firmware(entries, 52, |_| ()).expect("a usable map")
}

#[test]
fn a_live_machine_spans_and_has_what_it_says() {
    let nodes = Nodes::new(&live_map(), &[], |_| ()).expect("one node");
    let limits = ZoneLimits::x86_64();
    for kind in limits.kinds() {
        let span = nodes.zone(&limits, NodeId::ZERO, *kind);
        assert_eq!(span.spanned(), figure(LIVE_24G, kind.name(), "spanned"));
        assert_eq!(span.present(), figure(LIVE_24G, kind.name(), "present"));
    }
    let map = {
        let mut map = live_map();
        map.reserve(PhysRange::new(PhysAddr::ZERO, 1 << 20))
            .expect("room");
        map
    };
    let dma = nodes.zone(&limits, NodeId::ZERO, ZoneKind::Dma);
    assert_eq!(nodes.managed(dma, &map), figure(LIVE_24G, "DMA", "managed"));
}

fn kind_called(name: &str) -> ZoneKind {
    ZoneKind::ALL
        .into_iter()
        .find(|kind| kind.name() == name)
        .expect("a kind")
}

/// A zone as it was found, and nothing else: it hands out nothing.
struct Frozen {
    managed: u64,
    free: u64,
    blocks: [u64; 11],
}

impl ZoneFrames for Frozen {
    type Cpu = ();
    type Block<'a> = Pfn;

    fn managed_frames(&self) -> u64 {
        self.managed
    }

    fn free_frames(&self) -> u64 {
        self.free
    }

    fn free_frames_exact(&self) -> u64 {
        self.free
    }

    fn drift(&self) -> u64 {
        0
    }

    fn free_blocks(&self, order: Order) -> u64 {
        self.blocks[usize::from(order.get())]
    }

    fn allocate(&self, (): &(), _: Order, _: Owner, _: Option<Pfn>) -> Option<Pfn> {
        None
    }

    fn first(block: &Pfn) -> Pfn {
        *block
    }
}

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
            blocks: [(); 11].map(|()| blocks.next().expect("eleven orders")),
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

/// After boot, Linux gives the memory of its own initialisation to the zones, but computes the marks before. `managed` is
/// what the zones had then: by the protection rows between 500480 and 500735 (6 GiB), and 8192 and 8447 (64 MiB).
#[test]
fn without_huge_pages_the_reserve_follows_the_square_root() {
    for (text, managed) in [
        (
            QEMU_6G,
            &[
                (ZoneKind::Dma, 3840),
                (ZoneKind::Dma32, 500_600),
                (ZoneKind::Normal, 1_020_636),
            ][..],
        ),
        (QEMU_64M, &[(ZoneKind::Dma, 3840), (ZoneKind::Dma32, 8385)]),
    ] {
        let shares = managed.iter().map(|(kind, managed)| ZoneShare {
            node: NodeId::ZERO,
            kind: *kind,
            managed: *managed,
        });
        let reserves = Reserves::new(shares, &Tuning::new()).expect("possible");
        let shown: u64 = section(text, "min_free_kbytes")
            .trim()
            .parse()
            .expect("a number");
        assert_eq!(reserves.min_free_kbytes(), shown);
        let of = |wanted| {
            managed
                .iter()
                .find(|(kind, _)| *kind == wanted)
                .map_or(0, |(_, managed)| *managed)
        };
        for (kind, managed) in managed {
            let zoneinfo = section(text, "zoneinfo");
            let marks = reserves.watermarks(*kind, *managed);
            assert_eq!(marks.min, figure(zoneinfo, kind.name(), "min"));
            assert_eq!(marks.low, figure(zoneinfo, kind.name(), "low"));
            assert_eq!(marks.high, figure(zoneinfo, kind.name(), "high"));
            assert_eq!(marks.promo, figure(zoneinfo, kind.name(), "promo"));
            let kept = reserves.protection(&ZoneLimits::x86_64(), *kind, of);
            let row = [
                ZoneKind::Dma,
                ZoneKind::Dma32,
                ZoneKind::Normal,
                ZoneKind::Movable,
            ]
            .map(|highest| kept.from(highest).to_string())
            .join(", ");
            assert!(
                zoneinfo.contains(&format!("        protection: ({row})\n")),
                "{kind}: {row}"
            );
        }
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
                blocks: [0; 11],
            };
            Zone::new(span, frozen)
        })
        .collect();
    let zones = zones_of(&zones);
    zones.set_reserves(&Tuning::new()).expect("possible");
    let pageset = |zone: &Zone<Frozen>, cpu: u32| match (zone.kind(), cpu) {
        (ZoneKind::Dma32, 0) => Pageset {
            count: 61,
            high: 131,
        },
        (ZoneKind::Dma32, 1) => Pageset {
            count: 7,
            high: 155,
        },
        _ => Pageset::default(),
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
