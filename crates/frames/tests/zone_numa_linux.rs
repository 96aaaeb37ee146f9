//! Machines with several nodes: what Linux 6.12 printed and counted on each, and what we make of the same tables.
//!
//! `data/linux-6.12-numa-*.txt` say how QEMU was started, what Linux's boot log said of nodes and zones, and what was in its files
//! under `/proc` and `/sys/devices/system/node`. The kernel is booted on the same machines by `cargo xtask test numa`.

mod frozen_zone;
mod linux_logs;

use frozen_zone::Frozen;
use kspace_frames::Order;
use kspace_frames::zone::text::{
    Buddyinfo, FallbackLine, JoinLines, NodeLines, Pageset, UnavailableLines, ZoneRanges, Zoneinfo,
};
use kspace_frames::zone::{
    Affinity, NodeId, Nodes, Tuning, Zone, ZoneKind, ZoneLimits, ZoneSpan, Zones, batch,
};
use kspace_layout::{PhysAddr, PhysRange};
use linux_logs::{map_of, section};

const MACHINES: [&str; 8] = [
    include_str!("data/linux-6.12-numa-one.txt"),
    include_str!("data/linux-6.12-numa-two.txt"),
    include_str!("data/linux-6.12-numa-off.txt"),
    include_str!("data/linux-6.12-numa-memoryless.txt"),
    include_str!("data/linux-6.12-numa-hotplug.txt"),
    include_str!("data/linux-6.12-numa-four.txt"),
    include_str!("data/linux-6.12-numa-five.txt"),
    include_str!("data/linux-6.12-numa-fivetwo.txt"),
];

/// What Linux's log says that SRAT says: `ACPI: SRAT: Node 1 PXM 1 [mem 0x100000000-0x23fffffff] hotplug`.
fn affinities(machine: &str) -> Vec<Affinity> {
    let lines = section(machine, "log").lines();
    let lines = lines.filter_map(|line| line.strip_prefix("ACPI: SRAT: Node "));
    let affinity = |line: &str| {
        let (node, rest) = line.split_once(" PXM ").expect("a node");
        let (bounds, plug) = rest
            .split_once("[mem ")
            .and_then(|(_, range)| range.split_once(']'))
            .expect("a range");
        let (start, last) = bounds.split_once('-').expect("two addresses");
        let address = |text: &str| {
            PhysAddr::new(u64::from_str_radix(&text[2..], 16).expect("a hexadecimal number"))
        };
        let range = PhysRange::try_from_bounds(address(start), address(last)).expect("a range");
        Affinity {
            node: node.parse().expect("a number"),
            range,
            hot_pluggable: plug == " hotplug",
        }
    };
    lines.map(affinity).collect()
}

fn nodes(machine: &str) -> Nodes {
    let map = map_of(section(machine, "log"));
    Nodes::new(&map, &affinities(machine), |repair| panic!("{repair}")).expect("nodes")
}

/// The nodes that Linux knows, and each one's distances: `node0 cpus 0-1 distance 10 20`.
fn distances(machine: &str) -> Vec<(NodeId, Vec<u8>)> {
    let row = |line: &str| {
        let (name, row) = line.split_once(" cpus ").expect("a node");
        let number = name.strip_prefix("node").expect("its number");
        let (_, row) = row.split_once("distance ").expect("distances");
        let row = row
            .split(' ')
            .map(|distance| distance.parse().expect("a number"));
        (
            NodeId::try_new(number.parse().expect("a number")).expect("a node"),
            row.collect(),
        )
    };
    section(machine, "nodes").lines().map(row).collect()
}

/// The zones that have memory by our count, in the state that Linux showed.
fn zones(machine: &str, nodes: &Nodes) -> Vec<Zone<Frozen>> {
    let zone = |span: ZoneSpan| {
        let heading = format!("Node {}, zone {:>8}", span.node(), span.kind());
        let zoneinfo = section(machine, "zoneinfo");
        let paragraph = zoneinfo
            .split_once(&format!("{heading}\n"))
            .expect("the zone")
            .1;
        let paragraph = paragraph.split("\nNode ").next().unwrap_or(paragraph);
        let figures = |name: &str| -> Vec<u64> {
            let lines = paragraph.lines().filter_map(|line| {
                let line = line.trim().trim_start_matches("pages ");
                line.strip_prefix(name)?.trim().parse().ok()
            });
            lines.collect()
        };
        let blocks = section(machine, "buddyinfo")
            .lines()
            .find_map(|line| line.strip_prefix(&heading))
            .expect("the zone's blocks");
        let mut blocks = blocks
            .split_whitespace()
            .map(|count| count.parse().expect("a number"));
        let lists = figures("count:").into_iter().zip(figures("high:"));
        let frozen = Frozen {
            managed: figures("managed")[0],
            free: figures("free")[0],
            blocks: [(); Order::COUNT].map(|()| blocks.next().expect("eleven orders")),
            lists: lists
                .map(|(count, high)| Pageset {
                    count,
                    high,
                    batch: batch(figures("managed")[0]).max(1),
                })
                .collect(),
        };
        Zone::new(span, frozen)
    };
    nodes
        .zones(&ZoneLimits::x86_64())
        .filter(ZoneSpan::is_populated)
        .map(zone)
        .collect()
}

