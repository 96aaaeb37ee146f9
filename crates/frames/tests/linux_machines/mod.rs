//! What real Linux machines showed: reading the files under `data/`.

use kspace_frames::zone::Nodes;
use kspace_frames::{FirmwareEntry, MemoryMap};

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

pub fn nodes_of(log: &str) -> Nodes {
    Nodes::new(&map_of(log), &[], |repair| panic!("{repair}")).expect("one node")
}

/// The part of a file of `/proc` below its heading.
pub fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let from = text
        .split_once(&format!("## {heading}\n"))
        .expect("the heading")
        .1;
    from.split("## ").next().unwrap_or(from)
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
