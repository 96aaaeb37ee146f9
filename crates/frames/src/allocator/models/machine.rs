//! The whole allocator, with two CPUs and two huge frames: with two switches where a thread could have gone on.

use std::boxed::Box;
use std::vec::Vec;

use kspace_layout::Pfn;
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::super::cache::{CpuSlot, PinnedCpu};
use super::super::huge::Fill;
use super::super::index::{HUGE_FRAMES, Order};
use super::super::metadata::{Metadata, MetadataSize};
use super::super::record::Owner;
use super::super::{Block, FrameAllocator};
use super::{EVEN, ODD, check};

/// An allocator of two huge frames, for two CPUs. Leaks what each run of a model needs: loom wants it all `'static`.
fn machine() -> Arc<FrameAllocator<'static>> {
    let frames = span();
    frames.add(Pfn::new(0), 2 * HUGE_FRAMES).unwrap();
    Arc::new(frames)
}

/// The same before any memory was added.
fn span() -> FrameAllocator<'static> {
    let frames = 2 * HUGE_FRAMES;
    let size = MetadataSize::new(Pfn::new(0), frames, 2);
    fn some<T: Default>(count: usize) -> &'static [T] {
        Box::leak((0..count).map(|_| T::default()).collect())
    }
    let metadata = Metadata {
        cpus: some::<CpuSlot>(2),
        trees: some(size.trees),
        huges: some(size.huges),
        bits: some(size.bits),
        records: some(size.records),
    };
    FrameAllocator::new(Pfn::new(0), frames, metadata).unwrap()
}

#[allow(unsafe_code)] // The models are the callers here.
fn cpu(number: u16) -> PinnedCpu {
    // SAFETY: each model says by its threads, or by a lock, who is on which CPU.
    unsafe { PinnedCpu::new(number) }
}

/// All is free again, once both CPUs have given back what they keep.
fn all_back(frames: &FrameAllocator<'_>) {
    frames.drain(&cpu(0));
    frames.drain(&cpu(1));
    assert_eq!(frames.free_frames(), 2 * HUGE_FRAMES);
    assert_eq!(frames.free_huges(), 2);
    assert_eq!(frames.refused_drops(), 0);
}

#[test]
fn loom_one_cpu_steals_from_the_tree_of_another() {
    check(Some(2), || {
        let frames = machine();
        let other = frames.clone();
        let taker = thread::spawn(move || {
            let block = other.allocate(&cpu(1), Order::FRAME, Owner::USER).unwrap();
            let pfn = block.pfn();
            block.free(&cpu(1)).unwrap();
            pfn
        });
        let own = frames.allocate(&cpu(0), Order::FRAME, Owner::USER).unwrap();
        assert_ne!(own.pfn(), taker.join().unwrap());
        own.free(&cpu(0)).unwrap();
        all_back(&frames);
    });
}

#[test]
fn loom_a_request_to_drain_is_followed_and_loses_nothing() {
    check(Some(2), || {
        let frames = machine();
        let first = frames.allocate(&cpu(0), Order::FRAME, Owner::USER).unwrap();
        assert!(frames.cached_frames() > 0);
        let other = frames.clone();
        let asker = thread::spawn(move || {
            other.request_drain();
            // May come too early: the other CPU has not drained yet.
            other
                .allocate(&cpu(1), Order::MAX, Owner::USER)
                .map(Block::into_raw)
                .is_ok()
        });
        first.free(&cpu(0)).unwrap();
        frames.drain_if_requested(&cpu(0));
        let taken = asker.join().unwrap();
        frames.drain_if_requested(&cpu(0));
        // What was freed after the request was seen may be kept.
        assert!(frames.cached_frames() <= 1);
        if taken {
            assert_eq!(frames.free_frames_exact() + frames.cached_frames(), 0);
        } else {
            all_back(&frames);
        }
    });
}

#[test]
fn loom_two_cpus_take_rows_and_give_them_back() {
    check(Some(2), || {
        let frames = machine();
        // Each row has a part of its own in one huge frame that is broken already.
        let first = frames.allocate(&cpu(0), Order::FRAME, Owner::USER).unwrap();
        #[allow(unsafe_code)] // The models are the callers here.
        let take_and_give = |frames: &FrameAllocator<'_>, number, len| {
            let pin = cpu(number);
            let local = frames.local(&pin).unwrap();
            let row = local.allocate_row(len, Owner::VMALLOC)?;
            // SAFETY: it was allocated just now.
            assert_eq!(unsafe { local.free_mapped_run(row, len) }, len);
            Some(row)
        };
        let other = frames.clone();
        let taker = thread::spawn(move || take_and_give(&other, 1, 100));
        assert!(take_and_give(&frames, 0, 70).is_some());
        assert!(taker.join().unwrap().is_some());
        first.free(&cpu(0)).unwrap();
        all_back(&frames);
    });
}

