//! What real Linux machines counted and kept back, and what we make of the same memory.
//!
//! `data/` has boot logs and the files under `/proc` of five machines: 3.15 and 4.3 on desktops with 8 GiB, 6.12 under QEMU
//! with 64 MiB and 6 GiB, and a live 6.18 with 24 GiB.

mod linux_logs;
mod linux_machines;

use kspace_frames::zone::text::{NodeLines, ZoneLines, ZoneRanges};
use kspace_frames::zone::{
    NodeId, Nodes, Reserves, Tuning, ZoneKind, ZoneLimits, ZoneShare, ZoneSpan,
};
use kspace_layout::{PhysAddr, PhysRange};
use linux_logs::section;
use linux_machines::{figure, live_map, nodes_of};

const DESKTOP_3_15: &str = include_str!("data/boot-3.15-8G.txt");
const DESKTOP_4_3: &str = include_str!("data/boot-4.3-8G.txt");
const QEMU_64M: &str = include_str!("data/linux-6.12-q35-64M.txt");
const QEMU_6G: &str = include_str!("data/linux-6.12-q35-6G.txt");
const LIVE_24G: &str = include_str!("data/linux-6.18-24G.txt");

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
