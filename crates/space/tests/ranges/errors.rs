//! What is refused, in which words; and the draw of a random place.

use std::collections::BTreeSet;

use kspace::ranges::{AllocateError, Request};
use kspace_layout::{VirtAddr, VirtRange};

use crate::{VMALLOC, numbers, pages, with_ranges};

/// 64 pages from ffffc90000000000 on.
const BASE: u64 = VMALLOC;

fn bytes(start: u64, last: u64) -> VirtRange {
    VirtRange::try_from_bounds(VirtAddr::new(start), VirtAddr::new(last)).expect("a range")
}

#[test]
fn bad_requests_say_what_is_wrong() {
    with_ranges(pages(BASE, 64), |_, ranges| {
        ranges.allocate_at(pages(BASE + 16, 8)).expect("free");
        let before: Vec<VirtRange> = ranges.iter().collect();
        let below = bytes(0xffff_c8ff_ffff_f000, 0xffff_c8ff_ffff_ffff);
        let cut = bytes(0xffff_c900_0000_0800, 0xffff_c900_0000_17ff);
        for (request, message) in [
            (
                Request::pages(0),
                "allocate addresses: 0 pages; ask for 1 or more",
            ),
            (
                Request::pages(1).aligned(3),
                "allocate addresses: alignment of 3 pages is not a power of two",
            ),
            (
                Request::pages(1).aligned(0),
                "allocate addresses: alignment of 0 pages is not a power of two",
            ),
            (
                Request::pages(1).within(below),
                "allocate addresses ffffc8fffffff000-ffffc8ffffffffff: outside the area ffffc90000000000-ffffc9000003ffff",
            ),
            (
                Request::pages(1).within(cut),
                "allocate addresses: no place for 4 KiB aligned to 4 KiB in ffffc90000000800-ffffc900000017ff; the area has \
                 224 KiB free, the largest piece 160 KiB; free some, or make the area larger",
            ),
            (
                Request::pages(41),
                "allocate addresses: no place for 164 KiB aligned to 4 KiB in ffffc90000000000-ffffc9000003ffff; the area \
                 has 224 KiB free, the largest piece 160 KiB; free some, or make the area larger",
            ),
        ] {
            let error = ranges.allocate(&request).expect_err(message);
            assert_eq!(error.to_string(), message);
        }
        for huge in [1 << 52, 1 << 63, u64::MAX] {
            for request in [Request::pages(huge), Request::pages(huge).random(0)] {
                let error = ranges.allocate(&request).expect_err("too much");
                assert!(matches!(error, AllocateError::NoSpace { .. }));
            }
        }
        assert!(
            ranges
                .allocate(&Request::pages(1).aligned(1 << 63))
                .is_err()
        );
        assert_eq!(ranges.iter().collect::<Vec<_>>(), before);
    });
}

#[test]
fn page_0_is_aligned_to_everything() {
    with_ranges(pages(0, 64), |_, ranges| {
        for align in [64, 1 << 20, 1 << 52, 1 << 63] {
            let request = Request::pages(3).aligned(align);
            assert_eq!(ranges.allocate(&request), Ok(pages(0, 3)));
            assert!(ranges.allocate(&request).is_err());
            ranges.free(pages(0, 3)).expect("live");
        }
    });
}

#[test]
fn exact_places_that_are_taken_say_where() {
    with_ranges(pages(BASE, 64), |_, ranges| {
        ranges.allocate_at(pages(BASE + 16, 8)).expect("free");
        for (range, message) in [
            (
                pages(BASE + 12, 8),
                "allocate addresses ffffc9000000c000-ffffc90000013fff: ffffc90000010000-ffffc90000013fff is not free; nothing was \
                 changed",
            ),
            (
                pages(BASE + 20, 8),
                "allocate addresses ffffc90000014000-ffffc9000001bfff: ffffc90000014000-ffffc90000017fff is not free; nothing was \
                 changed",
            ),
            (
                pages(BASE + 60, 8),
                "allocate addresses ffffc9000003c000-ffffc90000043fff: outside the area ffffc90000000000-ffffc9000003ffff",
            ),
            (
                bytes(0xffff_c900_0000_0800, 0xffff_c900_0000_17ff),
                "allocate addresses ffffc90000000800-ffffc900000017ff: not made of whole 4 KiB pages",
            ),
        ] {
            let error = ranges.allocate_at(range).expect_err(message);
            assert_eq!(error.to_string(), message);
        }
        let error = ranges.grow(pages(BASE + 30, 2)).expect_err("apart");
        assert_eq!(
            error.to_string(),
            "grow by addresses ffffc9000001e000-ffffc9000001ffff: they lie inside the free range \
             ffffc90000018000-ffffc9000003ffff and touch no live allocation"
        );
        for (ends, at) in [("below", BASE), ("above", BASE + 62)] {
            let error = ranges.grow(pages(at, 2)).expect_err("nothing beside it");
            assert!(
                matches!(error, AllocateError::Apart { .. }),
                "nothing {ends} the area is live, yet: {error}"
            );
        }
    });
}

