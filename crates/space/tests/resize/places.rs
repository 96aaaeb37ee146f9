//! What a resized area is made of, and what others get of what it had.

use std::sync::atomic::Ordering::Relaxed;

use kspace::areas::OwnedArea;
use kspace::vmalloc::{AreaError, AreaRequest, FreeProblem, Kind, ResizeError, Resized};
use kspace_layout::{PageSize, Pfn, VirtRange};

use crate::rig::{K4, Rig, Setup, guard, pages, with_rig};

fn allocate(rig: &Rig<'_, '_>, count: u64) -> VirtRange {
    let range = rig.areas.allocate(&AreaRequest::new(count * K4));
    range.expect("room")
}

fn free(rig: &Rig<'_, '_>, range: VirtRange) {
    // SAFETY: the area is not used.
    unsafe { rig.areas.free(range.start()) }.expect("it is there");
}

/// The books on large areas keep a frame once there has been one, and a chunk stays until it is purged.
fn warm_up(rig: &Rig<'_, '_>) {
    free(rig, allocate(rig, 512));
    rig.areas.purge();
}

fn resize(rig: &Rig<'_, '_>, range: VirtRange, count: u64) -> Result<Resized, ResizeError> {
    // SAFETY: the area is the test's.
    unsafe {
        rig.areas
            .resize(range.start(), &AreaRequest::new(count * K4))
    }
}

/// In place, and exactly so large; what is kept is as it was, and behind it is the guard.
fn resized(rig: &Rig<'_, '_>, range: VirtRange, count: u64) -> VirtRange {
    let before = rig.frames_of(range);
    let now = VirtRange::new(range.start(), count * K4);
    assert_eq!(resize(rig, range, count), Ok(Resized::InPlace(now)));
    let frames = rig.frames_of(now);
    let kept = before.len().min(frames.len());
    assert_eq!(frames[..kept], before[..kept]);
    assert_eq!(rig.page(guard(now)), None);
    let gone = pages(range).skip(count as usize);
    assert!({ gone }.all(|page| rig.page(page).is_none()));
    let info = rig.areas.find(now.start()).expect("it lives");
    assert_eq!((info.range, info.pages), (now, count));
    now
}

#[test]
fn a_shrunk_area_gives_its_end_back_at_once() {
    with_rig(Setup::new(), |rig| {
        warm_up(rig);
        let before = rig.everything();
        // In blocks and large pages; with cuts at their borders and inside.
        for count in [3 * 512 + 100, 700, 255, 100, 12] {
            for cut in [1, 2, 5, 40, count / 2 + 1, count - 1] {
                if cut >= count {
                    continue;
                }
                let range = allocate(rig, count);
                let free_before = rig.frames.free_frames() + rig.frames.tables() as u64;
                let now = resized(rig, range, count - cut);
                let free_now = rig.frames.free_frames() + rig.frames.tables() as u64;
                assert_eq!(free_now, free_before + cut, "{count} pages without {cut}");
                assert_eq!(rig.areas.totals().used, now.size());
                assert_eq!(rig.areas.totals().lazy_pages, 0);
                // And again, and back.
                let now = resized(rig, now, count);
                free(rig, now);
                rig.areas.purge();
                assert_eq!(rig.everything(), before, "{count} pages without {cut}");
            }
        }
    });
}

#[test]
fn a_cut_inside_a_large_page_splits_it_and_no_other() {
    with_rig(Setup::new(), |rig| {
        let range = allocate(rig, 3 * 512);
        assert_eq!(rig.sizes(range)[&PageSize::Size2M], 3);
        let now = resized(rig, range, 2 * 512 + 3);
        let sizes = rig.sizes(now);
        assert_eq!((sizes[&PageSize::Size2M], sizes[&PageSize::Size4K]), (2, 3));
        let now = resized(rig, now, 512);
        assert_eq!(
            rig.sizes(now).into_iter().collect::<Vec<_>>(),
            [(PageSize::Size2M, 1)]
        );
    });
}

