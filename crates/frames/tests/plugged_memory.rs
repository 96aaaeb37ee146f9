//! RAM that is plugged in while the machine runs: taken into the map and by an allocator, or refused whole.

use kspace_frames::{FirmwareEntry, MAX_ENTRIES, MapError, MemoryMap};
use kspace_layout::{PhysAddr, PhysRange};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), size)
}

fn ram(start: u64, size: u64) -> FirmwareEntry {
    FirmwareEntry {
        start,
        size,
        kind: 1,
    }
}

fn map_of(entries: impl IntoIterator<Item = FirmwareEntry>) -> MemoryMap {
    MemoryMap::from_firmware(entries, 52, |_| ()).expect("a usable map")
}

fn shown(map: &MemoryMap) -> Vec<String> {
    map.entries().map(|entry| entry.to_string()).collect()
}

#[test]
fn what_is_new_is_ram_and_joins_its_neighbours() {
    let mut map = map_of([ram(MIB, GIB - MIB), ram(2 * GIB, GIB)]);
    map.plug(range(8 * GIB, 128 * MIB)).expect("nothing there");
    map.plug(range(GIB, GIB)).expect("nothing there");
    assert_eq!(
        shown(&map),
        [
            "[mem 0x0000000000100000-0x00000000bfffffff] usable",
            "[mem 0x0000000200000000-0x0000000207ffffff] usable",
        ]
    );
    assert_eq!(map.max_pfn(), (8 * GIB + 128 * MIB) / 4096);
}

#[test]
fn what_the_firmware_named_is_left_alone() {
    let acpi = FirmwareEntry {
        kind: 3,
        ..ram(4 * GIB + 64 * MIB, MIB)
    };
    let mut map = map_of([ram(MIB, GIB), acpi]);
    let before = shown(&map);
    assert_eq!(
        map.plug(range(4 * GIB, 128 * MIB)).unwrap_err().to_string(),
        "memory map: plug in 0000000100000000-0000000107ffffff: there is \
         [mem 0x0000000104000000-0x00000001040fffff] ACPI data; nothing was changed"
    );
    let odd = map.plug(range(4 * GIB, 6000)).unwrap_err();
    assert!(matches!(odd, MapError::Plugged { known: None, .. }));
    assert_eq!(shown(&map), before);
}

#[test]
fn a_full_map_refuses_one_more_range_but_not_one_that_joins() {
    let pages = (1..=MAX_ENTRIES as u64).map(|number| ram(number * MIB, 4096));
    let mut map = map_of(pages);
    assert_eq!(
        map.plug(range(GIB, 4096)).unwrap_err().to_string(),
        "memory map: plug in 0000000040000000-0000000040000fff: no whole pages, or more than 128 separate ranges; \
         nothing was changed"
    );
    assert_eq!(map.entries().count(), MAX_ENTRIES);
    map.plug(range(MIB + 4096, 4096))
        .expect("it joins the first");
}
