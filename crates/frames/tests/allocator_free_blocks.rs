//! How many free blocks of each order there are, held against what a buddy allocator would have.

mod allocator_books;
mod buddy_blocks;

use std::collections::BTreeSet;

use allocator_books::Books;
use buddy_blocks::buddy_blocks;
use kspace_frames::{Order, Owner, PinnedCpu};
use kspace_layout::Pfn;
use proptest::prelude::*;

/// Off every boundary, in the middle of a block of the largest order.
const START: u64 = 0x12_3456;
const FRAMES: usize = 40_000;

fn pin() -> PinnedCpu {
    // SAFETY: one thread, one CPU, one proof at a time.
    unsafe { PinnedCpu::new(0) }
}

#[test]
fn all_is_counted_in_the_largest_blocks() {
    let books = Books::new(0, 3 << 14, 1);
    let frames = books.allocator();
    assert_eq!(frames.free_blocks(), [0; 11]);
    frames.add(Pfn::new(0), 1 << 14).unwrap();
    assert_eq!(frames.free_blocks(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16]);
    // One frame short of a block at one end, and one frame at the other: aligned by number, not by where it begins.
    frames.add(Pfn::new((1 << 14) + 1), 1024).unwrap();
    assert_eq!(frames.free_blocks(), [2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 16]);
}

#[test]
fn what_a_cpu_keeps_is_not_free() {
    let books = Books::new(0, 1 << 14, 1);
    let frames = books.allocator();
    frames.add(Pfn::new(0), 1 << 14).unwrap();
    let pin = pin();
    let one = frames.allocate(&pin, Order::FRAME, Owner::USER).unwrap();
    let all = |counts: [usize; 11]| -> usize {
        counts
            .iter()
            .enumerate()
            .map(|(order, count)| count << order)
            .sum()
    };
    assert!(frames.cached_frames() > 0);
    assert_eq!(
        all(frames.free_blocks()),
        (1 << 14) - 1 - frames.cached_frames()
    );
    frames.drain(&pin);
    let free = (0..1 << 14)
        .filter(|&frame| frame != one.pfn().as_u64())
        .collect();
    assert_eq!(frames.free_blocks(), buddy_blocks(&free));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Any set of frames and ranges in use, on a span that begins and ends anywhere.
    #[test]
    fn they_are_those_of_a_buddy_allocator(
        taken in prop::collection::vec((0..FRAMES as u64, prop_oneof![Just(1_usize), 1..70_usize, 1..2000_usize]), 0..300),
    ) {
        let books = Books::new(START, FRAMES, 1);
        let frames = books.allocator();
        frames.add(Pfn::new(START), FRAMES).unwrap();
        let mut free: BTreeSet<u64> = (START..START + FRAMES as u64).collect();
        let mut held = Vec::new();
        for (at, count) in taken {
            if let Ok(range) = frames.allocate_at(Pfn::new(START + at), count, Owner::USER) {
                for frame in START + at..START + at + count as u64 {
                    prop_assert!(free.remove(&frame));
                }
                held.push(range);
            }
        }
        prop_assert_eq!(frames.free_blocks(), buddy_blocks(&free));
        // Half of them come back.
        let mut back = true;
        held.retain(|range| {
            back = !back;
            if !back {
                let start = range.pfn().as_u64();
                free.extend(start..start + range.frames() as u64);
            }
            back
        });
        frames.drain(&pin());
        prop_assert_eq!(frames.free_blocks(), buddy_blocks(&free));
    }
}
