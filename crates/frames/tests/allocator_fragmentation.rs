//! What small blocks leave whole, after much coming and going.

mod allocator_books;
mod xorshift;

use allocator_books::Books;
use kspace_frames::{Block, HUGE_FRAMES, Order, Owner, PinnedCpu};
use xorshift::Random;

/// 512 MiB.
const FRAMES: usize = 1 << 17;

/// The proof for a CPU of a test with one thread.
fn cpu(number: u16) -> PinnedCpu {
    // SAFETY: one thread, which uses each proof only between calls.
    unsafe { PinnedCpu::new(number) }
}

/// Half of the memory in use, blocks of 4 to 32 KiB and some of 2 MiB, allocated and freed at random by four CPUs: the
/// small ones lie in hardly more huge frames than they fill.
#[test]
fn a_mixed_load_leaves_huge_frames_whole() {
    let books = Books::new(0, FRAMES, 4);
    let frames = books.allocator();
    frames.add(books.start, FRAMES).unwrap();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (mut live, mut used): (Vec<Block<'_>>, usize) = (Vec::new(), 0);
    for _ in 0..600_000 {
        let pin = cpu(random.below(4) as u16);
        if random.below(FRAMES) >= used {
            let order = match random.below(1000) {
                0 => 9,
                1..=100 => random.below(3) as u8 + 1,
                _ => 0,
            };
            let block = frames
                .allocate(&pin, Order::new(order), Owner::USER)
                .unwrap();
            used += block.order().frames();
            live.push(block);
        } else if !live.is_empty() {
            let block = live.swap_remove(random.below(live.len()));
            used -= block.order().frames();
            block.free(&pin).unwrap();
        }
    }
    live.retain(|block| block.order() < Order::HUGE);
    (0..4).for_each(|number| frames.drain(&cpu(number)));
    let small: usize = live.iter().map(|block| block.order().frames()).sum();
    let filled = small.div_ceil(HUGE_FRAMES);
    let broken = FRAMES / HUGE_FRAMES - frames.free_huges();
    assert!(
        filled > 60,
        "{filled} huge frames of small blocks are no load"
    );
    assert!(
        broken * 100 <= filled * 120,
        "small blocks that fill {filled} huge frames lie in {broken}"
    );
    // What is whole can be had, and what was broken becomes whole.
    let whole = frames.free_huges();
    let blocks: Vec<_> = (0..whole)
        .map(|_| frames.allocate(&cpu(0), Order::HUGE, Owner::USER).unwrap())
        .collect();
    drop((blocks, live));
    (0..4).for_each(|number| frames.drain(&cpu(number)));
    assert_eq!(frames.free_huges(), FRAMES / HUGE_FRAMES);
}