/// Gives a block back by `give`, while another CPU wants all memory as one: it gets it only when no bit is set any more.
fn whole_against(order: Order, give: fn(&FrameAllocator<'_>, Block<'_>)) {
    check(Some(2), move || {
        let frames = machine();
        let block = frames.allocate(&cpu(0), order, Owner::USER).unwrap();
        frames.drain(&cpu(0));
        let (pfn, order) = block.into_raw();
        let other = frames.clone();
        let giver = thread::spawn(move || {
            #[allow(unsafe_code)] // As in `cpu`.
            // SAFETY: from `into_raw` just above.
            let block = unsafe { Block::from_raw(&other, pfn, order) }.unwrap();
            give(&other, block);
        });
        if let Ok(all) = frames.allocate(&cpu(1), Order::MAX, Owner::USER) {
            let clear = |huge| frames.bits(huge).0.iter().all(|word| word.load() == 0);
            assert!(clear(EVEN) && clear(ODD));
            all.free(&cpu(1)).unwrap();
        }
        giver.join().unwrap();
        all_back(&frames);
    });
}

#[test]
fn loom_whole_while_a_run_is_dropped() {
    whole_against(Order::new(7), |_, block| drop(block));
}

#[test]
fn loom_whole_while_a_cpu_drains() {
    whole_against(Order::FRAME, |frames, block| {
        block.free(&cpu(0)).unwrap();
        frames.drain(&cpu(0));
    });
}

#[test]
fn loom_a_run_whose_frames_a_single_takes_leaves_nothing_behind() {
    check(Some(2), || {
        let frames = machine();
        let end = 2 * HUGE_FRAMES;
        // Free: a pair, and one frame after it that is no pair.
        for (start, len) in [(0, end - 4), (end - 2, 1)] {
            let used = frames.allocate_at(Pfn::new(start as u64), len, Owner::USER);
            core::mem::forget(used.unwrap());
        }
        let other = frames.clone();
        let run = thread::spawn(move || {
            let run = other.allocate(&cpu(1), Order::new(1), Owner::USER).ok()?;
            Some(run.into_raw().0.as_u64() as usize)
        });
        let single = frames.allocate(&cpu(0), Order::FRAME, Owner::USER).ok();
        let run = run.join().unwrap();
        assert!(run.is_none_or(|run| run == end - 4));
        drop(single);
        frames.drain(&cpu(0));
        let left = if run.is_some() { 1 } else { 3 };
        assert_eq!(frames.free_frames_exact(), left);
        assert_eq!(frames.counter(ODD).fill(), Fill::Partial(left));
    });
}

#[test]
fn loom_memory_is_added_while_another_cpu_allocates() {
    check(Some(2), || {
        let frames = Arc::new(span());
        frames.add(Pfn::new(0), 1).unwrap();
        let other = frames.clone();
        let adder = thread::spawn(move || other.add(Pfn::new(HUGE_FRAMES as u64), 1).unwrap());
        let mut blocks = Vec::new();
        for number in [0, 1] {
            blocks.extend(frames.allocate(&cpu(number), Order::FRAME, Owner::USER));
        }
        adder.join().unwrap();
        blocks.extend(frames.allocate(&cpu(0), Order::FRAME, Owner::USER));
        assert_eq!(blocks.len(), 2);
        assert_ne!(blocks[0].pfn(), blocks[1].pfn());
        drop(blocks);
        assert_eq!(frames.free_frames_exact(), 2);
    });
}

#[test]
fn loom_a_cpu_is_handed_from_one_thread_to_the_next() {
    check(Some(2), || {
        let machine = Arc::new((machine(), Mutex::new(())));
        let run = |machine: &(Arc<FrameAllocator<'static>>, Mutex<()>)| {
            let block = {
                let _pinned = machine.1.lock().unwrap();
                machine
                    .0
                    .allocate(&cpu(0), Order::FRAME, Owner::USER)
                    .unwrap()
                    .into_raw()
            };
            let _pinned = machine.1.lock().unwrap();
            #[allow(unsafe_code)] // As in `cpu`.
            // SAFETY: from `into_raw` just above.
            unsafe { machine.0.free(&cpu(0), block.0, block.1) }.unwrap();
            block.0
        };
        let other = machine.clone();
        let second = thread::spawn(move || run(&other));
        run(&machine);
        second.join().unwrap();
        all_back(&machine.0);
    });
}

#[test]
fn loom_huge_frames_of_two_cpus() {
    check(Some(2), || {
        let frames = machine();
        let other = frames.clone();
        let taker = thread::spawn(move || {
            let block = other.allocate(&cpu(1), Order::HUGE, Owner::USER).unwrap();
            block.into_raw().0
        });
        let own = frames.allocate(&cpu(0), Order::HUGE, Owner::USER).unwrap();
        let theirs = taker.join().unwrap();
        assert_ne!(own.pfn(), theirs);
        own.free(&cpu(0)).unwrap();
        #[allow(unsafe_code)] // As in `cpu`.
        // SAFETY: from `into_raw` in the other thread, which has ended.
        unsafe { frames.free(&cpu(0), theirs, Order::HUGE) }.unwrap();
        all_back(&frames);
    });
}
