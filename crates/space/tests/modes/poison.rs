//! What is in the frames of freed areas, and who is told when it changes.

use std::panic::Location;

use kspace::platform::Complaint;
use kspace::vmalloc::{AreaError, AreaRequest, Debug, Kind, ResizeError, Resized};
use kspace_layout::{Pfn, VirtRange};

use crate::rig::{K4, M2, Rig, Setup, with_rig};

const SETUP: Setup = Setup {
    debug: Debug {
        poison: true,
        ..Debug::OFF
    },
    ..Setup::new()
};

fn all_poisoned(rig: &Rig<'_, '_>, frame: u64) -> bool {
    let words = rig.memory.snapshot(Pfn::new(frame));
    words.iter().all(|word| *word == Debug::POISON)
}

#[track_caller]
fn free(rig: &Rig<'_, '_>, range: VirtRange) -> &'static Location<'static> {
    // SAFETY: the area is not used.
    unsafe { rig.areas.free(range.start()) }.expect("it is there");
    Location::caller()
}

#[test]
fn the_pattern_is_in_the_frames_from_the_free_until_after_the_purge() {
    with_rig(SETUP, |rig| {
        for request in [
            AreaRequest::new(1),
            AreaRequest::new(3 * K4).kind(Kind::Stack).zeroed(),
            AreaRequest::new(100 * K4),
            AreaRequest::new(2 * K4).aligned(M2),
            AreaRequest::new(M2 + 9 * K4).zeroed(),
        ] {
            let range = rig.areas.allocate(&request).expect("room");
            let frames = rig.frames_of(range);
            assert!(!frames.iter().any(|frame| all_poisoned(rig, *frame)));
            let _ = free(rig, range);
            assert!(frames.iter().all(|frame| all_poisoned(rig, *frame)));
            rig.areas.purge();
            // Frames of tables and books that this purge freed are not the areas'.
            assert!(frames.iter().all(|frame| all_poisoned(rig, *frame)));
            // What the next one gets is not what was asked for by accident: zeros are zeros.
            for frame in frames {
                rig.memory.clear(Pfn::new(frame));
            }
        }
    });
}

#[test]
fn without_the_mode_frames_stay_as_they_were() {
    with_rig(Setup::new(), |rig| {
        let range = rig.areas.allocate(&AreaRequest::new(1)).expect("room");
        let frame = rig.frames_of(range)[0];
        let _ = free(rig, range);
        rig.areas.purge();
        assert!(!all_poisoned(rig, frame));
    });
}

#[test]
fn given_frames_are_their_givers() {
    with_rig(SETUP, |rig| {
        for pages in [1, 600] {
            let own = rig.areas.allocate(&AreaRequest::new(pages * K4));
            let own = own.expect("room");
            let frames = rig.frames_of(own);
            let request = AreaRequest::new(pages * K4).kind(Kind::Frames);
            // SAFETY: nobody uses the area.
            let range = unsafe {
                rig.areas
                    .map(&request, |page| Pfn::new(frames[page as usize]))
            };
            let _ = free(rig, range.expect("room"));
            rig.areas.purge();
            assert!(!frames.iter().any(|frame| all_poisoned(rig, *frame)));
        }
    });
}

/// Each word of a page, in small and in large areas, first, middle and last page.
#[test]
fn a_write_to_a_freed_area_is_told_with_both_callers() {
    with_rig(SETUP, |rig| {
        for (pages, page, word) in [
            (1, 0, 0),
            (7, 6, 511),
            (120, 60, 3),
            (600, 0, 7),
            (600, 599, 511),
        ] {
            let (range, made) = (rig.areas.allocate(&AreaRequest::new(pages * K4)), line!());
            let range = range.expect("room");
            let frames = rig.frames_of(range);
            let freed = free(rig, range);
            // The alias: whoever has the frame mapped elsewhere.
            let words = rig.memory.words(Pfn::new(frames[page]));
            words[word].store(0x1234, std::sync::atomic::Ordering::Relaxed);
            *rig.cpu.complaints.borrow_mut() = Some(Vec::new());
            rig.areas.purge();
            let complaints = rig.cpu.complaints.borrow_mut().take().expect("set above");
            let [Complaint::WrittenAfterFree(found)] = complaints[..] else {
                panic!("{complaints:?}");
            };
            let address = range.start().as_u64() + page as u64 * K4 + 8 * word as u64;
            assert_eq!(found.area, range);
            assert_eq!((found.address.as_u64(), found.value), (address, 0x1234));
            let made_by = found.made_by.expect("one image");
            assert_eq!((made_by.file(), made_by.line()), (file!(), made));
            assert_eq!(found.freed_by.map(Location::line), Some(freed.line()));
            assert!(
                complaints[0].to_string().starts_with(&format!(
                    "vmalloc: the area {range} was written after it was freed: 0x0000000000001234 at {}; allocated by ",
                    found.address
                )),
                "{}",
                complaints[0]
            );
        }
    });
}

/// What an allocation that failed half-way had is not taken for written: the machine complains of nothing.
#[test]
fn failures_are_no_writes() {
    with_rig(SETUP, |rig| {
        for pages in [5, 40, 700] {
            for budget in 0.. {
                rig.frames.budget.set(Some(budget));
                let made = rig.areas.allocate(&AreaRequest::new(pages * K4));
                rig.frames.budget.set(None);
                rig.areas.purge();
                match made {
                    Ok(range) => {
                        let _ = free(rig, range);
                        break;
                    }
                    Err(AreaError::NoFrames { .. } | AreaError::NoTables) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        rig.areas.purge();
        assert!(rig.frames.blocks().is_empty());
    });
}

/// A large page that is to be cut takes a table: without one the area is as it was, to its last word.
#[test]
fn an_area_that_does_not_shrink_keeps_its_content() {
    with_rig(SETUP, |rig| {
        let range = rig.areas.allocate(&AreaRequest::new(2 * M2).zeroed());
        let range = range.expect("room");
        let frames = rig.frames_of(range);
        rig.frames.budget.set(Some(0));
        let request = AreaRequest::new(M2 + 5 * K4);
        // SAFETY: nobody uses the area.
        let shrunk = unsafe { rig.areas.resize(range.start(), &request) };
        rig.frames.budget.set(None);
        assert_eq!(shrunk, Err(ResizeError::Area(AreaError::NoTables)));
        let is_zero = |frame: &u64| {
            let words = rig.memory.snapshot(Pfn::new(*frame));
            words.iter().all(|word| *word == 0)
        };
        assert!(frames.iter().all(is_zero));
        // SAFETY: as above.
        let shrunk = unsafe { rig.areas.resize(range.start(), &request) };
        let left = VirtRange::new(range.start(), M2 + 5 * K4);
        assert_eq!(shrunk, Ok(Resized::InPlace(left)));
        let (kept, gone) = frames.split_at(512 + 5);
        assert!(kept.iter().all(is_zero));
        // One of them is a table now.
        assert!(
            gone.iter()
                .filter(|frame| !all_poisoned(rig, **frame))
                .count()
                <= 1
        );
        let _ = free(rig, left);
        rig.areas.purge();
    });
}