fn in_use<'z>(machine: &str, zones: &'z [Zone<Frozen>]) -> Zones<'z, Frozen> {
    let distances = distances(machine);
    let distance = |from: NodeId, to: NodeId| {
        let row = distances.iter().find(|(node, _)| *node == from);
        let distance = row.and_then(|(_, row)| row.get(to.index()).copied());
        distance.unwrap_or(20)
    };
    let zones = Zones::new(zones, ZoneLimits::x86_64(), distance).expect("zones");
    let kbytes = section(machine, "min_free_kbytes").trim();
    let kbytes = kbytes.parse().expect("a number");
    zones
        .set_reserves(&Tuning::new().with_min_free_kbytes(kbytes))
        .expect("possible");
    zones
}

#[test]
fn the_boot_log_is_the_same_to_the_byte() {
    for machine in MACHINES {
        let (nodes, limits) = (nodes(machine), ZoneLimits::x86_64());
        let affinities = affinities(machine);
        let mut ours = JoinLines {
            affinities: &affinities,
            nodes: &nodes,
        }
        .to_string();
        let ranges = ZoneRanges {
            nodes: &nodes,
            limits: &limits,
        };
        ours += &format!("{ranges}\n");
        for (node, _) in distances(machine) {
            let nodes = &nodes;
            ours += &format!("{}\n", NodeLines { nodes, node });
        }
        ours += &UnavailableLines {
            nodes: &nodes,
            limits: &limits,
        }
        .to_string();
        let zones = zones(machine, &nodes);
        let zones = in_use(machine, &zones);
        for (node, _) in distances(machine) {
            let zones = &zones;
            ours += &format!("{}\n", FallbackLine { zones, node });
        }
        let theirs = section(machine, "log").lines().filter(|line| {
            let others = [
                "BIOS-e820",
                "ACPI",
                "NUMA turned",
                "No NUMA",
                "Faking",
                "Built",
            ];
            !others.iter().any(|start| line.starts_with(start))
        });
        assert_eq!(
            ours.lines().collect::<Vec<_>>(),
            theirs.collect::<Vec<_>>(),
            "{machine}"
        );
    }
}

/// All of it: spanned, present, start, marks and protection are ours; what was managed and free, and what each CPU's list held, is
/// taken from there.
#[test]
fn zoneinfo_and_buddyinfo_are_the_same_to_the_byte() {
    for machine in MACHINES {
        let nodes = nodes(machine);
        let zones = zones(machine, &nodes);
        let zones = in_use(machine, &zones);
        let cpus = zones.as_slice()[0].frames().lists.len();
        let list = |zone: &Zone<Frozen>, cpu: u32| zone.frames().lists[cpu as usize];
        let mut zoneinfo = Zoneinfo::new(&zones, cpus.try_into().expect("few"), list);
        for (node, _) in distances(machine) {
            zoneinfo = zoneinfo.with_node(node);
        }
        let theirs = section(machine, "zoneinfo");
        assert_eq!(
            zoneinfo.to_string().lines().collect::<Vec<_>>(),
            theirs.lines().collect::<Vec<_>>(),
            "{machine}"
        );
        assert_eq!(
            Buddyinfo(&zones).to_string(),
            section(machine, "buddyinfo"),
            "{machine}"
        );
    }
}

/// A zone that only may have memory one day is listed as one without, and its node not at all.
#[test]
fn zones_that_wait_for_memory_do_not_show() {
    let machine = MACHINES[0];
    let nodes = nodes(machine);
    let mut zones = zones(machine, &nodes);
    let shown = |zones: &[Zone<Frozen>]| {
        let zones = in_use(machine, zones);
        let node = NodeId::ZERO;
        let fallback = FallbackLine {
            zones: &zones,
            node,
        };
        format!(
            "{}{}{fallback}",
            Zoneinfo::new(&zones, 1, |_, _| Pageset::default()),
            Buddyinfo(&zones)
        )
    };
    let without = shown(&zones);
    for (node, kind) in [(0, ZoneKind::Normal), (1, ZoneKind::Normal)] {
        let node = NodeId::try_new(node).expect("a node");
        let nothing = Frozen {
            managed: 0,
            free: 0,
            blocks: [0; Order::COUNT],
            lists: Vec::new(),
        };
        zones.push(Zone::new(ZoneSpan::empty(node, kind), nothing));
    }
    assert_eq!(shown(&zones), without);
}

/// A Linux whose log was not read would be the same as any.
#[test]
fn the_machines_are_what_they_are_named_for() {
    let shape = |machine: &str| {
        let (nodes, limits) = (nodes(machine), ZoneLimits::x86_64());
        let normal = nodes
            .zones(&limits)
            .filter(|zone| zone.kind() == ZoneKind::Normal && zone.is_populated());
        (
            distances(machine).len(),
            nodes.nodes().count(),
            normal.count(),
            affinities(machine).iter().any(|near| near.hot_pluggable),
        )
    };
    let expected = [
        (1, 1, 0, false),
        (2, 2, 0, false),
        (1, 1, 0, false),
        (2, 1, 0, false),
        (2, 2, 0, true),
        (4, 4, 0, false),
        (1, 1, 1, false),
        (2, 2, 2, false),
    ];
    assert_eq!(MACHINES.map(shape), expected);
}
