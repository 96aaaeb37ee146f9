//! A block with numbers in it.

use kspace_frames::Block;
use kspace_layout::FRAME_SIZE;

use super::tally::TALLY;
use crate::memory::{self, Memory};

/// Bytes from one number to the next: a cache line.
const STRIDE: usize = 64;

/// A block that holds numbers, which it must hold until it is freed.
pub(super) struct Held {
    block: Block<'static>,
    number: u64,
}

impl Held {
    /// Fills `block` with numbers that follow from `number`.
    pub(super) fn fill(memory: &Memory, block: Block<'static>, number: u64) -> Self {
        TALLY.add_blocks(1);
        TALLY.add_frames(block.order().frames() as u64);
        let held = Self { block, number };
        for (place, expected) in held.places(memory) {
            // SAFETY: the block is RAM in the direct map, and this value's alone.
            unsafe { place.write_volatile(expected) };
        }
        held
    }

    /// The block, after its numbers were looked at.
    pub(super) fn check(self, memory: &Memory) -> Block<'static> {
        let wrong = self.places(memory).filter(|(place, expected)| {
            // SAFETY: as in `fill`.
            unsafe { place.read_volatile() != *expected }
        });
        TALLY.add_wrong(wrong.count() as u64);
        self.block
    }

    /// Looks at the numbers, and frees the block on this CPU.
    pub(super) fn free(self) {
        if let Some(memory) = memory::get() {
            memory.free(self.check(memory));
        }
    }

    fn places(&self, memory: &Memory) -> impl Iterator<Item = (*mut u64, u64)> + use<> {
        let bytes = self.block.order().frames() * FRAME_SIZE as usize;
        let window = memory.window();
        let start = window
            .pointer(self.block.pfn().start(), bytes as u64)
            .expect("the direct map has all RAM of the zones");
        let number = self.number;
        (0..bytes / STRIDE).map(move |line| {
            let place = start.wrapping_add(line * STRIDE).cast();
            (place, number.wrapping_add(line as u64))
        })
    }
}
