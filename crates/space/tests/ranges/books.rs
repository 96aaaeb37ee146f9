//! The frames that the books are in: how many, and what happens when there are none.

use kspace::ranges::{AllocateError, Ranges, Request};
use kspace_layout::{PhysAddr, PhysRange, VirtRange};
use kspace_sim::{SimFrames, SimMemory};

use crate::{Numbers, SimRanges, VMALLOC, pages, with_ranges};

const AREA: (u64, u64) = (VMALLOC, 1 << 20);

fn everything(ranges: &SimRanges<'_>) -> (Vec<VirtRange>, [u64; 5]) {
    let counts = [
        ranges.free_pages(),
        ranges.largest_free(),
        ranges.range_count(),
        ranges.allocations(),
        ranges.book_bytes(),
    ];
    (ranges.iter().collect(), counts)
}

#[test]
fn an_area_without_a_frame_is_not_made() {
    let memory = SimMemory::sparse();
    let frames = SimFrames::new(&memory, PhysRange::new(PhysAddr::ZERO, 1 << 20));
    frames.set_budget(Some(0));
    let result = Ranges::new(pages(AREA.0, AREA.1), &memory, &frames);
    assert_eq!(result.err(), Some(AllocateError::NoFrame));
}

/// Each allocation is tried without a frame first, and must then either need none or change nothing. Frees never get one.
#[test]
fn without_frames_allocations_change_nothing_and_frees_do_not_care() {
    with_ranges(pages(AREA.0, AREA.1), |frames, ranges| {
        let mut random = Numbers(3);
        let mut live: Vec<VirtRange> = Vec::new();
        let mut failed = 0;
        frames.set_budget(Some(0));
        for step in 0..6_000_u64 {
            // Grows to 600 allocations, and shrinks to none, over and over.
            let growing = step / 600 % 2 == 0;
            if growing == (random.below(20) > 0) {
                let size = 1 + random.below(40);
                let request = Request::pages(size).aligned(1 << random.below(6));
                let at = pages(AREA.0 + random.below(AREA.1 - size), size);
                let exact = random.below(3) == 0;
                let allocate = |ranges: &mut SimRanges<'_>| match exact {
                    true => ranges.allocate_at(at).map(|()| at),
                    false => ranges.allocate(&request),
                };
                let before = everything(ranges);
                let mut result = allocate(ranges);
                if result == Err(AllocateError::NoFrame) {
                    assert_eq!(everything(ranges), before);
                    failed += 1;
                    frames.set_budget(Some(1));
                    result = allocate(ranges);
                    assert_ne!(result, Err(AllocateError::NoFrame), "one frame is enough");
                    frames.set_budget(Some(0));
                }
                live.extend(result);
            } else if !live.is_empty() {
                let which = random.below(live.len() as u64) as usize;
                assert_eq!(ranges.free(live.swap_remove(which)), Ok(()));
            }
        }
        assert!(failed > 20, "only {failed} allocations needed a frame");
        for range in live {
            assert_eq!(ranges.free(range), Ok(()));
        }
        assert_eq!(
            everything(ranges),
            (vec![ranges.area()], [AREA.1, AREA.1, 1, 0, 4096])
        );
    });
}

/// 63 nodes in a frame, one kept for each live allocation, one more, and at most one and a half frames in reserve.
#[test]
fn books_are_as_small_as_promised() {
    with_ranges(pages(AREA.0, AREA.1), |frames, ranges| {
        let live: Vec<VirtRange> = (0..10_000)
            .map(|_| ranges.allocate(&Request::pages(1)).expect("space"))
            .collect();
        assert_eq!(frames.in_use(), 10_001_usize.div_ceil(63));
        // The worst: every other one is free.
        for range in live.iter().step_by(2) {
            ranges.free(*range).expect("live");
        }
        assert_eq!(ranges.range_count(), 5_001);
        assert!(frames.in_use() <= 10_001_usize.div_ceil(63));
        for range in live.iter().skip(1).step_by(2) {
            ranges.free(*range).expect("live");
        }
        assert_eq!((ranges.range_count(), frames.in_use()), (1, 1));
    });
}

/// At the edge of a frame, allocating and freeing in turn does not take and give frames in turn.
#[test]
fn frames_do_not_go_back_and_forth() {
    with_ranges(pages(AREA.0, AREA.1), |frames, ranges| {
        for _ in 0..62 {
            ranges.allocate(&Request::pages(1)).expect("space");
        }
        assert_eq!(frames.in_use(), 1);
        let one_more = ranges.allocate(&Request::pages(1)).expect("space");
        assert_eq!(frames.in_use(), 2);
        frames.set_budget(Some(0));
        ranges.free(one_more).expect("live");
        assert!(
            ranges.allocate(&Request::pages(1)).is_ok(),
            "the frame was kept"
        );
    });
}
