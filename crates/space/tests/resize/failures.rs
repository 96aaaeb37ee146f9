//! Every request for frames fails in turn, and all after it: the area is as it was, and nothing is left behind.

use kspace::vmalloc::{AreaError, AreaRequest, ResizeError};
use kspace_layout::VirtRange;

use crate::rig::{K4, Rig, Setup, guard, with_rig};

/// An area of `old` pages, another one behind it if it is to move, and then `new` pages, with fewer and fewer failures. How many there were.
fn fail_in_turn(old: u64, new: u64, moves: bool, fragmented: bool) -> u64 {
    let mut failures = 0;
    with_rig(Setup::new(), |rig| {
        let pages = |count| AreaRequest::new(count * K4);
        let free = |range: VirtRange| {
            // SAFETY: the area is not used.
            unsafe { rig.areas.free(range.start()) }.expect("it is there");
        };
        free(rig.areas.allocate(&pages(512)).expect("room"));
        rig.areas.purge();
        let untouched = rig.everything();
        if fragmented {
            rig.frames.fragment(6);
        }
        let untouched = (rig.frames.free_frames(), untouched.1, untouched.3);
        let range = rig.areas.allocate(&pages(old)).expect("room");
        let mut others = Vec::new();
        let next = guard(range).checked_add(K4).expect("inside");
        while moves && !others.iter().any(|other: &VirtRange| other.contains(next)) {
            let count = like(old);
            others.push(rig.areas.allocate(&pages(count)).expect("room"));
        }
        // Empty page tables may stay as long as areas do.
        let all = || {
            let (free, tables, blocks, _, areas) = rig.everything();
            (
                free + tables as u64,
                blocks.values().map(|order| 1_u64 << order).sum::<u64>(),
                areas,
            )
        };
        let (before, frames) = (all(), rig.frames_of(range));
        let now = loop {
            rig.frames.budget.set(Some(failures));
            // SAFETY: the area is the test's.
            let made = unsafe { rig.areas.reallocate(range.start(), &pages(new)) };
            rig.frames.budget.set(None);
            match made {
                Ok(range) => break range,
                Err(ResizeError::Area(AreaError::NoFrames { .. } | AreaError::NoTables)) => {}
                Err(error) => panic!("{error}"),
            }
            rig.areas.purge();
            assert_eq!(all(), before, "failure {failures}");
            as_it_was(rig, range, &frames);
            failures += 1;
        };
        assert_eq!(now.start() != range.start(), moves);
        let kept = old.min(new) as usize;
        assert_eq!(rig.frames_of(now)[..kept], frames[..kept]);
        others.push(now);
        others.into_iter().for_each(free);
        rig.areas.purge();
        let now = rig.everything();
        assert_eq!((now.0, now.1, now.3), untouched);
    });
    failures
}

/// The size of areas that lie where ones of `pages` pages do.
fn like(pages: u64) -> u64 {
    match pages {
        0..9 => 1,
        9..256 => 20,
        _ => 300,
    }
}

fn as_it_was(rig: &Rig<'_, '_>, range: VirtRange, frames: &[u64]) {
    assert_eq!(rig.frames_of(range), frames);
    assert_eq!(rig.page(guard(range)), None);
    let info = rig.areas.find(range.start()).expect("it lives");
    assert_eq!(info.range, range);
}

#[test]
fn growing_in_place() {
    assert!(fail_in_turn(2, 9, false, false) >= 7);
    assert!(fail_in_turn(2, 200, false, true) >= 7);
    assert!(fail_in_turn(600, 1500, false, true) > 12);
}

#[test]
fn moving() {
    assert!(fail_in_turn(2, 9, true, false) > 2);
    assert!(fail_in_turn(100, 300, true, true) > 5);
    assert!(fail_in_turn(600, 1500, true, true) > 12);
}

/// Only the table of a large page that is cut takes a frame.
#[test]
fn shrinking() {
    assert_eq!(fail_in_turn(1024, 700, false, false), 1);
    assert_eq!(fail_in_turn(1024, 512, false, false), 0);
    assert_eq!(fail_in_turn(200, 3, false, false), 0);
}
