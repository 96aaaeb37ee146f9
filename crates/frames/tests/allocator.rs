//! The allocator used as a kernel uses it, on one CPU: what it hands out, what it refuses, and what it says then.

mod allocator_books;

use allocator_books::Books;
use kspace_frames::{
    AddError, AllocError, Block, Constraint, FrameAllocator, History, MetadataSize, Order, Owner,
    PinnedCpu, TREE_FRAMES,
};
use kspace_layout::Pfn;

const GIB: usize = 1 << 18;

/// The proof for a CPU of a test with one thread.
fn cpu(number: u16) -> PinnedCpu {
    // SAFETY: each of these tests runs in one thread, which uses each proof only between calls.
    unsafe { PinnedCpu::new(number) }
}

fn whole(books: &Books) -> FrameAllocator<'_> {
    let frames = books.allocator();
    frames.add(books.start, books.frames).unwrap();
    frames
}

/// Everything is free again, and whole.
fn all_back(frames: &FrameAllocator<'_>, cpus: u16) {
    for number in 0..cpus {
        frames.drain(&cpu(number));
    }
    assert_eq!(frames.free_frames(), frames.managed_frames());
    assert_eq!(frames.refused_drops(), 0);
}

#[test]
fn every_order_is_aligned_and_comes_back() {
    let books = Books::new(0x1_0000, GIB, 2);
    let frames = whole(&books);
    for order in (0..=10).map(Order::new) {
        let blocks: Vec<Block<'_>> = (0..20)
            .map(|_| frames.allocate(&cpu(0), order, Owner::KERNEL).unwrap())
            .collect();
        let mut starts: Vec<u64> = blocks.iter().map(|block| block.pfn().as_u64()).collect();
        assert!(starts.iter().all(|pfn| pfn % order.frames() as u64 == 0));
        starts.sort_unstable();
        assert!(
            starts
                .windows(2)
                .all(|two| two[1] - two[0] >= order.frames() as u64)
        );
        for (index, block) in blocks.into_iter().enumerate() {
            if index % 2 == 0 {
                block.free(&cpu(1)).unwrap();
            }
        }
    }
    all_back(&frames, 2);
    assert_eq!(frames.free_huges(), GIB / 512);
}

#[test]
fn all_memory_can_be_handed_out_once() {
    let books = Books::new(0, 5 * TREE_FRAMES + 700, 1);
    let frames = whole(&books);
    let mut seen = vec![false; books.frames];
    let mut blocks = Vec::new();
    let error = loop {
        match frames.allocate(&cpu(0), Order::FRAME, Owner::USER) {
            Ok(block) => {
                let index = block.pfn().as_u64() as usize;
                assert!(!std::mem::replace(&mut seen[index], true));
                blocks.push(block);
            }
            Err(error) => break error,
        }
    };
    assert!(seen.iter().all(|seen| *seen));
    assert_eq!(
        error.to_string(),
        "frames: order 0 (4 KiB): no free block; 0 frames (0 KiB) free, 0 frames (0 KiB) kept by CPUs; \
         free some or drain the CPUs"
    );
    drop(blocks);
    all_back(&frames, 1);
    assert_eq!(frames.free_huges(), books.frames / 512);
}

#[test]
fn what_another_cpu_keeps_comes_back_on_request() {
    let books = Books::new(0, 1024, 2);
    let frames = whole(&books);
    let first = frames.allocate(&cpu(1), Order::FRAME, Owner::USER).unwrap();
    first.free(&cpu(1)).unwrap();
    let order = Order::MAX;
    let error = frames.allocate(&cpu(0), order, Owner::USER).unwrap_err();
    assert!(matches!(error, AllocError::Exhausted { cached, .. } if cached > 0));
    frames.request_drain();
    frames.drain_if_requested(&cpu(1));
    assert_eq!(frames.cached_frames(), 0);
    let block = frames.allocate(&cpu(0), order, Owner::USER).unwrap();
    assert_eq!(block.range().size(), 4 << 20);
}

#[test]
fn in_a_small_zone_a_full_stack_is_emptied_by_half_too() {
    // Too little memory for a CPU to keep huge frames.
    let books = Books::new(0, 2048, 1);
    let frames = whole(&books);
    let limit = frames.cache_limit();
    assert!(limit < 512);
    let blocks: Vec<Block<'_>> = (0..3 * limit)
        .map(|_| frames.allocate(&cpu(0), Order::FRAME, Owner::USER).unwrap())
        .collect();
    for (index, block) in blocks.into_iter().enumerate() {
        block.free(&cpu(0)).unwrap();
        if index >= limit {
            let kept = frames.cached_frames();
            assert!((limit / 2..=limit).contains(&kept), "{kept} of {limit}");
        }
    }
    all_back(&frames, 1);
}

