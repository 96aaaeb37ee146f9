//! Mapped blocks freed in one step: what is refused, and what the books say afterwards.

mod allocator_books;

use allocator_books::Books;
use kspace_frames::{Flags, FrameAllocator, FreeProblem, History, Order, Owner, PinnedCpu};
use kspace_layout::Pfn;

const FRAMES: usize = 4096;

fn with_allocator(test: impl FnOnce(&FrameAllocator<'_>, &PinnedCpu)) {
    let books = Books::new(0, FRAMES, 1);
    let allocator = books.allocator();
    allocator.add(Pfn::new(0), FRAMES).expect("memory");
    // SAFETY: the test is one thread, which uses one value.
    test(&allocator, &unsafe { PinnedCpu::new(0) });
}

/// Allocates a block as page tables have it.
fn mapped(allocator: &FrameAllocator<'_>, pin: &PinnedCpu, order: Order) -> Pfn {
    let block = allocator
        .allocate(pin, order, Owner::VMALLOC)
        .expect("memory");
    let (pfn, its) = block.map_new().into_raw();
    assert_eq!(its, order);
    let Some(History::InUse {
        order: its,
        owner,
        flags,
        references,
    }) = allocator.history(pfn)
    else {
        panic!("it is in use");
    };
    assert_eq!((its, owner, references), (order, Owner::VMALLOC, 1));
    assert!(flags.contains(Flags::MAPPED));
    pfn
}

#[test]
fn every_order_comes_back_with_its_order() {
    with_allocator(|allocator, pin| {
        for order in (0..=Order::MAX.get()).map(Order::new) {
            let pfn = mapped(allocator, pin, order);
            // SAFETY: it came from `into_raw`, and nothing uses it.
            let freed = unsafe { allocator.free_mapped(pin, pfn) };
            assert_eq!(freed.ok(), Some(order));
            let Some(History::Freed {
                order: its,
                owner,
                cpu,
            }) = allocator.history(pfn)
            else {
                panic!("it is free");
            };
            assert_eq!((its, owner, cpu), (order, Owner::VMALLOC, Some(0)));
        }
        allocator.drain(pin);
        assert_eq!(allocator.free_frames(), FRAMES);
    });
}

#[test]
fn what_is_not_a_mapped_block_is_refused_and_stays_as_it_was() {
    with_allocator(|allocator, pin| {
        // SAFETY: what is refused is the point, and what is not is freed once.
        let free = |pfn| unsafe { allocator.free_mapped(pin, pfn) };
        let problem = |pfn| free(pfn).expect_err("refused").problem();
        let pfn = mapped(allocator, pin, Order::new(3));
        let inside = Pfn::new(pfn.as_u64() + 1);
        assert!(matches!(problem(inside), FreeProblem::Inside { head, .. } if head == pfn));
        assert_eq!(free(pfn).ok(), Some(Order::new(3)));
        assert!(matches!(problem(pfn), FreeProblem::AlreadyFree(_)));
        let block = allocator
            .allocate(pin, Order::FRAME, Owner::USER)
            .expect("memory");
        let error = free(block.pfn()).expect_err("not mapped");
        assert!(matches!(error.problem(), FreeProblem::NotMapped(_)));
        assert!(
            error.to_string().ends_with(
                "not mapped (in use as user memory, order 0 (4 KiB)); free it as a block; nothing was changed"
            ),
            "{error}"
        );
        let shared = block.share();
        let other = shared.try_clone().expect("few");
        assert!(matches!(
            problem(shared.pfn()),
            FreeProblem::NotMapped(_) | FreeProblem::Shared(_)
        ));
        drop((shared, other));
        assert!(matches!(
            problem(Pfn::new(FRAMES as u64)),
            FreeProblem::Outside { .. }
        ));
        allocator.drain(pin);
        assert_eq!(allocator.free_frames(), FRAMES);
    });
}

#[test]
fn a_mapped_block_is_freed_by_no_other_way() {
    with_allocator(|allocator, pin| {
        let pfn = mapped(allocator, pin, Order::FRAME);
        // SAFETY: it is refused.
        let error = unsafe { allocator.free(pin, pfn, Order::FRAME) }.expect_err("mapped");
        assert!(matches!(error.problem(), FreeProblem::Mapped(_)));
        // SAFETY: nothing uses it.
        assert!(unsafe { allocator.free_mapped(pin, pfn) }.is_ok());
    });
}
