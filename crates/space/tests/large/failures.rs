//! Frames that run out, and memory in pieces.

use kspace::vmalloc::{AreaError, AreaFrames, AreaRequest, Resized, Want};
use kspace_frames::{Order, Owner};
use kspace_layout::PageSize;
use kspace_paging::FrameSource;

use crate::rig::{K4, M2, Rig, Setup, guard, with_rig};

fn warm_up(rig: &Rig<'_, '_>) {
    let range = rig.areas.allocate(&AreaRequest::new(M2)).expect("room");
    // SAFETY: the area is not used.
    unsafe { rig.areas.free(range.start()) }.expect("it is there");
    rig.areas.purge();
}

/// Every single request for frames fails in turn, and all after it.
#[test]
fn a_failure_anywhere_leaves_nothing() {
    with_rig(Setup::new(), |rig| {
        warm_up(rig);
        let before = rig.everything();
        // Pieces of many orders: no block of more than 64 frames.
        rig.frames.fragment(6);
        let before = (rig.frames.free_frames(), before.1, before.3);
        let request = AreaRequest::new(3 * M2 + 7 * K4);
        let mut failures = 0;
        loop {
            rig.frames.budget.set(Some(failures));
            let made = rig.areas.allocate(&request);
            rig.frames.budget.set(None);
            let now = || {
                rig.areas.purge();
                let now = rig.everything();
                (now.0, now.1, now.3)
            };
            match made {
                Ok(range) => {
                    // SAFETY: the area is not used.
                    unsafe { rig.areas.free(range.start()) }.expect("it is there");
                    assert_eq!(now(), before);
                    break;
                }
                Err(AreaError::NoFrames { .. } | AreaError::NoTables) => {
                    assert!(rig.frames.blocks().is_empty(), "failure {failures}");
                    assert_eq!(now(), before, "failure {failures}");
                    assert_eq!(rig.areas.areas().count(), 0);
                }
                Err(error) => panic!("{error}"),
            }
            failures += 1;
        }
        assert!(failures > 30, "{failures} requests only");
    });
}

#[test]
fn a_failure_to_grow_leaves_the_area_as_it_was() {
    with_rig(Setup::new(), |rig| {
        warm_up(rig);
        rig.frames.fragment(6);
        let untouched = rig.everything();
        let range = rig.areas.allocate(&AreaRequest::new(M2)).expect("room");
        // A page table behind the area, with the guard in it, stays as long as the area does.
        let without_tables = || {
            let (free, tables, blocks, largest, areas) = rig.everything();
            (free + tables as u64, blocks, largest, areas)
        };
        let (before, frames) = (without_tables(), rig.frames_of(range));
        let mut failures = 0;
        loop {
            rig.frames.budget.set(Some(failures));
            // SAFETY: the area is the test's.
            let grown = unsafe { rig.areas.resize(range.start(), &AreaRequest::new(5 * M2)) };
            rig.frames.budget.set(None);
            if let Ok(Resized::InPlace(larger)) = grown {
                assert_eq!(rig.frames_of(larger)[..512], frames);
                break;
            }
            assert!(grown.is_err(), "there is room behind it");
            rig.areas.purge();
            assert_eq!(without_tables(), before, "failure {failures}");
            assert_eq!(rig.frames_of(range), frames);
            assert_eq!(rig.page(guard(range)), None);
            failures += 1;
        }
        assert!(failures > 20, "{failures} requests only");
        // SAFETY: the area is not used.
        unsafe { rig.areas.free(range.start()) }.expect("it is there");
        rig.areas.purge();
        assert_eq!(rig.everything(), untouched);
    });
}

/// The demonstration that the crate exists for.
#[test]
fn fragmented_memory_serves_what_no_contiguous_request_could_have() {
    with_rig(
        Setup {
            ram: 512 << 20,
            ..Setup::new()
        },
        |rig| {
            rig.frames.fragment(4);
            assert_eq!(rig.frames.largest_order(), Some(3));
            let want = Want {
                owner: Owner::VMALLOC,
                node: None,
                strict: false,
                zeroed: false,
            };
            assert_eq!(rig.frames.take(&(), Order::new(4), want), None);
            rig.frames.requests.set(0);
            let range = rig
                .areas
                .allocate(&AreaRequest::new(256 << 20))
                .expect("in pieces");
            let frames = rig.frames_of(range);
            assert_eq!(frames.len(), 65536);
            let mut sorted = frames;
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), 65536, "each page has a frame of its own");
            // Blocks, not pages: a request for each block, one for each table, and few in vain.
            let blocks = rig.frames.blocks().len() as u64;
            assert!(blocks < 20000, "{blocks} blocks");
            assert!(rig.frames.requests.get() < blocks + 128 + 64);
            assert_eq!(rig.page(guard(range)), None);
        },
    );
}

#[test]
fn large_pages_where_there_are_some_and_pieces_for_the_rest() {
    with_rig(Setup::new(), |rig| {
        // One block of 4 MiB stays whole: 2 large pages of 8.
        let kept = rig.frames.take(
            &(),
            Order::MAX,
            Want {
                owner: Owner::VMALLOC,
                node: None,
                strict: false,
                zeroed: false,
            },
        );
        rig.frames.fragment(5);
        // SAFETY: it was taken above.
        unsafe { rig.frames.give(&(), kept.expect("all are free")) };
        let range = rig.areas.allocate(&AreaRequest::new(8 * M2)).expect("room");
        let sizes = rig.sizes(range);
        assert_eq!(
            (sizes[&PageSize::Size2M], sizes[&PageSize::Size4K]),
            (2, 6 * 512)
        );
    });
}

#[test]
fn what_is_purged_is_to_be_had_before_an_allocation_fails() {
    with_rig(Setup::new(), |rig| {
        let most = rig.frames.free_frames() * K4 / 2 + 8 * M2;
        for _ in 0..3 {
            let range = rig
                .areas
                .allocate(&AreaRequest::new(most))
                .expect("the last one is freed");
            // SAFETY: the area is not used.
            unsafe { rig.areas.free(range.start()) }.expect("it is there");
        }
    });
}

#[test]
fn frames_that_ran_out_are_counted() {
    with_rig(Setup::new(), |rig| {
        let frames: Vec<_> = (0..64 * 64).map_while(|_| rig.frames.allocate()).collect();
        let free = rig.frames.free_frames();
        let error = rig
            .areas
            .allocate(&AreaRequest::new(60 << 20))
            .expect_err("not that much");
        let AreaError::NoFrames { pages, filled } = error else {
            panic!("{error}");
        };
        assert_eq!(pages, 60 << 8);
        assert!(filled <= free && filled + 64 > free, "{filled} of {free}");
        for frame in frames {
            rig.frames.release(frame);
        }
    });
}