#[test]
fn bad_frees_say_what_is_wrong() {
    with_ranges(pages(BASE, 64), |_, ranges| {
        ranges.allocate_at(pages(BASE + 16, 8)).expect("free");
        let before: Vec<VirtRange> = ranges.iter().collect();
        for (range, message) in [
            (
                pages(BASE + 12, 8),
                "free addresses ffffc9000000c000-ffffc90000013fff: ffffc90000000000-ffffc9000000ffff is free already; freed \
                 twice?",
            ),
            (
                pages(BASE + 16, 9),
                "free addresses ffffc90000010000-ffffc90000018fff: ffffc90000018000-ffffc9000003ffff is free already; freed \
                 twice?",
            ),
            (
                pages(BASE + 64, 1),
                "free addresses ffffc90000040000-ffffc90000040fff: outside the area ffffc90000000000-ffffc9000003ffff",
            ),
            (
                bytes(0xffff_c900_0001_0000, 0xffff_c900_0001_07ff),
                "free addresses ffffc90000010000-ffffc900000107ff: not made of whole 4 KiB pages",
            ),
            (
                pages(BASE + 18, 2),
                "free addresses ffffc90000012000-ffffc90000013fff: a piece of an allocation (1 live); free it whole, or shrink \
                 it from one end",
            ),
        ] {
            let error = ranges.free(range).expect_err(message);
            assert_eq!(error.to_string(), message);
        }
        let error = ranges.shrink(pages(BASE + 18, 2)).expect_err("its middle");
        assert!(error.to_string().contains("a piece of an allocation"));
        assert_eq!(ranges.iter().collect::<Vec<_>>(), before);
        assert_eq!(ranges.free(pages(BASE + 16, 8)), Ok(()));
    });
}

#[test]
fn areas_of_part_pages_are_refused() {
    let memory = kspace_sim::SimMemory::sparse();
    let books = kspace_layout::PhysRange::new(kspace_layout::PhysAddr::ZERO, 4096);
    let frames = kspace_sim::SimFrames::new(&memory, books);
    let area = bytes(0xffff_c900_0000_0000, 0xffff_c900_0000_17ff);
    let error = kspace::ranges::Ranges::new(area, &memory, &frames).err();
    assert_eq!(error, Some(AllocateError::Unaligned(area)));
    assert_eq!(frames.in_use(), 0);
}

#[test]
fn a_free_range_is_found_by_any_address_in_it() {
    with_ranges(pages(BASE, 64), |_, ranges| {
        ranges.allocate_at(pages(BASE + 16, 8)).expect("free");
        let at = |page: u64| ranges.free_range_at(VirtAddr::new((BASE + page) * 4096 + 123));
        for page in 0..64 {
            let expected = match page {
                0..16 => Some(pages(BASE, 16)),
                24..64 => Some(pages(BASE + 24, 40)),
                _ => None,
            };
            assert_eq!(at(page), expected, "page {page}");
        }
        assert_eq!(ranges.free_range_at(VirtAddr::new(0x1000)), None);
        assert_eq!(
            ranges.free_range_at(VirtAddr::new((BASE + 64) * 4096)),
            None
        );
    });
}

/// As many numbers as there are places, evenly spread, draw each place once.
#[test]
fn each_random_place_is_as_likely_as_any_other() {
    with_ranges(pages(BASE, 4096), |_, ranges| {
        for start in [5, 100, 101, 250, 900] {
            ranges.allocate_at(pages(BASE + start, 7 + start % 30)).ok();
        }
        for (count, align) in [(1, 1), (10, 1), (3, 4), (16, 16), (100, 64)] {
            for window in [(0, 4096), (90, 1000)] {
                let in_window = |start: u64| window.0 <= start && start + count <= window.1;
                let places: BTreeSet<u64> = ranges
                    .iter()
                    .map(numbers)
                    .flat_map(|(start, size)| start..(start + size + 1).saturating_sub(count))
                    .filter(|start| start % align == 0 && in_window(start - BASE))
                    .collect();
                let total = places.len() as u128;
                let mut drawn = BTreeSet::new();
                for index in 0..total {
                    let number = (index << 64).div_ceil(total) as u64;
                    let request = Request::pages(count)
                        .aligned(align)
                        .within(pages(BASE + window.0, window.1 - window.0))
                        .random(number);
                    let range = ranges.allocate(&request).expect("a place");
                    drawn.insert(numbers(range).0);
                    ranges.free(range).expect("live");
                }
                assert_eq!(
                    drawn, places,
                    "{count} pages aligned to {align} in {window:?}"
                );
            }
        }
    });
}
