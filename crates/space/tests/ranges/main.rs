//! The free address space of an area against a model of ten lines, and its books when frames run out.

mod books;
mod cost;
mod errors;
mod exhaustive;
mod full;
mod generated;
mod given_back;
mod model;

use kspace::ranges::Ranges;
use kspace_layout::{FRAME_SIZE, PhysAddr, PhysRange, VirtAddr, VirtRange};
use kspace_sim::{SimFrames, SimMemory};

type SimRanges<'a> = Ranges<'a, SimMemory, &'a SimFrames<'a>>;

/// The first page of Linux's vmalloc area of four levels.
const VMALLOC: u64 = 0xffff_c900_0000_0000 >> 12;

/// The pages from number `start` on.
fn pages(start: u64, count: u64) -> VirtRange {
    VirtRange::new(VirtAddr::new(start * FRAME_SIZE), count * FRAME_SIZE)
}

/// The first page of a range, and how many there are.
fn numbers(range: VirtRange) -> (u64, u64) {
    assert!(range.is_aligned(FRAME_SIZE), "{range} is not made of pages");
    (
        range.start().as_u64() / FRAME_SIZE,
        range.size() / FRAME_SIZE,
    )
}

/// Runs `test` on an area without allocations, and checks that all frames come back.
fn with_ranges<R>(
    area: VirtRange,
    test: impl for<'a> FnOnce(&'a SimFrames<'a>, &mut SimRanges<'a>) -> R,
) -> R {
    let books = PhysRange::new(PhysAddr::ZERO, 16 << 20);
    let memory = SimMemory::arena(books);
    let frames = SimFrames::new(&memory, books);
    let result = {
        let mut ranges = Ranges::new(area, &memory, &frames).expect("a frame");
        test(&frames, &mut ranges)
    };
    assert_eq!(frames.in_use(), 0, "all frames come back");
    result
}

/// Numbers that look random, alike in every run (xorshift64*, Vigna 2016).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One of the numbers below `end`.
    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}