#[test]
fn holes_stay_reserved() {
    let books = Books::new(0x100, 3 * TREE_FRAMES, 1);
    let frames = books.allocator();
    // Two ranges in one tree, one of them crossing a huge frame, and a whole tree.
    frames.add(Pfn::new(0x100), 0x9f).unwrap();
    frames.add(Pfn::new(0x3f0), 0x300).unwrap();
    frames
        .add(Pfn::new(TREE_FRAMES as u64), TREE_FRAMES)
        .unwrap();
    let managed = 0x9f + 0x300 + TREE_FRAMES;
    assert_eq!(frames.managed_frames(), managed);
    let mut blocks = Vec::new();
    while let Ok(block) = frames.allocate(&cpu(0), Order::FRAME, Owner::USER) {
        let pfn = block.pfn().as_u64() as usize;
        assert!(
            (0x100..0x19f).contains(&pfn)
                || (0x3f0..0x6f0).contains(&pfn)
                || (TREE_FRAMES..2 * TREE_FRAMES).contains(&pfn)
        );
        blocks.push(block);
    }
    assert_eq!(blocks.len(), managed);
    assert_eq!(
        frames.add(Pfn::new(0x300), 0x100),
        Err(AddError::Known {
            frame: Pfn::new(0x3f0)
        })
    );
    drop(blocks);
    all_back(&frames, 1);
    assert_eq!(
        frames.add(Pfn::new(0), 1).unwrap_err().to_string(),
        "frames: add of 0000000000000000, 4 KiB: not in the span of 196608 KiB from 0000000000100000; \
         nothing was changed"
    );
    assert_eq!(frames.add(Pfn::new(0x19f), 0x51), Ok(()));
    assert_eq!(
        frames.add(Pfn::new(TREE_FRAMES as u64 + 7), 1),
        Err(AddError::Known {
            frame: Pfn::new(TREE_FRAMES as u64 + 7)
        })
    );
}

#[test]
fn a_block_in_use_is_known_by_each_of_its_frames() {
    let books = Books::new(0x400, GIB, 1);
    let frames = books.allocator();
    frames.add(Pfn::new(0x500), 0x40).unwrap();
    let pin = cpu(0);
    let take = |order| frames.allocate(&pin, Order::new(order), Owner::USER).ok();
    let blocks: Vec<_> = core::iter::from_fn(|| take(4)).collect();
    assert_eq!(blocks.len(), 4);
    let known = |frame| {
        Err(AddError::Known {
            frame: Pfn::new(frame),
        })
    };
    assert_eq!(frames.add(Pfn::new(0x4f0), 0x30), known(0x500));
    assert_eq!(frames.add(Pfn::new(0x508), 1), known(0x508));
    assert_eq!(frames.add(Pfn::new(0x53f), 0x10), known(0x53f));
    assert_eq!(frames.add(Pfn::new(0x540), 0x10), Ok(()));
    drop(blocks);
    // A block over two huge frames, of which the second has none of its records.
    let tree = Pfn::new(0x2000);
    frames.add(tree, TREE_FRAMES).unwrap();
    let block = take(10).expect("a whole tree has some");
    let second = block.pfn().as_u64() + 0x200;
    assert_eq!(frames.add(Pfn::new(second + 3), 5), known(second + 3));
}

#[test]
fn contiguous_ranges_keep_limit_and_alignment() {
    let books = Books::new(0x400, GIB, 1);
    let frames = whole(&books);
    let pin = cpu(0);
    let within = |align, last| Constraint {
        align,
        last: Pfn::new(last),
    };
    let low = frames
        .allocate_contiguous(&pin, 0x300, within(1, 0xfff), Owner::DMA)
        .unwrap();
    assert_eq!(low.pfn().as_u64(), 0x400);
    let aligned = frames
        .allocate_contiguous(&pin, 3000, within(0x1000, 0xffff), Owner::DMA)
        .unwrap();
    assert_eq!(aligned.pfn().as_u64(), 0x1000);
    let between = frames
        .allocate_contiguous(&pin, 0x900, within(0x100, 0xfff), Owner::DMA)
        .unwrap();
    assert_eq!(between.pfn().as_u64(), 0x700);
    assert_eq!(
        frames
            .allocate_contiguous(&pin, 1, within(1, 0x3ff), Owner::DMA)
            .unwrap_err()
            .to_string(),
        "frames: address limit 00000000003fffff lies below the first frame 0000000000400000; use another zone"
    );
    assert_eq!(
        frames
            .allocate_contiguous(&pin, GIB, Constraint::NONE, Owner::DMA)
            .unwrap_err()
            .to_string(),
        "frames: contiguous 262144 frames (1 GiB) aligned to 1 frames up to 000fffffffffffff: none; \
         256072 frames (1024288 KiB) free; ask for smaller pieces"
    );
    assert_eq!(
        frames
            .allocate_contiguous(&pin, 0, Constraint::NONE, Owner::DMA)
            .unwrap_err()
            .to_string(),
        "frames: zero frames were asked for; ask for at least one"
    );
    assert_eq!(
        frames
            .allocate_contiguous(&pin, 1, within(3, 0xfff), Owner::DMA)
            .unwrap_err()
            .to_string(),
        "frames: alignment of 3 frames: it is no power of two"
    );
    low.free(&pin).unwrap();
    aligned.into_blocks(drop);
    drop(between);
    all_back(&frames, 1);
    assert_eq!(frames.free_huges(), GIB / 512);
}

