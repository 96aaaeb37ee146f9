//! One page and a hundred pages of a table that exists, mapped and taken away again: what an allocator of addresses does all day.
//!
//! Ours goes to the slots of the table at once (fill, park, collect: the frames come back out of the entries). Peers are the `x86_64` crate
//! page by page, whose caller keeps the frames, and this project's own editor, which walks from the root. Nobody flushes a TLB.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kspace_layout::{PageSize, PhysAddr, VirtAddr};
use kspace_paging::{LeafBits, LeafTable, Limits, LongMode, Protection};

use super::ranges::{Contender, Edit, HostMemory, Offset, Ours};
use crate::row::Row;

/// Turns of each contender; the best of them counts.
const TURNS: usize = 31;
/// Edits in a turn.
const EDITS: u32 = 1000;
/// Where the pages are, inside a table.
const VIRT: u64 = 0xffff_c900_0001_0000;
const PHYS: u64 = 1 << 30;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, pages) in [("1 page", 1), ("100 pages", 100)] {
        let [table, offset, editor] = measure(pages);
        for (peer, peer_name) in [
            (offset, "x86_64 OffsetPageTable"),
            (editor, "our editor's map + unmap"),
        ] {
            rows.push(Row {
                bench: "paging",
                name: format!("fill + park + collect {what} of one table"),
                unit: "ns",
                ours: nanoseconds(table),
                peer: nanoseconds(peer),
                peer_name,
            });
        }
    }
    rows
}

/// One edit's part of a turn.
fn nanoseconds(turn: Duration) -> f64 {
    turn.as_nanos() as f64 / f64::from(EDITS)
}

/// The best turn of each: through the table, the `x86_64` crate, the editor.
fn measure(pages: usize) -> [Duration; 3] {
    let edit = Edit {
        name: "",
        virt: VIRT,
        phys: PHYS,
        size: pages as u64 * 4096,
        page: PageSize::Size4K,
    };
    let (mut ours, mut offset) = (Ours::new(), Offset::new());
    ours.restart();
    offset.restart();
    let table = table(&ours);
    let bits = LeafBits::new(Protection::KERNEL_DATA, Limits::WIDEST);
    let mut best = [Duration::MAX; 3];
    for _ in 0..=TURNS {
        let turns = [
            turn(|| through_table(black_box(table), black_box(pages), black_box(bits))),
            turn(|| offset.edit(black_box(edit))),
            turn(|| ours.edit(black_box(edit))),
        ];
        // The first turn makes the tables; it is not the best one.
        for (best, turn) in best.iter_mut().zip(turns) {
            *best = turn.min(*best);
        }
    }
    best
}

fn turn(mut edit: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..EDITS {
        edit();
    }
    start.elapsed()
}

/// Where the table over [`VIRT`] is.
fn table(ours: &Ours) -> PhysAddr {
    let editor = ours.editor();
    let handle = editor.leaf_table(VirtAddr::new(VIRT)).expect("frames");
    handle.table()
}

/// What an allocator of addresses has at hand: the table's address, an index, a count, and the bits it always uses.
#[inline(never)]
fn through_table(table: PhysAddr, pages: usize, bits: LeafBits<LongMode>) {
    let index = (VIRT >> 12) as usize % LeafTable::<LongMode>::SLOTS;
    // SAFETY: our editor gave the table, and nobody takes it out.
    let handle = unsafe { LeafTable::<LongMode>::at(table, &HostMemory, Limits::WIDEST) };
    let handle = handle.expect("host memory");
    handle.fill(index, pages, PhysAddr::new(PHYS).pfn(), bits);
    handle.park(index, pages);
    // SAFETY: no CPU uses these tables.
    unsafe {
        handle.collect(index, pages, |first, count| {
            black_box((first, count));
        });
    }
}
