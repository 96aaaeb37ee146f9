//! What one CPU sees.

use std::collections::HashSet;

use kspace::vmalloc::{AreaError, AreaRequest, FreeProblem, Kind, State};
use kspace_layout::{PagingMode, Pfn, VirtAddr, VirtRange};
use kspace_paging::{LongMode, Pae, TwoLevel};

use crate::rig::{AREA, K4, M2, Rig, Setup, pages, with_rig};

fn long(test: impl FnOnce(&Rig<'_, '_, LongMode>)) {
    with_rig(Setup::new(), test);
}

fn free(rig: &Rig<'_, '_>, start: VirtAddr) {
    // SAFETY: the test uses no area after it has freed it.
    unsafe { rig.areas.free(start) }.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn an_area_is_writable_page_by_page_and_ends_at_a_guard() {
    long(|rig| {
        for count in [1, 2, 7, 8, 9, 31, 100, 255] {
            let range = rig
                .areas
                .allocate(&AreaRequest::new(count * K4 - 5))
                .expect("room");
            assert_eq!(range.size(), count * K4);
            let frames: HashSet<Pfn> = pages(range)
                .map(|page| rig.frame_at(page).expect("mapped"))
                .collect();
            assert_eq!(
                frames.len() as u64,
                count,
                "each page has a frame of its own"
            );
            let guard = range.last().checked_add(1).expect("there is one");
            assert_eq!(rig.frame_at(guard), None);
        }
    });
}

#[test]
fn what_is_freed_is_not_mapped_any_more_and_its_frames_come_back_with_the_purge() {
    long(|rig| {
        let before = rig.frames.frames.in_use();
        let ranges: Vec<VirtRange> = (1..40)
            .map(|count| {
                rig.areas
                    .allocate(&AreaRequest::new(count * K4))
                    .expect("room")
            })
            .collect();
        for range in &ranges {
            for page in pages(*range) {
                rig.frame_at(page).expect("mapped");
            }
        }
        let full = rig.frames.frames.in_use();
        for range in &ranges {
            free(rig, range.start());
            assert!(
                pages(*range).all(|page| rig.walk(page).is_none()),
                "an honest free"
            );
        }
        assert_eq!(
            rig.frames.frames.in_use(),
            full,
            "before the flush nothing is reused"
        );
        let purged = rig.areas.purge();
        let count = (1..40).sum::<u64>();
        assert_eq!((purged.areas, purged.pages), (39, count));
        assert_eq!(rig.frames.frames.in_use(), before, "tables, books and all");
        assert_eq!(purged.frames, (full - before) as u64);
        for range in ranges {
            assert!(pages(range).all(|page| rig.frame_at(page).is_none()));
        }
        rig.machine.check().expect("nothing is stale");
        assert_eq!(rig.areas.totals().lazy_pages, 0);
        assert_eq!(rig.areas.totals().used, 0);
    });
}

#[test]
fn the_same_in_every_mode() {
    for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
        with_rig::<LongMode>(
            Setup {
                mode,
                ..Setup::new()
            },
            round,
        );
    }
    // An odd place: the area begins in the middle of a chunk.
    let area = VirtRange::new(VirtAddr::new(0xf780_1000), 96 << 20);
    with_rig::<Pae>(
        Setup {
            mode: PagingMode::Pae,
            area,
            ..Setup::new()
        },
        round,
    );
    with_rig::<TwoLevel>(
        Setup {
            mode: PagingMode::TwoLevel,
            area,
            ..Setup::new()
        },
        round,
    );
}

fn round<E: kspace_paging::EntryFormat>(rig: &Rig<'_, '_, E>) {
    let before = rig.frames.frames.in_use();
    for _ in 0..3 {
        let mut seen = HashSet::new();
        let ranges: Vec<VirtRange> = (0..1200)
            .map(|index| {
                let request = AreaRequest::new((1 + index % 5) * K4);
                rig.areas.allocate(&request).expect("room")
            })
            .collect();
        for range in &ranges {
            assert!(rig.setup.area.contains_range(*range));
            for page in pages(*range) {
                assert!(seen.insert(rig.walk(page).expect("mapped")));
            }
        }
        for range in ranges {
            // SAFETY: nobody uses it.
            unsafe { rig.areas.free(range.start()) }.expect("it is an area");
        }
        rig.areas.purge();
        assert_eq!(rig.frames.frames.in_use(), before);
        rig.machine.check().expect("nothing is stale");
    }
}

#[test]
fn alignment_is_kept_and_no_page_is_lost_to_it() {
    long(|rig| {
        let before = rig.frames.frames.in_use();
        let mut starts = Vec::new();
        for round in 0..20 {
            for shift in 0..=20 {
                let align = 1 << shift;
                let request = AreaRequest::new((1 + round % 4) * K4).aligned(align);
                let range = rig.areas.allocate(&request).expect("room");
                assert!(
                    range.start().is_aligned(align.max(K4)),
                    "{range} at {align:#x}"
                );
                starts.push(range.start());
            }
        }
        for start in starts {
            free(rig, start);
        }
        rig.areas.purge();
        assert_eq!(rig.frames.frames.in_use(), before);
        assert_eq!(rig.areas.totals().chunks, 0);
    });
}

