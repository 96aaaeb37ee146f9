//! Mapped blocks freed in one step: what is refused, and what the books say afterwards.

mod allocator_books;
mod xorshift;

use allocator_books::Books;
use kspace_frames::{
    Flags, FrameAllocator, FreeProblem, History, LONGEST_ROW, Order, Owner, PinnedCpu,
};
use kspace_layout::Pfn;
use xorshift::Random;

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

#[test]
fn many_blocks_come_back_at_once_up_to_the_first_that_is_none() {
    with_allocator(|allocator, pin| {
        let orders = [0, 0, 3, 9, 0, 10].map(Order::new);
        let mut blocks: Vec<Pfn> = orders
            .map(|order| mapped(allocator, pin, order))
            .into_iter()
            .collect();
        let of = allocator.local(pin).expect("a CPU");
        let all: usize = orders.map(Order::frames).iter().sum();
        // The fifth comes twice: its second time it is refused, and so is all that follows, until it is asked for again.
        blocks.insert(5, blocks[4]);
        // SAFETY: they came from `into_raw`; what is no block in use any more is to be refused.
        let freed = unsafe { of.free_mapped_each(&blocks) };
        assert_eq!(freed, (5, all - orders[5].frames()));
        // SAFETY: as above.
        let freed = unsafe { of.free_mapped_each(&blocks[5..]) };
        assert_eq!(freed, (0, 0));
        // SAFETY: as above.
        let freed = unsafe { of.free_mapped_each(&blocks[6..]) };
        assert_eq!(freed, (1, orders[5].frames()));
        // SAFETY: it has no number here.
        let freed = unsafe { of.free_mapped_each(&[Pfn::new(FRAMES as u64)]) };
        assert_eq!(freed, (0, 0));
        allocator.drain(pin);
        assert_eq!(allocator.free_frames(), FRAMES);
        assert_eq!(allocator.free_huges(), FRAMES / 512);
    });
}

#[test]
fn other_frames_of_a_block_may_be_named_behind_its_first() {
    with_allocator(|allocator, pin| {
        let of = allocator.local(pin).expect("a CPU");
        let orders = [0, 2, 3, 0, 1].map(Order::new);
        let firsts = orders.map(|order| mapped(allocator, pin, order));
        let frames = |at: usize, count: u64| {
            let first = firsts[at].as_u64();
            (first..first + count).map(Pfn::new)
        };
        // All of the second, half of the third; and what lies behind the last is none of its frames.
        let mut named: Vec<Pfn> = frames(0, 1).chain(frames(1, 4)).collect();
        named.extend(frames(2, 4).chain(frames(3, 1)).chain(frames(4, 3)));
        // SAFETY: they came from `into_raw`; what is no block in use is to be refused.
        let freed = unsafe { of.free_mapped_each(&named) };
        let all: usize = orders.map(Order::frames).iter().sum();
        assert_eq!(freed, (named.len() - 1, all));
        allocator.drain(pin);
        assert_eq!(allocator.free_frames(), FRAMES);
    });
}

#[test]
fn single_frames_that_a_cpu_keeps_are_taken_at_once() {
    with_allocator(|allocator, pin| {
        let of = allocator.local(pin).expect("a CPU");
        let none: Vec<Pfn> = of.allocate_kept_singles(3, Owner::VMALLOC).collect();
        assert_eq!(none, []);
        let kept = [(); 5].map(|()| mapped(allocator, pin, Order::FRAME));
        allocator.drain(pin);
        for frame in kept {
            // SAFETY: it came from `into_raw`, and nothing uses it.
            unsafe { of.free_mapped(frame) }.expect("it is in use");
        }
        let (free, cached) = (allocator.free_frames(), allocator.cached_frames());
        let few: Vec<Pfn> = of.allocate_kept_singles(2, Owner::VMALLOC).collect();
        // The last that came is the first to go.
        assert_eq!(few, [kept[4], kept[3]]);
        let rest: Vec<Pfn> = of.allocate_kept_singles(9, Owner::VMALLOC).collect();
        assert_eq!(rest, [kept[2], kept[1], kept[0]]);
        assert_eq!(allocator.free_frames(), free);
        assert_eq!((cached, allocator.cached_frames()), (5, 0));
        // SAFETY: they are mapped blocks, which nothing uses.
        assert_eq!(unsafe { of.free_mapped_each(&kept) }, (5, 5));
        // SAFETY: as above; they are free, and refused.
        assert_eq!(unsafe { of.free_mapped_each(&kept) }, (0, 0));
        allocator.drain(pin);
        assert_eq!(allocator.free_frames(), FRAMES);
    });
}