#[test]
fn what_a_shrunk_area_had_is_for_others() {
    with_rig(Setup::new(), |rig| {
        let area = VirtRange::new(rig.setup.area.start(), 2 << 20);
        let (one, other) = (allocate(rig, 200), allocate(rig, 200));
        assert!(area.contains(one.start()) && area.contains(other.start()));
        let one = resized(rig, one, 3);
        // The addresses of what went: 196 pages and the guard's.
        let next = allocate(rig, 196);
        assert_eq!(next.start(), guard(one).checked_add(K4).expect("inside"));
        assert_eq!(resize(rig, one, 4), Ok(Resized::Elsewhere));
        for range in [one, other, next] {
            free(rig, range);
        }
        rig.areas.purge();
        assert!(rig.frames.blocks().is_empty());
    });
}

#[test]
fn frames_that_cannot_be_cut_stay_and_the_range_says_so() {
    with_rig(Setup::new(), |rig| {
        rig.frames.can_cut.set(false);
        for count in [600, 100] {
            let range = allocate(rig, count);
            assert_eq!(resize(rig, range, 3), Ok(Resized::InPlace(range)));
            assert_eq!(rig.frames_of(range).len() as u64, count);
            free(rig, range);
        }
    });
}

#[test]
fn a_small_area_grows_where_it_is_until_something_is_in_the_way() {
    with_rig(Setup::new(), |rig| {
        let range = allocate(rig, 1);
        let range = resized(rig, range, 10);
        let range = resized(rig, range, 255);
        // More is for large areas.
        assert_eq!(resize(rig, range, 256), Ok(Resized::Elsewhere));
        let range = resized(rig, range, 2);
        let behind = allocate(rig, 1);
        assert_eq!(
            behind.start(),
            guard(range).checked_add(K4).expect("inside")
        );
        assert_eq!(resize(rig, range, 3), Ok(Resized::Elsewhere));
        assert_eq!(resized(rig, range, 2), range);
    });
}

/// Writes a number into each page, through the frames.
fn mark(rig: &Rig<'_, '_>, range: VirtRange) {
    for (frame, number) in rig.frames_of(range).into_iter().zip(1..) {
        rig.memory.words(Pfn::new(frame))[0].store(number, Relaxed);
    }
}

fn marks(rig: &Rig<'_, '_>, range: VirtRange) -> Vec<u64> {
    let frames = rig.frames_of(range).into_iter();
    { frames }
        .map(|frame| rig.memory.words(Pfn::new(frame))[0].load(Relaxed))
        .collect()
}

#[test]
fn an_area_without_room_moves_with_its_frames() {
    with_rig(Setup::new(), |rig| {
        warm_up(rig);
        let before = rig.everything();
        // Small to small and to large, large to large.
        for (old, new) in [(1, 2), (5, 200), (200, 600), (300, 301), (512, 1500)] {
            let range = allocate(rig, old);
            let next = guard(range).checked_add(K4).expect("inside");
            // Others until one lies behind it.
            let mut others = vec![];
            while !others.iter().any(|other: &VirtRange| other.contains(next)) {
                // Of the same sort, so that it comes there.
                let count = if old > 255 {
                    300
                } else if old > 8 {
                    20
                } else {
                    1
                };
                others.push(allocate(rig, count));
            }
            mark(rig, range);
            let frames = rig.frames_of(range);
            let request = AreaRequest::new(new * K4).zeroed();
            let line = line!() + 2;
            // SAFETY: the area is the test's.
            let moved = unsafe { rig.areas.reallocate(range.start(), &request) };
            let moved = moved.expect("room");
            assert!(!moved.overlaps(range), "{old} pages were not moved");
            assert_eq!(moved.size(), new * K4);
            assert_eq!(rig.frames_of(moved)[..frames.len()], frames);
            let mut expected: Vec<u64> = (1..=old).collect();
            expected.resize(new as usize, 0);
            assert_eq!(marks(rig, moved), expected);
            assert!(pages(range).all(|page| rig.page(page).is_none()));
            assert_eq!(rig.page(guard(moved)), None);
            let info = rig.areas.find(moved.start()).expect("it lives");
            let caller = info.caller.expect("one image");
            assert_eq!((info.range, caller.line()), (moved, line));
            // SAFETY: it is refused.
            let gone = unsafe { rig.areas.free(range.start()) }.expect_err("it is elsewhere");
            match gone.problem() {
                FreeProblem::NoArea => {}
                FreeProblem::Freed { by, range: was } => {
                    assert_eq!((by.expect("one image").line(), was), (line, range));
                }
                problem => panic!("{problem:?}"),
            }
            let totals = rig.areas.totals();
            let size = |ranges: &[VirtRange]| ranges.iter().map(|range| range.size()).sum::<u64>();
            assert_eq!(totals.used, size(&others) + moved.size());
            assert_eq!(totals.areas, others.len() as u64 + 1);
            others.push(moved);
            others.into_iter().for_each(|range| free(rig, range));
            rig.areas.purge();
            assert_eq!(rig.everything(), before, "{old} pages to {new}");
        }
    });
}

