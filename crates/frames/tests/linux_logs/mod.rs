//! What Linux machines wrote: reading the parts of files under `data/`.

use kspace_frames::{FirmwareEntry, MemoryMap};

/// The firmware's map in a boot log. Linux takes the first page away, and so does who boots on us.
pub fn map_of(log: &str) -> MemoryMap {
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

/// The part of a file of `/proc` below its heading.
pub fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let from = text
        .split_once(&format!("## {heading}\n"))
        .expect("the heading")
        .1;
    from.split("## ").next().unwrap_or(from)
}