#[test]
fn zeros_on_request() {
    long(|rig| {
        let dirty = rig.areas.allocate(&AreaRequest::new(9 * K4)).expect("room");
        let clean = rig
            .areas
            .allocate(&AreaRequest::new(9 * K4).zeroed())
            .expect("room");
        let content = |range| {
            let frames = pages(range).map(|page| rig.walk(page).expect("mapped"));
            frames
                .flat_map(|frame| rig.memory.snapshot(frame))
                .collect::<HashSet<u64>>()
        };
        assert_eq!(content(clean), HashSet::from([0]));
        assert_ne!(content(dirty), HashSet::from([0]));
    });
}

#[test]
fn given_frames_are_mapped_as_they_come_and_not_freed() {
    long(|rig| {
        let given: Vec<Pfn> = (0..30)
            .map(|_| {
                kspace_paging::FrameSource::allocate(rig.frames)
                    .expect("room")
                    .pfn()
            })
            .rev()
            .collect();
        let before = rig.frames.frames.in_use();
        let request = AreaRequest::new(30 * K4).kind(Kind::Frames);
        // SAFETY: the frames are the test's own.
        let range = unsafe { rig.areas.map(&request, |page| given[page as usize]) };
        let range = range.expect("room");
        for (page, frame) in pages(range).zip(&given) {
            assert_eq!(rig.frame_at(page), Some(*frame));
        }
        free(rig, range.start());
        rig.areas.purge();
        assert_eq!(
            rig.frames.frames.in_use(),
            before,
            "they are the test's own still"
        );
        rig.machine.check().expect("nothing is stale");
        assert_eq!(rig.frame_at(range.start()), None);
    });
}

#[test]
fn bad_requests_are_refused_with_what_is_wrong() {
    long(|rig| {
        let before = rig.frames.frames.in_use();
        let refused = |request| {
            rig.areas
                .allocate(&request)
                .expect_err("it is no good")
                .to_string()
        };
        assert_eq!(
            refused(AreaRequest::new(0)),
            "vmalloc: no bytes were asked for; ask for at least one"
        );
        let huge = AREA.size() + 1;
        assert_eq!(
            refused(AreaRequest::new(huge)),
            "vmalloc: 0x10000000001 bytes: more than all of ffffc90000000000-ffffc9ffffffffff (0x10000000000 bytes)"
        );
        // Rounded up to pages this would wrap.
        for bytes in [u64::MAX, u64::MAX - K4 + 2] {
            let error = rig.areas.allocate(&AreaRequest::new(bytes));
            assert_eq!(
                error,
                Err(AreaError::TooLarge {
                    bytes,
                    within: AREA
                })
            );
        }
        for align in [0, 3, K4 + 1, u64::MAX] {
            let error = rig.areas.allocate(&AreaRequest::new(1).aligned(align));
            assert_eq!(error, Err(AreaError::Alignment { align }));
        }
        assert_eq!(
            refused(AreaRequest::new(1).kind(Kind::Device)),
            "vmalloc: an area for ioremap has no frames of its own; give some"
        );
        rig.schedule.acquire_lock();
        assert_eq!(
            refused(AreaRequest::new(1)),
            "vmalloc: in atomic context (a lock held, or in an interrupt handler); allocate before it"
        );
        rig.schedule.release_lock();
        assert_eq!(rig.frames.frames.in_use(), before);
    });
}

#[test]
fn bad_frees_are_refused_with_what_is_wrong() {
    long(|rig| {
        let range = rig.areas.allocate(&AreaRequest::new(3 * K4)).expect("room");
        // SAFETY: of each area, only the first free succeeds.
        let free = |address| unsafe { rig.areas.free(address) };
        let at = |offset| range.start().checked_add(offset).expect("canonical");
        for inside in [at(1), at(K4), at(2 * K4 + 7), at(3 * K4)] {
            let error = free(inside).expect_err("no start");
            assert_eq!(error.problem(), FreeProblem::Inside(range), "{inside}");
        }
        let text = free(at(K4)).expect_err("no start").to_string();
        assert!(
            text.ends_with(&format!(
                ": inside the area {range}; free it by its start, {}; nothing was changed",
                range.start()
            )),
            "{text}"
        );
        for nothing in [at(4 * K4), at(100 * K4), at(5 * M2)] {
            let error = free(nothing).expect_err("no area");
            assert_eq!(error.problem(), FreeProblem::NoArea, "{nothing}");
        }
        let outside = VirtAddr::new(0xffff_8880_0000_0000);
        assert_eq!(
            free(outside).expect_err("outside").problem(),
            FreeProblem::Outside(AREA)
        );
        let first = line!() + 2;
        // SAFETY: nobody uses it.
        unsafe { rig.areas.free(range.start()) }.expect("the first free");
        let before = rig.frames.frames.in_use();
        for purge in [false, true] {
            let again = free(range.start()).expect_err("a double free");
            let FreeProblem::Freed { by, range: was } = again.problem() else {
                panic!("{again}");
            };
            assert_eq!(was, range);
            assert_eq!(by.map(|by| (by.file(), by.line())), Some((file!(), first)));
            assert_eq!(again.caller().file(), file!());
            let text = again.to_string();
            assert!(
                text.contains(&format!("freed before, by {}:{first}:", file!())),
                "{text}"
            );
            if !purge {
                // Another area keeps the chunk.
                rig.areas.allocate(&AreaRequest::new(K4)).expect("room");
                assert_eq!(rig.frames.frames.in_use(), before + 1);
                rig.areas.purge();
            }
        }
    });
}

