//! Any bytes as a firmware memory map: no panic, the map's promises hold, and it says nothing that no entry says.

#![no_main]

use std::fmt::Write;

use kspace::direct_map;
use kspace_frames::{EarlyFrames, FirmwareEntry, MemoryKind, MemoryMap};
use kspace_layout::{PagingMode, PhysAddr, PhysRange};
use kspace_paging::{Access, Limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((head, rest)) = data.split_first_chunk::<17>() else {
        return;
    };
    let phys_bits = u32::from(head[0]);
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    let (limit, reserved) = (word(&head[1..9]), word(&head[9..17]));
    let entries: Vec<FirmwareEntry> = rest
        .chunks_exact(17)
        .map(|entry| FirmwareEntry {
            start: word(&entry[..8]),
            size: word(&entry[8..16]),
            kind: u32::from(entry[16]),
        })
        .collect();
    let mut text = String::new();
    let report = |repair| write!(text, "{repair}").expect("a string takes anything");
    let mut map = match MemoryMap::from_firmware(entries.iter().copied(), phys_bits, report) {
        Ok(map) => map,
        Err(error) => return write!(text, "{error}").expect("a string takes anything"),
    };
    check_invariants(&map);
    check_against_entries(&map, &entries);
    if let Ok(start) = PhysAddr::try_new(reserved & ((1 << 52) - 1))
        && let Ok(range) = PhysRange::try_new(start, 1 + (reserved >> 52))
    {
        map.reserve(range).expect("there is room for one");
        assert!(map.free_from_top().all(|free| !free.overlaps(range)));
    }
    let before = map.ram_bytes();
    match map.limit(limit) {
        Ok(taken) => assert_eq!(map.ram_bytes() + taken, before),
        Err(error) => {
            write!(text, "{error}").expect("a string takes anything");
            assert_eq!(map.ram_bytes(), before);
        }
    }
    check_invariants(&map);
    check_frames(&map);
    check_plan(&map);
});

fn check_invariants(map: &MemoryMap) {
    let entries: Vec<_> = map.entries().collect();
    for pair in entries.windows(2) {
        assert!(pair[0].range().last() < pair[1].range().start());
    }
    assert!(map.ram().all(|ram| ram.is_aligned(4096)));
    assert!(map.ram_start().as_u64() < 1 << 32);
}

/// At the ends of every entry: RAM is what only RAM entries claim, and other kinds are the greatest of those that claim it.
fn check_against_entries(map: &MemoryMap, entries: &[FirmwareEntry]) {
    let ends = map
        .entries()
        .flat_map(|entry| [entry.range().start(), entry.range().last()]);
    for address in ends {
        let claims = |entry: &&FirmwareEntry| {
            let wraps = entry.size > 0 && entry.last().is_none();
            let last = entry.last().unwrap_or(u64::MAX);
            entry.size > 0
                && entry.start <= address.as_u64()
                && address.as_u64() <= last
                && !(wraps && entry.kind == 1)
        };
        let code = |entry: &FirmwareEntry| if entry.kind == 0 { 2 } else { entry.kind };
        let greatest = entries.iter().filter(claims).map(code).max();
        assert_eq!(
            map.kind_at(address).map(MemoryKind::code),
            greatest,
            "at {address}"
        );
    }
}

fn check_frames(map: &MemoryMap) {
    let frames = EarlyFrames::new(map, PhysRange::new(PhysAddr::ZERO, 1 << 32));
    for _ in 0..64 {
        let Some(frame) = frames.allocate() else {
            break;
        };
        let range = PhysRange::new(frame.start(), 4096);
        assert!(map.is_ram(range) && map.reserved().all(|taken| !taken.overlaps(range)));
    }
}

/// The direct map covers all RAM and the first MiB, and nothing else.
fn check_plan(map: &MemoryMap) {
    let plan = direct_map::plan(map, PagingMode::FiveLevel, Limits::WIDEST);
    let first_mib = direct_map::FIRST_MIB;
    let above: u64 = map
        .ram()
        .filter(|ram| ram.last() > first_mib.last())
        .map(|ram| ram.last().as_u64() - ram.start().max(PhysAddr::new(1 << 20)).as_u64() + 1)
        .sum();
    assert_eq!(plan.bytes(), first_mib.size() + above);
    assert!(
        plan.runs()
            .all(|run| run.phys.is_aligned(run.page.bytes()) && run.access == Access::ReadWrite)
    );
}