#[test]
fn a_row_of_blocks_of_any_orders_comes_back_at_once() {
    with_allocator(|allocator, pin| {
        let of = allocator.local(pin).expect("a CPU");
        // All of the memory: whatever order the allocator chooses, it can be put into one row.
        let mut row: Vec<(Pfn, Order)> = Vec::new();
        for order in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map(Order::new) {
            row.push((mapped(allocator, pin, order), order));
        }
        let rest = FRAMES - row.iter().map(|(_, order)| order.frames()).sum::<usize>();
        let mut sink = |block: kspace_frames::Block<'_>| row.push(block.map_new().into_raw());
        allocator
            .allocate_runs(
                pin,
                rest,
                Order::MAX,
                Order::FRAME,
                Owner::VMALLOC,
                &mut sink,
            )
            .expect("all there is");
        row.sort_by_key(|(first, _)| *first);
        // One block of the row is not to be given back: it is not mapped.
        let place = row.len() / 2;
        let (left, order) = row[place];
        // SAFETY: it came from `into_raw` of this allocator.
        let block = unsafe { kspace_frames::MappedBlock::from_raw(allocator, left, order) };
        // SAFETY: there are no page tables.
        let block = unsafe { block.expect("in use").unmapped() }.expect("mapped");
        // SAFETY: they came from `into_raw`.
        let freed = unsafe { of.free_mapped_run(Pfn::new(0), FRAMES) };
        assert_eq!(freed, FRAMES - order.frames());
        // SAFETY: what is free is to be refused.
        let again = unsafe { of.free_mapped_run(Pfn::new(0), FRAMES) };
        assert_eq!(again, 0);
        allocator.drain(pin);
        assert_eq!(allocator.free_frames(), freed);
        block.free(pin).expect("in use");
        allocator.drain(pin);
        assert_eq!(allocator.free_frames(), FRAMES);
        assert_eq!(allocator.free_huges(), FRAMES / 512);
    });
}

#[test]
fn what_a_cpu_keeps_is_taken_without_a_change_of_any_count() {
    with_allocator(|allocator, pin| {
        let of = allocator.local(pin).expect("a CPU");
        assert!(of.allocate_kept(Order::FRAME, Owner::KERNEL).is_none());
        let block = of.allocate(Order::FRAME, Owner::KERNEL).expect("memory");
        let free = allocator.free_frames_exact();
        let kept = allocator.cached_frames_on(0);
        assert!(kept > 1);
        let mut blocks: Vec<_> =
            std::iter::from_fn(|| of.allocate_kept_mapped(Order::FRAME, Owner::VMALLOC)).collect();
        assert_eq!((blocks.len(), allocator.cached_frames_on(0)), (kept, 0));
        assert_eq!(allocator.free_frames_exact(), free);
        let first = blocks.pop().expect("many").into_raw().0;
        assert!(matches!(
            allocator.history(first),
            Some(History::InUse { owner: Owner::VMALLOC, flags, references: 1, .. }) if flags.contains(Flags::MAPPED)
        ));
        drop(block);
    });
}

/// Rows of all lengths, singles and runs, taken and given back at random on two CPUs, against a plain list of who has which frame.
#[test]
fn rows_are_of_their_length_and_nobody_elses() {
    let books = Books::new(0, FRAMES, 2);
    let allocator = books.allocator();
    allocator.add(Pfn::new(0), FRAMES).expect("memory");
    // SAFETY: the test is one thread, which uses each proof only between calls.
    let pins = [0, 1].map(|number| unsafe { PinnedCpu::new(number) });
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut is_used = vec![false; FRAMES];
    let mut live: Vec<(usize, usize)> = Vec::new();
    let (mut rows, mut refused) = (0, 0);
    for _ in 0..40_000 {
        let of = allocator.local(&pins[random.below(2)]).expect("a CPU");
        let used: usize = live.iter().map(|(_, len)| len).sum();
        if random.below(FRAMES) >= used {
            let len = match random.below(4) {
                0 => 1 << random.below(9),
                1 => 1,
                _ => random.below(LONGEST_ROW - 1) + 2,
            };
            let first = if len > 1 && random.below(3) > 0 {
                of.allocate_row(len, Owner::VMALLOC)
            } else if len.is_power_of_two() {
                let order = Order::largest_in(len).expect("not none");
                let block = of.allocate(order, Owner::VMALLOC).ok();
                block.map(|block| block.map_new().into_raw().0)
            } else {
                continue;
            };
            let Some(first) = first else {
                refused += 1;
                continue;
            };
            let first = first.as_u64() as usize;
            for frame in &mut is_used[first..first + len] {
                assert!(!std::mem::replace(frame, true), "{first} {len}");
            }
            live.push((first, len));
            rows += 1;
        } else if !live.is_empty() {
            let (first, len) = live.swap_remove(random.below(live.len()));
            is_used[first..first + len].fill(false);
            // SAFETY: it came from `allocate_row` or `into_raw`, and nothing uses it.
            let freed = unsafe { of.free_mapped_run(Pfn::new(first as u64), len) };
            assert_eq!(freed, len);
        }
    }
    assert!(rows > 10_000 && refused < rows / 10, "{rows} {refused}");
    let used: usize = live.iter().map(|(_, len)| len).sum();
    pins.iter().for_each(|pin| allocator.drain(pin));
    assert_eq!(allocator.free_frames(), FRAMES - used);
    for (first, len) in live {
        // SAFETY: as above.
        let freed = unsafe {
            allocator
                .local(&pins[0])
                .expect("a CPU")
                .free_mapped_run(Pfn::new(first as u64), len)
        };
        assert_eq!(freed, len);
    }
    pins.iter().for_each(|pin| allocator.drain(pin));
    assert_eq!(allocator.free_frames(), FRAMES);
    assert_eq!(allocator.free_huges(), FRAMES / 512);
}