#[test]
fn runs_are_as_few_as_possible() {
    let books = Books::new(0, GIB, 1);
    let frames = whole(&books);
    let mut orders = Vec::new();
    let mut blocks = Vec::new();
    let take = |frames: &mut Vec<u8>, block: Block<'_>| frames.push(block.order().get());
    frames
        .allocate_runs(
            &cpu(0),
            3333,
            Order::MAX,
            Order::FRAME,
            Owner::VMALLOC,
            |block| {
                blocks.push(block);
            },
        )
        .unwrap();
    for block in blocks {
        take(&mut orders, block);
    }
    // 3333 = 3 x 1024 + 256 + 4 + 1
    assert_eq!(orders, [10, 10, 10, 8, 2, 0]);
    let mut given = Vec::new();
    assert_eq!(
        frames
            .allocate_runs(
                &cpu(0),
                GIB + 5,
                Order::HUGE,
                Order::HUGE,
                Owner::VMALLOC,
                |block| {
                    given.push(block);
                }
            )
            .unwrap_err()
            .to_string(),
        "frames: 262149 frames (1048596 KiB) in blocks: 5 frames (20 KiB) are missing; drop the rest and free some"
    );
    drop(given);
    all_back(&frames, 1);
}

#[test]
fn a_kernel_without_memory_for_the_books_is_told_both_sizes() {
    let books = Books::new(0, 2048, 1);
    let error = FrameAllocator::new(Pfn::new(0), 4096, books.metadata()).unwrap_err();
    // 4096 frames: a slot of 1024 bytes, a tree (64 with the gap after it), 16 pairs, 256 words, 4096 records.
    assert_eq!(
        error.to_string(),
        "frames: metadata of 20608 bytes is needed for 4096 frames and 1 CPUs, 12416 were given for 2048 and 1"
    );
    assert_eq!(
        FrameAllocator::new(Pfn::new(0), 0, books.metadata())
            .unwrap_err()
            .to_string(),
        "frames: span of 0 frames from 0000000000000000: it must have at least one and end below 2^52"
    );
}

#[test]
fn an_unknown_cpu_gets_an_error() {
    let books = Books::new(0, 2048, 1);
    let frames = whole(&books);
    assert_eq!(
        frames
            .allocate(&cpu(1), Order::FRAME, Owner::USER)
            .unwrap_err()
            .to_string(),
        "frames: CPU 1 of an allocator made for 1; give it a slot for each CPU"
    );
    assert_eq!(
        Order::try_new(11).unwrap_err().to_string(),
        "frames: order 11: the largest is order 10 (4 MiB); ask for a contiguous range"
    );
}

#[test]
fn splitting_leaves_blocks_that_are_freed_one_by_one() {
    let books = Books::new(0, GIB, 1);
    let frames = whole(&books);
    for (from, to) in [(10, 9), (10, 3), (9, 0), (5, 2)] {
        let block = frames
            .allocate(&cpu(0), Order::new(from), Owner::HEAP)
            .unwrap();
        let start = block.pfn();
        let mut parts = Vec::new();
        block
            .split(Order::new(to), |part| parts.push(part))
            .unwrap();
        assert_eq!(parts.len(), 1 << (from - to));
        assert_eq!(parts[0].pfn(), start);
        let owner = |part: &Block<'_>| match frames.history(part.pfn()) {
            Some(History::InUse { owner, order, .. }) => (owner, order),
            other => panic!("{other:?}"),
        };
        assert!(
            parts
                .iter()
                .all(|part| owner(part) == (Owner::HEAP, Order::new(to)))
        );
        assert!(parts.pop().unwrap().split(Order::new(to), drop).is_err());
        drop(parts);
    }
    all_back(&frames, 1);
    assert_eq!(frames.free_huges(), GIB / 512);
}

/// Sizes that no machine has are refused in words, without an overflow on the way to them.
#[test]
fn absurd_sizes_are_refused_in_words() {
    let books = Books::new(0, 5000, 1);
    let frames = whole(&books);
    let all = usize::MAX;
    for frame_count in [all, all / 2, 5001] {
        for align in [1, 1 << 40] {
            let within = Constraint {
                align,
                last: Constraint::NONE.last,
            };
            let error = frames.allocate_contiguous(&cpu(0), frame_count, within, Owner::DMA);
            let text = error.unwrap_err().to_string();
            assert!(text.contains(&format!("{frame_count} frames")), "{text}");
        }
        let start = Pfn::new(1);
        let error = frames.allocate_at(start, frame_count, Owner::DMA);
        assert!(error.unwrap_err().to_string().contains("none; "));
        let error = frames.add(start, frame_count).unwrap_err();
        assert!(error.to_string().contains("not in the span"), "{error}");
    }
    let too_many = FrameAllocator::new(Pfn::new(0), all, books.metadata());
    assert!(too_many.unwrap_err().to_string().contains("2^52"));
    assert_eq!(MetadataSize::new(Pfn::new(0), all, all).bytes(), all);
    all_back(&frames, 1);
}
