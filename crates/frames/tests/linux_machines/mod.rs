//! What real Linux machines showed: reading the files under `data/`.

use kspace_frames::zone::Nodes;
use kspace_frames::{FirmwareEntry, MemoryMap};

use crate::linux_logs::map_of;

pub fn nodes_of(log: &str) -> Nodes {
    Nodes::new(&map_of(log), &[], |repair| panic!("{repair}")).expect("one node")
}

/// The number behind `name` in the paragraph on a zone.
pub fn figure(zoneinfo: &str, zone: &str, name: &str) -> u64 {
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

pub fn live_map() -> MemoryMap {
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
