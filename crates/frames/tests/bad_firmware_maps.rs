//! What a broken firmware map gets: the exact words of every repair and every refusal.

use kspace_frames::{FirmwareEntry, MAX_FIRMWARE_ENTRIES, MAX_RESERVATIONS, MapError, MemoryMap};
use kspace_layout::{PhysAddr, PhysRange};

const LOW_RAM: FirmwareEntry = entry(0x10_0000, 0x3f0_0000, 1);

const fn entry(start: u64, size: u64, kind: u32) -> FirmwareEntry {
    FirmwareEntry { start, size, kind }
}

/// The repairs of a map, and then its entries, one per line; or the repairs and the error.
fn check(entries: &[FirmwareEntry], expected: &[&str]) {
    let mut lines = Vec::new();
    let result = MemoryMap::from_firmware(entries.iter().copied(), 36, |repair| {
        lines.push(repair.to_string())
    });
    match result {
        Ok(map) => lines.extend(map.entries().map(|entry| entry.to_string())),
        Err(error) => lines.push(error.to_string()),
    }
    assert_eq!(lines, expected);
}

fn map_of(entries: &[FirmwareEntry]) -> MemoryMap {
    MemoryMap::from_firmware(entries.iter().copied(), 52, |_| ()).expect("a usable map")
}

#[test]
fn a_sound_map_is_kept_as_it_is() {
    check(
        &[
            entry(0, 0x9f000, 1),
            entry(0xf_0000, 0x1_0000, 2),
            LOW_RAM,
            entry(0x400_0000, 0x2_0000, 3),
        ],
        &[
            "[mem 0x0000000000000000-0x000000000009efff] usable",
            "[mem 0x00000000000f0000-0x00000000000fffff] reserved",
            "[mem 0x0000000000100000-0x0000000003ffffff] usable",
            "[mem 0x0000000004000000-0x000000000401ffff] ACPI data",
        ],
    );
}

#[test]
fn every_kind_has_linux_words() {
    check(
        &[
            entry(0x1000, 0x1000, 1),
            entry(0x2000, 0x1000, 4),
            entry(0x3000, 0x1000, 5),
            entry(0x4000, 0x1000, 6),
            entry(0x5000, 0x1000, 7),
        ],
        &[
            "[mem 0x0000000000001000-0x0000000000001fff] usable",
            "[mem 0x0000000000002000-0x0000000000002fff] ACPI NVS",
            "[mem 0x0000000000003000-0x0000000000003fff] unusable",
            "[mem 0x0000000000004000-0x0000000000004fff] type 6",
            "[mem 0x0000000000005000-0x0000000000005fff] persistent (type 7)",
        ],
    );
}

#[test]
fn empty_unsorted_and_touching_entries() {
    check(
        &[
            LOW_RAM,
            entry(0x2000, 0, 1),
            entry(0x2000, 0x1000, 1),
            entry(0x1000, 0x1000, 1),
        ],
        &[
            "memory map: entry 1 [mem 0x0000000000002000 size 0x0] usable: starts below the entry before it; sorted",
            "memory map: entry 1 [mem 0x0000000000002000 size 0x0] usable: no bytes; ignored",
            "memory map: entry 3 [mem 0x0000000000001000-0x0000000000001fff] usable: starts below the entry before it; \
             sorted",
            "[mem 0x0000000000001000-0x0000000000002fff] usable",
            "[mem 0x0000000000100000-0x0000000003ffffff] usable",
        ],
    );
}

#[test]
fn overlap_goes_to_the_more_restrictive_kind_and_trims_ram() {
    check(
        &[LOW_RAM, entry(0x200_0800, 0x1000, 4)],
        &[
            "memory map: entry 1 says 0000000002000800-00000000020017ff is ACPI NVS, an earlier one usable; \
             taken as ACPI NVS",
            "memory map: [mem 0x0000000000100000-0x00000000020007ff] usable: not whole pages; \
             0000000000100000-0000000001ffffff kept",
            "memory map: [mem 0x0000000002001800-0x0000000003ffffff] usable: not whole pages; \
             0000000002002000-0000000003ffffff kept",
            "[mem 0x0000000000100000-0x0000000001ffffff] usable",
            "[mem 0x0000000002000800-0x00000000020017ff] ACPI NVS",
            "[mem 0x0000000002002000-0x0000000003ffffff] usable",
        ],
    );
}

