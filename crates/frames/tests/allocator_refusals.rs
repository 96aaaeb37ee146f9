//! Frees that must be refused, each with what it says, and the state that values carry.

mod allocator_books;

use allocator_books::Books;
use kspace_frames::{Block, FrameAllocator, MAX_REFERENCES, MappedBlock, Order, Owner, PinnedCpu};
use kspace_layout::Pfn;

const FRAME: Order = Order::FRAME;

/// The proof for a CPU of a test with one thread.
fn cpu(number: u16) -> PinnedCpu {
    // SAFETY: each of these tests runs in one thread, which uses each proof only between calls.
    unsafe { PinnedCpu::new(number) }
}

/// 8 MiB from 1 MiB on; the last 4 MiB of it are a hole.
fn books() -> Books {
    Books::new(0x100, 2048, 2)
}

fn allocator(books: &Books) -> FrameAllocator<'_> {
    let frames = books.allocator();
    frames.add(Pfn::new(0x100), 1024).unwrap();
    frames
}

/// What freeing these frames by number says.
fn refusal(frames: &FrameAllocator<'_>, pfn: u64, order: Order) -> String {
    let free = frames.free_frames_exact();
    let kept = frames.cached_frames();
    // SAFETY: wrong on purpose: each of these must be refused.
    let error = unsafe { frames.free(&cpu(1), Pfn::new(pfn), order) }.unwrap_err();
    assert_eq!(
        (frames.free_frames_exact(), frames.cached_frames()),
        (free, kept)
    );
    error.to_string()
}

#[test]
fn frees_that_were_never_handed_out() {
    let books = books();
    let frames = allocator(&books);
    assert_eq!(
        refusal(&frames, 0x1900, FRAME),
        "frames: free of 0000000001900000, order 0 (4 KiB): not in the span 0000000000100000-00000000008fffff; \
         nothing was changed"
    );
    assert_eq!(
        refusal(&frames, 0x101, Order::new(1)),
        "frames: free of 0000000000101000, order 1 (8 KiB): a block of that order does not begin there; \
         nothing was changed"
    );
    let reserved = |address: &str| {
        format!(
            "frames: free of {address}, order 0 (4 KiB): reserved, never the allocator's to hand out; \
             nothing was changed"
        )
    };
    assert_eq!(refusal(&frames, 0x600, FRAME), reserved("0000000000600000"));
    // In the same huge frame as usable memory.
    assert_eq!(refusal(&frames, 0x5ff, FRAME), reserved("00000000005ff000"));
    let never =
        "frames: free of 0000000000180000, order 0 (4 KiB): never handed out; nothing was changed";
    assert_eq!(refusal(&frames, 0x180, FRAME), never);
    // Nor does it become so when a CPU keeps it.
    let block = frames.allocate(&cpu(0), FRAME, Owner::USER).unwrap();
    let kept = block.pfn().as_u64() + 1;
    assert!(frames.cached_frames() > 0);
    assert!(refusal(&frames, kept, FRAME).ends_with("never handed out; nothing was changed"));
}

#[test]
fn double_frees_tell_the_history() {
    let books = books();
    let frames = allocator(&books);
    for (order, who) in [
        (0, "a page table"),
        (3, "a page table"),
        (9, "a page table"),
    ] {
        let order = Order::new(order);
        let (pfn, _) = frames
            .allocate(&cpu(0), order, Owner::PAGE_TABLE)
            .unwrap()
            .into_raw();
        // SAFETY: the block was just given up.
        unsafe { frames.free(&cpu(1), pfn, order) }.unwrap();
        assert_eq!(
            refusal(&frames, pfn.as_u64(), order),
            format!(
                "frames: free of {}, {order}: free already (was {who}, {order}, freed by CPU 1); nothing was changed",
                pfn.start()
            )
        );
    }
    // Without a CPU's account.
    let block = frames.allocate(&cpu(0), FRAME, Owner::STACK).unwrap();
    let pfn = block.pfn();
    drop(block);
    assert!(
        refusal(&frames, pfn.as_u64(), FRAME).contains("(was a stack, order 0 (4 KiB), freed)")
    );
}

