//! Areas used to the last page, and how they fall to pieces.

use kspace::ranges::{AllocateError, Request};
use kspace_layout::VirtRange;

use crate::{Numbers, VMALLOC, numbers, pages, with_ranges};

/// Linux's vmalloc area of four levels: 32 TiB.
const AREA: (u64, u64) = (VMALLOC, 1 << 33);

/// Takes sizes from 1 page to 1 TiB, small and large ones alike often, until not one page is left; then frees everything, in no
/// order.
#[test]
fn thirty_two_tebibytes_are_used_to_the_last_page() {
    with_ranges(pages(AREA.0, AREA.1), |frames, ranges| {
        let mut random = Numbers(1);
        let mut live: Vec<VirtRange> = Vec::new();
        let mut bits = 28;
        loop {
            let size = 1 + random.next() % (1 << random.below(bits + 1));
            match ranges.allocate(&Request::pages(size)) {
                Ok(range) => live.push(range),
                Err(error) => {
                    assert!(matches!(error, AllocateError::NoSpace { .. }), "{error}");
                    let holds = |range: VirtRange| numbers(range).1 >= size;
                    assert!(
                        !ranges.iter().any(holds),
                        "{size} pages fit somewhere, yet {error}"
                    );
                    if size == 1 {
                        break;
                    }
                    // Nothing larger will fit either.
                    bits = bits.min(size.ilog2().into());
                }
            }
        }
        assert_eq!(
            (
                ranges.free_pages(),
                ranges.range_count(),
                ranges.largest_free()
            ),
            (0, 0, 0)
        );
        assert_eq!(ranges.allocations(), live.len() as u64);
        live.sort_by_key(|range| range.start());
        for pair in live.windows(2) {
            assert_eq!(pair[0].end_u64(), pair[1].start().as_u64(), "side by side");
        }
        assert_eq!(
            live.iter().map(|range| numbers(*range).1).sum::<u64>(),
            AREA.1
        );
        while !live.is_empty() {
            let which = random.below(live.len() as u64) as usize;
            assert_eq!(ranges.free(live.swap_remove(which)), Ok(()));
        }
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [ranges.area()]);
        assert_eq!(frames.in_use(), 1);
    });
}

/// Among allocations that cut the area up at odd pages, as many aligned chunks are found as the gaps hold, and then no more.
#[test]
fn no_aligned_place_is_missed() {
    for chunk in [2, 16, 512] {
        with_ranges(pages(AREA.0 + 3, 600 * chunk), |_, ranges| {
            let mut random = Numbers(chunk);
            for _ in 0..200 {
                let start = AREA.0 + 3 + random.below(600 * chunk);
                let _ = ranges.allocate_at(pages(start, 1));
            }
            let chunks_in = |range: VirtRange| {
                let (start, count) = numbers(range);
                (start + count) / chunk - start.div_ceil(chunk)
            };
            let expected: u64 = ranges
                .iter()
                .filter(|range| numbers(*range).1 >= chunk)
                .map(chunks_in)
                .sum();
            let request = Request::pages(chunk).aligned(chunk);
            for _ in 0..expected {
                let (start, _) = numbers(ranges.allocate(&request).expect("a place is left"));
                assert_eq!(start % chunk, 0);
            }
            assert!(ranges.allocate(&request).is_err());
        });
    }
}

/// More ranges than the search looks at lie badly, and the only one that fits is no larger than they are.
#[test]
fn one_good_place_among_many_bad_ones_is_found() {
    with_ranges(pages(AREA.0, 1 << 16), |_, ranges| {
        // Free ranges of 10 pages: in all but the last, 5 pages are left from the multiple of 16 on.
        let mut from = AREA.0;
        for index in 0..200 {
            let hole = AREA.0 + 64 * index + if index == 199 { 12 } else { 11 };
            ranges.allocate_at(pages(from, hole - from)).expect("free");
            from = hole + 10;
        }
        ranges
            .allocate_at(pages(from, AREA.0 + (1 << 16) - from))
            .expect("free");
        assert_eq!((ranges.range_count(), ranges.largest_free()), (200, 10));
        let request = Request::pages(6).aligned(16);
        let range = ranges.allocate(&request).expect("a place");
        assert_eq!(range, pages(AREA.0 + 64 * 199 + 16, 6));
        assert!(ranges.allocate(&request).is_err());
    });
}

/// Knuth's fifty-percent rule (The Art of Computer Programming 1, 2.5): in the long run there are half as many free ranges as live
/// allocations, less where requests fit exactly. The argument knows nothing of how ranges are kept: an allocation has a free
/// range after it as often as not.
#[test]
fn free_ranges_are_at_most_half_of_what_is_live() {
    with_ranges(pages(AREA.0, AREA.1), |_, ranges| {
        let mut random = Numbers(7);
        let mut live = Vec::new();
        let (mut free_sum, mut live_sum) = (0, 0);
        for step in 0..60_000 {
            if live.len() < 2_000 || random.below(2) == 0 {
                let size = 2 + random.below(255);
                live.push(ranges.allocate(&Request::pages(size)).expect("space"));
            } else {
                let which = random.below(live.len() as u64) as usize;
                ranges.free(live.swap_remove(which)).expect("live");
            }
            if step > 20_000 {
                free_sum += ranges.range_count();
                live_sum += ranges.allocations();
            }
        }
        assert!(
            2 * free_sum < live_sum + live_sum / 20,
            "{free_sum} free, {live_sum} live"
        );
    });
}