#[test]
fn ram_that_meets_inside_a_page_keeps_the_page() {
    check(
        &[entry(0, 0x1800, 1), entry(0x1800, 0x800, 1)],
        &["[mem 0x0000000000000000-0x0000000000001fff] usable"],
    );
}

#[test]
fn a_sliver_of_ram_is_dropped_and_said() {
    check(
        &[LOW_RAM, entry(0x500_0800, 0xfff, 1)],
        &[
            "memory map: [mem 0x0000000005000800-0x00000000050017fe] usable: holds no whole page; ignored",
            "[mem 0x0000000000100000-0x0000000003ffffff] usable",
        ],
    );
}

#[test]
fn ends_that_wrap_or_pass_the_last_address() {
    check(
        &[
            LOW_RAM,
            entry(0x1_0000_0000, u64::MAX, 1),
            entry(0xf_ffff_0000, u64::MAX, 2),
            entry(0x20_0000_0000, 0x1000, 1),
        ],
        &[
            "memory map: entry 1 [mem 0x0000000100000000 size 0xffffffffffffffff] usable: its end passes 2^64; ignored",
            "memory map: entry 2 [mem 0x0000000fffff0000 size 0xffffffffffffffff] reserved: reaches past the CPU's 36 \
             address bits; cut at 0000000fffffffff",
            "memory map: entry 3 [mem 0x0000002000000000-0x0000002000000fff] usable: starts past the CPU's 36 address \
             bits; ignored",
            "[mem 0x0000000000100000-0x0000000003ffffff] usable",
            "[mem 0x0000000fffff0000-0x0000000fffffffff] reserved",
        ],
    );
}

#[test]
fn type_zero_is_not_taken_for_ram() {
    check(
        &[LOW_RAM, entry(0x200_0000, 0x1000, 0)],
        &[
            "memory map: entry 1 [mem 0x0000000002000000-0x0000000002000fff] type 0: type 0 has no meaning; taken as \
             reserved",
            "memory map: entry 1 says 0000000002000000-0000000002000fff is reserved, an earlier one usable; \
             taken as reserved",
            "[mem 0x0000000000100000-0x0000000001ffffff] usable",
            "[mem 0x0000000002000000-0x0000000002000fff] reserved",
            "[mem 0x0000000002001000-0x0000000003ffffff] usable",
        ],
    );
}

#[test]
fn no_ram_is_refused() {
    check(
        &[],
        &["memory map: no RAM in 0 entries; check what the boot loader passed"],
    );
    check(
        &[entry(0, 0x10_0000, 2)],
        &["memory map: no RAM in 1 entries; check what the boot loader passed"],
    );
}

#[test]
fn no_ram_below_4_gib_is_refused() {
    check(
        &[entry(0x1_0000_0000, 0x1000_0000, 1)],
        &[
            "memory map: no RAM below 4 GiB, it begins at 0000000100000000; the kernel needs some there",
        ],
    );
}

#[test]
fn absurdly_many_entries_are_refused_without_reading_on() {
    let endless = std::iter::repeat(LOW_RAM);
    let error = MemoryMap::from_firmware(endless, 52, |_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "memory map: more than 1024 entries; the boot loader's count is not believable"
    );
}

#[test]
fn as_many_entries_as_are_read_are_merged() {
    let pages = (0..MAX_FIRMWARE_ENTRIES as u64).map(|page| entry(page * 0x1000, 0x1000, 1));
    let map =
        MemoryMap::from_firmware(pages, 52, |repair| panic!("{repair}")).expect("a usable map");
    assert_eq!(map.entries().len(), 1);
    assert_eq!(map.ram_bytes(), 4 << 20);
}