#[test]
fn a_free_in_atomic_context_leaves_the_purge_to_a_later_one() {
    let setup = Setup {
        bound: 0,
        ..Setup::new()
    };
    with_rig(setup, |rig: &Rig<'_, '_>| {
        let one = rig.areas.allocate(&AreaRequest::new(4 * K4)).expect("room");
        let other = rig.areas.allocate(&AreaRequest::new(K4)).expect("room");
        let before = rig.frames.frames.in_use();
        rig.schedule.acquire_lock();
        free(rig, one.start());
        assert_eq!(rig.walk(one.start()), None);
        assert_eq!(rig.areas.purge().areas, 0);
        rig.schedule.release_lock();
        assert_eq!(rig.frames.frames.in_use(), before);
        assert_eq!(rig.areas.totals().lazy_pages, 4);
        free(rig, other.start());
        assert_eq!(
            rig.frames.frames.in_use(),
            before - 5,
            "a bound of 0 flushes at once"
        );
        assert_eq!(rig.schedule.complaints(), Vec::<String>::new());
    });
}

#[test]
fn areas_are_listed_in_the_order_of_addresses_with_who_made_them() {
    long(|rig| {
        let mut made = Vec::new();
        let line = line!() + 1;
        let make = |bytes| rig.areas.allocate(&AreaRequest::new(bytes)).expect("room");
        for count in [200, 1, 30, 2, 180, 9, 250, 1, 1, 70] {
            made.push((make(count * K4), count, State::Live));
        }
        for index in [1, 4] {
            free(rig, made[index].0.start());
            made[index].2 = State::Freed;
        }
        made.sort_by_key(|(range, _, _)| range.start());
        let listed: Vec<_> = rig
            .areas
            .areas()
            .map(|info| (info.range, info.pages, info.state))
            .collect();
        assert_eq!(listed, made);
        for info in rig.areas.areas().filter(|info| info.state == State::Live) {
            let caller = info.caller.expect("known");
            assert_eq!((caller.file(), caller.line()), (file!(), line));
            assert_eq!(info.kind, Kind::Memory);
            for page in pages(info.range) {
                assert_eq!(
                    rig.areas.find(page).map(|found| found.range),
                    Some(info.range)
                );
            }
            let guard = info.range.last().checked_add(1).expect("there is one");
            assert_eq!(
                rig.areas.find(guard).map(|found| found.range),
                Some(info.range)
            );
        }
        let live = made.iter().filter(|(_, _, state)| *state == State::Live);
        let totals = rig.areas.totals();
        assert_eq!(totals.areas, 8);
        assert_eq!(
            totals.used,
            live.map(|(range, _, _)| range.size()).sum::<u64>()
        );
        assert_eq!(totals.lazy_pages, 181);
        assert_eq!(totals.bytes, AREA.size());
    });
}

#[test]
fn what_is_purged_is_not_listed_any_more() {
    long(|rig| {
        let stays = rig.areas.allocate(&AreaRequest::new(K4)).expect("room");
        let goes = rig.areas.allocate(&AreaRequest::new(3 * K4)).expect("room");
        free(rig, goes.start());
        rig.areas.purge();
        let listed: Vec<_> = rig.areas.areas().map(|info| info.range).collect();
        assert_eq!(listed, [stays]);
        assert_eq!(rig.areas.find(goes.start()), None);
    });
}

/// Also when this CPU has pages at hand, and would not ask any further.
#[test]
fn no_alignment_but_a_power_of_two_is_taken() {
    long(|rig| {
        for _ in 0..2 {
            for align in [0, 3, K4 - 1, K4 + 1, 3 * K4, 5 << 20, u64::MAX] {
                let error = rig.areas.allocate(&AreaRequest::new(1).aligned(align));
                assert_eq!(error, Err(AreaError::Alignment { align }));
            }
            // Less than a page counts as a page.
            for align in [1, 8, K4] {
                let request = AreaRequest::new(1).aligned(align);
                let area = rig.areas.allocate(&request).expect("room");
                // SAFETY: the area is not used.
                unsafe { rig.areas.free(area.start()) }.expect("it is there");
            }
        }
    });
}
