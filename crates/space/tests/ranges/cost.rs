//! Costs, in nodes touched. The bounds are those of a binary search tree made in random order, which a treap is: a search takes
//! about 2 ln n steps on average (Knuth, The Art of Computer Programming 3, 6.2.2), and at most 4.32 ln n (Devroye 1986).

use std::cell::Cell;

use kspace::ranges::{Ranges, Request};
use kspace_layout::{PhysAddr, PhysRange, VirtRange};
use kspace_paging::{PhysMemory, RawEntry};
use kspace_sim::{SimFrames, SimMemory};

use crate::{Numbers, VMALLOC, numbers, pages};

const BASE: u64 = VMALLOC;

/// Memory that counts how often a node is reached for.
struct Counting {
    memory: SimMemory,
    touches: Cell<u64>,
}

// SAFETY: everything is passed on to memory that keeps the contract.
unsafe impl PhysMemory for Counting {
    fn entries<E: RawEntry>(&self, table: PhysAddr, count: usize) -> Option<&[E::Atomic]> {
        self.touches.set(self.touches.get() + 1);
        self.memory.entries::<E>(table, count)
    }
}

/// Runs `test` on an area with `count` allocations of 2 MiB and as many holes between them, each of its own size.
fn with_holes(
    count: u64,
    test: impl FnOnce(&mut Ranges<'_, Counting, &SimFrames<'_>>, &Cell<u64>),
) {
    let books = PhysRange::new(PhysAddr::ZERO, 64 << 20);
    let memory = Counting {
        memory: SimMemory::arena(books),
        touches: Cell::new(0),
    };
    let frames = SimFrames::new(&memory.memory, books);
    let mut ranges = Ranges::new(pages(BASE, 1 << 33), &memory, &frames).expect("a frame");
    let request = Request::pages(512).aligned(512);
    let all: Vec<VirtRange> = (0..2 * count)
        .map(|_| ranges.allocate(&request).expect("space"))
        .collect();
    for range in all.iter().skip(1).step_by(2) {
        ranges.free(*range).expect("live");
    }
    assert_eq!(ranges.range_count(), count);
    test(&mut ranges, &memory.touches);
}

/// An allocation searches twice by size (this order, and the next) and takes a node out of two trees; a free searches once
/// and puts a node into two. So seven ways down, and a few touches of the slab's headers and of the node itself.
#[test]
fn costs_are_logarithmic() {
    for count in [100, 1_000, 10_000, 50_000] {
        with_holes(count, |ranges, touches| {
            let mut random = Numbers(count);
            let request = Request::pages(512).aligned(512);
            let mut held = Vec::new();
            let (mut total, mut most) = (0, 0);
            for _ in 0..5_000 {
                touches.set(0);
                held.push(ranges.allocate(&request).expect("space"));
                if held.len() > 50 {
                    let which = random.below(held.len() as u64) as usize;
                    ranges.free(held.swap_remove(which)).expect("live");
                }
                total += touches.get();
                most = most.max(touches.get());
            }
            let depth = (count as f64).ln();
            let mean = total as f64 / 5_000.0;
            assert!(
                mean < 7.0 * 2.0 * depth + 30.0,
                "{count} holes: {mean} nodes"
            );
            assert!(
                (most as f64) < 7.0 * 4.32 * depth + 30.0,
                "{count} holes: {most} nodes"
            );
        });
    }
}

/// Many ranges that are large enough and lie badly are not all looked at, when one is there that fits for certain: here by not a
/// page more than that takes.
#[test]
fn bad_alignment_is_bounded() {
    with_holes(10_000, |ranges, touches| {
        // Every hole now starts one page after a multiple of 512, and the last is of 100 + 511 pages.
        let holes: Vec<VirtRange> = ranges.iter().collect();
        for hole in &holes {
            let (start, _) = numbers(*hole);
            ranges.allocate_at(pages(start, 1)).expect("free");
        }
        let (start, count) = numbers(holes[9_999]);
        let rest = pages(start + 1 + 611, count - 1 - 611);
        ranges.allocate_at(rest).expect("free");
        assert_eq!((ranges.range_count(), ranges.largest_free()), (10_000, 611));
        touches.set(0);
        let range = ranges.allocate(&Request::pages(100).aligned(512));
        assert_eq!(range, Ok(pages(start + 512, 100)));
        // 16 in vain, each with the way to the next, then the certain one, and the cut.
        let depth = 10_000_f64.ln();
        let bound = 16.0 + 7.0 * 4.32 * depth + 30.0;
        assert!((touches.get() as f64) < bound, "{} nodes", touches.get());
    });
}