#[test]
fn too_many_separate_ranges_are_refused() {
    let every_other = |count| (0..count).map(|page| entry(page * 0x2000, 0x1000, 1));
    let map = MemoryMap::from_firmware(every_other(128), 52, |_| ()).expect("128 fit");
    assert_eq!(map.entries().len(), 128);
    let error = MemoryMap::from_firmware(every_other(129), 52, |_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "memory map: entry 128 makes more than 128 separate ranges; merge ranges in the firmware"
    );
}

#[test]
fn limits_that_leave_nothing_or_cut_what_is_in_use() {
    let mut map = map_of(&[LOW_RAM, entry(0x1_0000_0000, 0x4000_0000, 1)]);
    let image = PhysRange::new(PhysAddr::new(0x100_0000), 0x12_3456);
    map.reserve(image).expect("room for one");
    assert_eq!(
        map.limit(0x10_0fff).unwrap_err().to_string(),
        "mem=0x100fff: no RAM below it, RAM begins at 0000000000100000; nothing was changed"
    );
    assert_eq!(
        map.limit(0x110_0000).unwrap_err().to_string(),
        "mem=0x1100000: 0000000001000000-0000000001123fff is in use; give at least mem=0x1124000; nothing was changed"
    );
    assert_eq!(map.ram_bytes(), 0x43f0_0000);
    assert_eq!(map.limit(0x112_4000), Ok(0x4000_0000 + 0x2ed_c000));
    assert_eq!(map.ram_last(), PhysAddr::new(0x112_3fff));
    assert_eq!(map.limit(u64::MAX), Ok(0));
}

#[test]
fn a_full_list_of_reservations_says_so_and_still_grows_what_it_has() {
    let mut map = map_of(&[LOW_RAM]);
    let page = |index: u64| PhysRange::new(PhysAddr::new(index * 0x2000 + 1), 1);
    for index in 0..MAX_RESERVATIONS as u64 {
        map.reserve(page(index)).expect("64 fit");
    }
    let error = map.reserve(page(64)).unwrap_err();
    assert_eq!(error, MapError::TooManyReservations { range: page(64) });
    assert_eq!(
        error.to_string(),
        "memory map: reserve 0000000000080001-0000000000080001: 64 separate ranges are reserved already; \
         nothing was changed"
    );
    map.reserve(PhysRange::new(PhysAddr::new(0x1000), 0x1000))
        .expect("joins two");
    assert_eq!(map.reserved().len(), 63);
}

#[test]
fn ram_is_taken_away_in_whole_pages() {
    let mut map = map_of(&[entry(0, 0x9_fc00, 1), LOW_RAM]);
    map.withdraw(PhysRange::new(PhysAddr::ZERO, 0x1000))
        .expect("RAM");
    let shown: Vec<String> = map
        .entries()
        .map(|entry| format!("{entry}, stated {}", entry.stated()))
        .collect();
    assert_eq!(
        shown,
        [
            "[mem 0x0000000000000000-0x0000000000000fff] reserved, stated 0000000000000000-0000000000000fff",
            "[mem 0x0000000000001000-0x000000000009efff] usable, stated 0000000000001000-000000000009fbff",
            "[mem 0x0000000000100000-0x0000000003ffffff] usable, stated 0000000000100000-0000000003ffffff",
        ]
    );
    let refused = map.withdraw(PhysRange::new(PhysAddr::new(0x9_e000), 0x2000));
    assert_eq!(
        refused.expect_err("a hole").to_string(),
        "memory map: take away 000000000009e000-000000000009ffff: not all of it is RAM; nothing was changed"
    );
    assert_eq!(map.entries().len(), 3);
    map.limit(0x8_0800).expect("RAM is left");
    let last = map.entries().next_back().expect("an entry");
    assert_eq!(last.stated().last(), PhysAddr::new(0x7_ffff));
}