#[test]
fn an_owned_area_knows_where_it_is_now() {
    with_rig(Setup::new(), |rig| {
        warm_up(rig);
        let before = rig.everything();
        let mut area = OwnedArea::allocate(rig.areas, &AreaRequest::new(K4)).expect("room");
        let _behind = OwnedArea::allocate(rig.areas, &AreaRequest::new(K4)).expect("room");
        for pages in [3, 400, 20, 1] {
            let range = area
                .reallocate(&AreaRequest::new(pages * K4))
                .expect("room");
            assert_eq!((range, range.size()), (area.range(), pages * K4));
            assert_eq!(rig.frames_of(range).len() as u64, pages);
        }
        drop((area, _behind));
        rig.areas.purge();
        assert_eq!(rig.everything(), before);
    });
}

#[test]
fn what_is_no_area_of_the_callers_is_refused() {
    with_rig(Setup::new(), |rig| {
        let range = allocate(rig, 4);
        let reallocate = |start, request: AreaRequest| {
            // SAFETY: it is refused.
            unsafe { rig.areas.reallocate(start, &request) }
        };
        let inside = range.start().checked_add(K4).expect("inside");
        for (start, kind) in [(inside, Kind::Memory), (range.start(), Kind::Stack)] {
            let error = reallocate(start, AreaRequest::new(9 * K4).kind(kind));
            assert!(
                matches!(error, Err(ResizeError::NoArea { .. })),
                "{error:?}"
            );
        }
        let error = reallocate(range.start(), AreaRequest::new(0));
        assert_eq!(error, Err(ResizeError::Area(AreaError::Empty)));
        let memory = rig.setup.ram / K4;
        let error = reallocate(range.start(), AreaRequest::new(rig.setup.ram + 1));
        let beyond = AreaError::BeyondMemory {
            pages: memory + 1,
            memory,
        };
        assert_eq!(error, Err(ResizeError::Area(beyond)));
        rig.cpu.atomic.set(true);
        let error = reallocate(range.start(), AreaRequest::new(9 * K4));
        assert_eq!(error, Err(ResizeError::Area(AreaError::AtomicContext)));
        rig.cpu.atomic.set(false);
        let shared = rig
            .areas
            .allocate(&AreaRequest::new(4 * K4).user_mappable());
        let shared = shared.expect("room");
        let error = reallocate(shared.start(), AreaRequest::new(K4));
        assert_eq!(error, Err(ResizeError::ForUsers(shared)));
        assert_eq!(rig.frames_of(shared).len(), 4);
        free(rig, range);
        let error = reallocate(range.start(), AreaRequest::new(9 * K4));
        assert_eq!(
            error.expect_err("it is freed").to_string(),
            format!(
                "vmalloc: resize {}: no such area begins there; {range} was freed",
                range.start()
            )
        );
    });
}