#[test]
fn rows_that_cannot_be_are_refused() {
    with_allocator(|allocator, pin| {
        let of = allocator.local(pin).expect("a CPU");
        for len in [0, 1, LONGEST_ROW + 1, usize::MAX] {
            assert!(of.allocate_row(len, Owner::VMALLOC).is_none());
        }
        // Of all memory in single frames every second one comes back: there is no row of two, and then one of three.
        let take = || allocator.allocate(pin, Order::FRAME, Owner::VMALLOC).ok();
        let mut all: Vec<_> = std::iter::from_fn(take).collect();
        assert_eq!(all.len(), FRAMES);
        all.retain(|block| block.pfn().as_u64() % 2 == 1);
        allocator.drain(pin);
        assert!(of.allocate_row(2, Owner::VMALLOC).is_none());
        assert!(of.allocate_row(2, Owner::VMALLOC).is_none());
        all.retain(|block| block.pfn() != Pfn::new(1001));
        let row = of.allocate_row(3, Owner::VMALLOC);
        assert_eq!(row, Some(Pfn::new(1000)));
        assert!(of.allocate_row(2, Owner::VMALLOC).is_none());
        // SAFETY: it was allocated just now.
        assert_eq!(unsafe { of.free_mapped_run(Pfn::new(1000), 3) }, 3);
    });
}

/// A search remembers where it was in vain, but a request fails only when there is nothing.
#[test]
fn runs_come_back_after_searches_in_vain() {
    with_allocator(|allocator, pin| {
        let take = || allocator.allocate(pin, Order::FRAME, Owner::USER).ok();
        let mut all: Vec<_> = std::iter::from_fn(take).collect();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for _ in 0..20 {
            for order in (1..=8).map(Order::new) {
                assert!(allocator.allocate(pin, order, Owner::USER).is_err());
                // Frames of one such run come back, in no order.
                let first = random.below(FRAMES >> order.get()) << order.get();
                all.retain(|block| {
                    !(first..first + order.frames()).contains(&(block.pfn().as_u64() as usize))
                });
                let run = allocator
                    .allocate(pin, order, Owner::USER)
                    .expect("it is free");
                assert_eq!(run.pfn().as_u64() as usize, first);
                run.split(Order::FRAME, |block| all.push(block))
                    .expect("a larger one");
            }
        }
    });
}

#[test]
fn frames_are_counted_by_owner() {
    with_allocator(|allocator, pin| {
        let owners = [
            Owner::PAGE_TABLE,
            Owner::STACK,
            Owner::VMALLOC,
            Owner::new(31),
        ];
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        let mut held: Vec<kspace_frames::Block<'_>> = Vec::new();
        let mut counts = [0; 4];
        let mut of: Vec<usize> = Vec::new();
        for round in 0..600 {
            if round % 3 == 2 {
                let place = random.below(held.len());
                counts[of.swap_remove(place)] -= held[place].order().frames();
                held.swap_remove(place).free(pin).expect("in use");
            } else {
                let (owner, order) = (
                    random.below(4),
                    Order::new([0, 0, 0, 2, 5, 9, 10][random.below(7)]),
                );
                let Ok(block) = allocator.allocate(pin, order, owners[owner]) else {
                    continue;
                };
                counts[owner] += order.frames();
                held.push(block);
                of.push(owner);
            }
            let found = owners.map(|owner| allocator.frames_of(owner));
            assert_eq!(found, counts);
            assert_eq!(allocator.frames_of(Owner::CACHE), 0);
        }
    });
}