#[test]
fn another_order_or_the_middle_of_a_block() {
    let books = books();
    let frames = allocator(&books);
    let block = frames
        .allocate(&cpu(0), Order::new(4), Owner::HEAP)
        .unwrap();
    let pfn = block.pfn().as_u64();
    assert_eq!(
        refusal(&frames, pfn, Order::new(3)),
        format!(
            "frames: free of {}, order 3 (32 KiB): of another order (in use as heap, order 4 (64 KiB)); \
             nothing was changed",
            block.pfn().start()
        )
    );
    assert_eq!(
        refusal(&frames, pfn + 5, FRAME),
        format!(
            "frames: free of {}, order 0 (4 KiB): inside the block at {} (in use as heap, order 4 (64 KiB)); \
             nothing was changed",
            Pfn::new(pfn + 5).start(),
            block.pfn().start()
        )
    );
    // A frame that was single once, and is inside a block now.
    let huge = frames.allocate(&cpu(0), Order::HUGE, Owner::HEAP).unwrap();
    let inside = huge.pfn().as_u64() + 7;
    huge.split(FRAME, drop).unwrap();
    frames.drain(&cpu(0));
    let huge = frames.allocate(&cpu(0), Order::HUGE, Owner::USER).unwrap();
    assert!(huge.pfn().as_u64() + 7 == inside);
    assert!(refusal(&frames, inside, FRAME).contains("inside the block at"));
}

#[test]
fn what_is_mapped_cannot_be_freed() {
    let books = books();
    let frames = allocator(&books);
    let mapped: MappedBlock<'_> = frames
        .allocate(&cpu(0), FRAME, Owner::USER)
        .unwrap()
        .map()
        .unwrap();
    let pfn = mapped.pfn();
    let says = format!(
        "frames: free of {}, order 0 (4 KiB): mapped (in use as user memory, order 0 (4 KiB)); unmap it first; \
         nothing was changed",
        pfn.start()
    );
    assert_eq!(refusal(&frames, pfn.as_u64(), FRAME), says);
    let (pfn, order) = mapped.into_raw();
    // SAFETY: wrong on purpose: it is mapped, so it is not a block.
    let error = unsafe { Block::from_raw(&frames, pfn, order) }.unwrap_err();
    assert_eq!(error.to_string(), says);
    // SAFETY: from `into_raw` just above.
    let mapped = unsafe { MappedBlock::from_raw(&frames, pfn, order) }.unwrap();
    // SAFETY: there are no page tables in this test.
    let block = unsafe { mapped.unmapped() }.unwrap();
    let (pfn, order) = block.into_raw();
    // SAFETY: wrong on purpose: it is a block, and not mapped.
    let error = unsafe { MappedBlock::from_raw(&frames, pfn, order) }.unwrap_err();
    let says = format!(
        "frames: free of {}, order 0 (4 KiB): not mapped (in use as user memory, order 0 (4 KiB)); free it as a \
         block; nothing was changed",
        pfn.start()
    );
    assert_eq!(error.to_string(), says);
    // SAFETY: from `into_raw` above.
    let block = unsafe { Block::from_raw(&frames, pfn, order) }.unwrap();
    block.free(&cpu(0)).unwrap();
    frames.drain(&cpu(0));
    assert_eq!(frames.free_frames(), 1024);
}

#[test]
fn the_last_holder_frees() {
    let books = books();
    let frames = allocator(&books);
    let first = frames
        .allocate(&cpu(0), FRAME, Owner::CACHE)
        .unwrap()
        .share();
    let pfn = first.pfn();
    let second = first.try_clone().unwrap();
    assert_eq!(
        refusal(&frames, pfn.as_u64(), FRAME),
        format!(
            "frames: free of {}, order 0 (4 KiB): shared (in use as file cache, order 0 (4 KiB), held 2 times); \
             drop one reference; nothing was changed",
            pfn.start()
        )
    );
    let first = first.try_unique().unwrap_err();
    drop(first);
    let mut holders = vec![second];
    while let Some(more) = holders[0].try_clone() {
        holders.push(more);
    }
    assert_eq!(holders.len(), MAX_REFERENCES as usize);
    holders.truncate(1);
    let block = holders.pop().unwrap().try_unique().unwrap();
    assert_eq!(block.pfn(), pfn);
    drop(block.share());
    frames.drain(&cpu(0));
    assert_eq!((frames.free_frames(), frames.refused_drops()), (1024, 0));
}

#[test]
fn a_drop_after_a_free_by_number_is_counted() {
    let books = books();
    let frames = allocator(&books);
    let block = frames.allocate(&cpu(0), FRAME, Owner::USER).unwrap();
    // SAFETY: wrong on purpose: the value still owns it, and finds out.
    unsafe { frames.free(&cpu(0), block.pfn(), FRAME) }.unwrap();
    drop(block);
    let range = frames
        .allocate_contiguous(&cpu(0), 600, kspace_frames::Constraint::NONE, Owner::DMA)
        .unwrap();
    let first = range.pfn();
    let broken = (0..=10).map(Order::new).find(|&order| {
        // SAFETY: wrong on purpose: the range still owns it.
        unsafe { frames.free(&cpu(0), first, order) }.is_ok()
    });
    assert!(broken.is_some());
    let error = range.free(&cpu(0)).unwrap_err();
    assert_eq!(error.pfn(), first);
    assert!(error.to_string().contains("free already"));
    assert_eq!(frames.refused_drops(), 1);
}
