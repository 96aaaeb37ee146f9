//! Frames and addresses that run out: nothing is left behind, and what was freed is used before anything is refused.

use kspace::vmalloc::{AreaError, AreaRequest, Kind};
use kspace_layout::{Pfn, VirtAddr, VirtRange};
use kspace_paging::LongMode;

use crate::rig::{AREA, K4, M2, Rig, Setup, pages, with_rig};

fn free(rig: &Rig<'_, '_>, start: VirtAddr) {
    // SAFETY: the test uses no area after it has freed it.
    unsafe { rig.areas.free(start) }.unwrap_or_else(|error| panic!("{error}"));
}

/// Everything that a purge must restore.
fn books(rig: &Rig<'_, '_>) -> (Vec<Pfn>, u64, u64) {
    rig.areas.purge();
    let totals = rig.areas.totals();
    (rig.frames.frames.used(), totals.largest, totals.chunks)
}

#[test]
fn the_failure_of_every_single_frame_in_turn_leaves_nothing_behind() {
    // The first area of all needs books, index nodes and tables; the later ones frames of their own, and in blocks.
    for kept in [0, 1] {
        for count in [1, 7, 8, 40] {
            with_rig::<LongMode>(Setup::new(), |rig| fail_each(rig, kept, count));
        }
    }
}

fn fail_each(rig: &Rig<'_, '_>, kept: u64, count: u64) {
    let neighbours: Vec<VirtRange> = (0..kept)
        .map(|_| rig.areas.allocate(&AreaRequest::new(K4)).expect("room"))
        .collect();
    let before = books(rig);
    let mut failures = 0;
    for budget in 0.. {
        rig.frames.frames.set_budget(Some(budget));
        let made = rig.areas.allocate(&AreaRequest::new(count * K4));
        rig.frames.frames.set_budget(None);
        match made {
            Ok(range) => {
                free(rig, range.start());
                assert_eq!(books(rig), before, "after success");
                break;
            }
            Err(AreaError::NoTables) => failures += 1,
            Err(AreaError::NoFrames { pages, filled }) => {
                assert_eq!(pages, count);
                assert!(filled < count);
                failures += 1;
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(books(rig), before, "budget {budget} for {count} pages");
        rig.machine.check().expect("nothing is stale");
    }
    assert!(failures as u64 >= count, "every frame has failed once");
    assert!(
        neighbours
            .iter()
            .all(|range| rig.walk(range.start()).is_some())
    );
}

#[test]
fn given_frames_need_only_tables_and_those_may_fail_too() {
    with_rig::<LongMode>(Setup::new(), |rig| {
        let before = books(rig);
        let request = AreaRequest::new(3 * K4).kind(Kind::Frames);
        for budget in 0.. {
            rig.frames.frames.set_budget(Some(budget));
            // SAFETY: the frames are used by nobody.
            let made = unsafe { rig.areas.map(&request, |page| Pfn::new(0x12345 + page)) };
            rig.frames.frames.set_budget(None);
            let done = made.is_ok();
            match made {
                Ok(range) => free(rig, range.start()),
                Err(error) => assert_eq!(error, AreaError::NoTables),
            }
            assert_eq!(books(rig), before, "budget {budget}");
            if done {
                assert!(budget >= 3, "books, nodes and tables");
                break;
            }
        }
    });
}

#[test]
fn what_was_freed_is_purged_before_an_allocation_fails() {
    with_rig::<LongMode>(Setup::new(), |rig| {
        let range = rig
            .areas
            .allocate(&AreaRequest::new(50 * K4))
            .expect("room");
        free(rig, range.start());
        assert_eq!(rig.areas.totals().lazy_pages, 50);
        // No frame is to be had but those that wait.
        rig.frames.frames.set_budget(Some(0));
        let error = rig.areas.allocate(&AreaRequest::new(50 * K4));
        assert!(matches!(
            error,
            Err(AreaError::NoFrames { .. } | AreaError::NoTables)
        ));
        assert_eq!(rig.areas.totals().lazy_pages, 0, "it has tried");
        rig.frames.frames.set_budget(None);
    });
}

#[test]
fn all_addresses_of_a_small_area_can_be_used_and_used_again() {
    let area = VirtRange::new(AREA.start(), 4 * M2);
    let setup = Setup {
        area,
        ..Setup::new()
    };
    with_rig::<LongMode>(setup, |rig| {
        // The table above the chunks' serves other areas, too, so it stays once it is there.
        free(
            rig,
            rig.areas
                .allocate(&AreaRequest::new(1))
                .expect("room")
                .start(),
        );
        let before = books(rig);
        for count in [1, 3, 9, 100, 255] {
            for _ in 0..2 {
                let mut made = Vec::new();
                let error = loop {
                    match rig.areas.allocate(&AreaRequest::new(count * K4)) {
                        Ok(range) => made.push(range),
                        Err(error) => break error,
                    }
                };
                // As many as fit, guards included, in each chunk.
                assert_eq!(made.len() as u64, 4 * (512 / (count + 1)), "{count} pages");
                let AreaError::NoSpace {
                    pages,
                    align,
                    largest,
                    within,
                } = error
                else {
                    panic!("{error}");
                };
                assert_eq!((pages, align, largest, within), (count + 1, 1, 0, area));
                assert_eq!(
                    error.to_string(),
                    format!(
                        "vmalloc: no {pages} free pages in one piece at a multiple of 1 in {area}; the longest piece has 0"
                    )
                );
                // With one freed, there is room for one more: the addresses come back by a purge.
                let last = made.pop().expect("many");
                free(rig, last.start());
                let again = rig
                    .areas
                    .allocate(&AreaRequest::new(count * K4))
                    .expect("one");
                assert!(pages_of(rig, again));
                made.push(again);
                for range in made {
                    free(rig, range.start());
                }
            }
            assert_eq!(books(rig), before);
        }
    });
}

fn pages_of(rig: &Rig<'_, '_>, range: VirtRange) -> bool {
    pages(range).all(|page| rig.frame_at(page).is_some())
}
