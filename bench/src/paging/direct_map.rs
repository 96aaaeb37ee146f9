//! Bytes of page tables for the direct map of all memory, beside the least possible.
//!
//! The least possible is counted here by arithmetic on the memory map alone: for each level, the entries' spans that hold
//! any memory which a larger page cannot map.

use kspace::direct_map::{self, Plan};
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_layout::{PagingMode, PhysAddr, PhysRange, X86_64};
use kspace_paging::{Editor, FrameSource, Limits, LongMode};
use kspace_sim::{SimFrames, SimMemory};

use crate::row::Row;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What QEMU's firmware reports for a machine whose memory ends at `end`: holes below 1 MiB and below 4 GiB.
fn ram(end: u64) -> [(u64, u64); 3] {
    [(0, 639 * KIB), (MIB, 3 * GIB), (4 * GIB, end)]
}

pub(super) fn rows() -> Vec<Row> {
    let sizes = [
        ("5 GiB, 4-level", PagingMode::FourLevel, 6 * GIB),
        ("64 TiB, 4-level", PagingMode::FourLevel, 64 << 40),
        ("4 PiB, 5-level", PagingMode::FiveLevel, 4 << 50),
    ];
    let row = |(name, mode, end)| Row {
        bench: "paging",
        name: format!("page tables for a direct map of {name}"),
        unit: "bytes",
        ours: tables(mode, end) as f64,
        peer: least_tables(mode, end) as f64,
        peer_name: "the least possible",
    };
    sizes.into_iter().map(row).collect()
}

/// Builds the direct map and counts, without the root, which serves the whole address space.
fn tables(mode: PagingMode, end: u64) -> u64 {
    let entry = |(start, end)| FirmwareEntry {
        start,
        size: end - start,
        kind: 1,
    };
    let map = MemoryMap::from_firmware(ram(end).map(entry), 52, |_| ()).expect("a sound map");
    let layout = X86_64::new(mode, map.ram_last())
        .build()
        .expect("a sound layout");
    let memory = SimMemory::sparse();
    let frames = SimFrames::new(&memory, PhysRange::new(PhysAddr::new(GIB), GIB));
    let root = frames.allocate().expect("the range has frames");
    let limits = Limits::WIDEST;
    // SAFETY: nothing else uses these tables.
    let editor = unsafe { Editor::<LongMode, _, _>::new(mode, root, limits, &memory, &frames) };
    let plan = Plan::for_layout(&layout, &map, limits);
    direct_map::build(&editor.expect("a root"), &layout, &plan).expect("a direct map");
    (frames.in_use() as u64 - 1) * 4 * KIB
}

/// The direct map begins at a multiple of what a root entry spans, so physical addresses can stand for virtual ones.
fn least_tables(mode: PagingMode, end: u64) -> u64 {
    // Page by page what a leaf must be: 4 KiB in the first MiB and at ragged ends, then the largest that fits.
    let ends = ram(end);
    let mut tables = 0;
    for level in 1..mode.levels() {
        let span = 1 << mode.level_shift(level + 1);
        let leaf = mode.leaf_size(level + 1).map(|size| size.bytes());
        let needs_table = |start: u64| {
            let (from, to) = (start, start.saturating_add(span));
            let whole = ends
                .iter()
                .any(|&(first, last)| first <= from && to <= last);
            let any = ends.iter().any(|&(first, last)| first < to && from < last);
            any && !(whole && leaf.is_some() && from >= MIB)
        };
        // Spans that begin a range or end it, and (for levels without larger leaves) all in between.
        let candidates: Vec<u64> = if leaf.is_some() {
            ends.iter()
                .flat_map(|&(first, last)| [first / span, (last - 1) / span])
                .collect()
        } else {
            (0..=(end - 1) / span).collect()
        };
        let mut starts: Vec<u64> = candidates.into_iter().map(|number| number * span).collect();
        starts.sort_unstable();
        starts.dedup();
        tables += starts
            .into_iter()
            .filter(|&start| needs_table(start))
            .count() as u64;
    }
    tables * 4 * KIB
}
