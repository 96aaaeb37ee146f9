//! The early frame source: every free frame once, from the top, alone or in runs; released ones again; the rest handed over.

use std::collections::BTreeSet;

use kspace_frames::{Counts, EarlyFrames, FirmwareEntry, MemoryMap, ReleaseError, WidenError};
use kspace_layout::{Pfn, PhysAddr, PhysRange};
use proptest::prelude::*;

/// 1 MiB to 64 MiB of RAM and 16 MiB above 4 GiB, with a kernel at 16 MiB.
fn machine() -> MemoryMap {
    let ram = |start, size| FirmwareEntry {
        start,
        size,
        kind: 1,
    };
    let entries = [ram(0x10_0000, 0x3f0_0000), ram(0x1_0000_0000, 0x100_0000)];
    let mut map = MemoryMap::from_firmware(entries, 40, |_| ()).expect("a usable map");
    map.reserve(PhysRange::new(PhysAddr::new(0x100_0000), 0x20_0000))
        .expect("room");
    map
}

fn below_4_gib() -> PhysRange {
    PhysRange::new(PhysAddr::ZERO, 1 << 32)
}

#[test]
fn every_free_frame_comes_once_from_the_top_down() {
    let frames = EarlyFrames::new(&machine(), below_4_gib());
    let taken: Vec<u64> = std::iter::from_fn(|| frames.allocate())
        .map(Pfn::as_u64)
        .collect();
    let expected: Vec<u64> = (0x100..0x1000).chain(0x1200..0x4000).rev().collect();
    assert_eq!(taken, expected);
    let total = expected.len() as u64;
    assert_eq!(
        frames.counts(),
        Counts {
            total,
            in_use: total,
            free: 0,
            lost: 0,
            handed_over: 0,
        }
    );
}

#[test]
fn a_window_inside_a_page_gives_only_whole_frames() {
    let window = PhysRange::new(PhysAddr::new(0x200_0001), 0x2fff);
    let frames = EarlyFrames::new(&machine(), window);
    assert_eq!(frames.allocate(), Some(Pfn::new(0x2002)));
    assert_eq!(frames.allocate(), Some(Pfn::new(0x2001)));
    assert_eq!(frames.allocate(), None);
}

#[test]
fn wrong_releases_are_refused_in_clear_words() {
    let frames = EarlyFrames::new(&machine(), below_4_gib());
    let first = frames.allocate().expect("a frame");
    assert_eq!(frames.release(first), Ok(()));
    assert_eq!(frames.release(first), Err(ReleaseError::Free(first)));
    let (older, _newer) = (frames.allocate().expect("a frame"), frames.allocate());
    assert_eq!(frames.release(older), Ok(()));
    assert_eq!(
        frames.release(older).unwrap_err().to_string(),
        "early frames: release of 0000000003fff000: it is free already; nothing was changed"
    );
    for never in [0x1000, 0x5000, 0x10_0000] {
        let error = frames.release(Pfn::new(never)).unwrap_err();
        assert!(matches!(error, ReleaseError::NotOurs { .. }), "{error}");
    }
    assert_eq!(
        frames
            .release_run(Pfn::new(0x3ff0), 0x100)
            .unwrap_err()
            .to_string(),
        "early frames: release of 0000000003ff0000 (256 frames): never handed out here; nothing was changed"
    );
    // The list ends below the newest frame, and the run does not.
    assert_eq!(
        frames.release_run(Pfn::new(0x3ffd), 2),
        Err(ReleaseError::Free(Pfn::new(0x3ffd)))
    );
    let counts = frames.counts();
    assert_eq!((counts.in_use, counts.free), (1, counts.total - 1));
}

#[test]
fn what_comes_back_is_joined_and_comes_again() {
    let frames = EarlyFrames::new(&machine(), below_4_gib());
    let all: Vec<Pfn> = std::iter::from_fn(|| frames.allocate()).collect();
    // In an order that keeps few runs apart at a time.
    for frame in all
        .iter()
        .skip(1)
        .step_by(2)
        .chain(all.iter().step_by(2))
        .take(300)
    {
        assert_eq!(frames.release(*frame), Ok(()));
    }
    for frame in all.iter().rev() {
        let _ = frames.release(*frame);
    }
    let counts = frames.counts();
    assert_eq!(
        (counts.in_use, counts.free, counts.lost),
        (0, counts.total, 0)
    );
    let again: Vec<Pfn> = std::iter::from_fn(|| frames.allocate()).collect();
    assert_eq!(again, all);
}

/// No more runs are remembered than there is room for; what is too much is counted.
#[test]
fn a_full_list_loses_frames_and_counts_them() {
    let frames = EarlyFrames::new(&machine(), below_4_gib());
    let taken: Vec<Pfn> = std::iter::from_fn(|| frames.allocate()).collect();
    let mut kept = 0;
    let lost = taken.iter().step_by(2).find_map(|frame| {
        let error = frames.release(*frame).err();
        kept += u64::from(error.is_none());
        error
    });
    assert_eq!(
        kept, 450,
        "128 ranges of RAM, 64 reservations, 2 of a wider window, 256 more"
    );
    let frame = taken[900];
    assert_eq!(
        lost.expect("not all fit").to_string(),
        format!(
            "early frames: release of {}: 450 runs are free already, with frames in use between them; lost",
            frame.start()
        )
    );
    let counts = frames.counts();
    assert_eq!((counts.lost, counts.free), (1, 450));
    assert_eq!(counts.in_use, counts.total - 451);
    // The list is full, so a run that would leave two pieces behind is not cut out; a frame at an end is.
    assert_eq!(frames.release(taken[1]), Ok(()));
    assert_eq!(frames.release(taken[3]), Ok(()));
    assert_eq!(frames.allocate(), Some(taken[0]));
}

#[test]
fn runs_are_aligned_and_cut_out_of_the_highest_place() {
    let frames = EarlyFrames::new(&machine(), below_4_gib());
    // The top of RAM is at 64 MiB; one frame is gone already.
    assert_eq!(frames.allocate(), Some(Pfn::new(0x3fff)));
    assert_eq!(frames.allocate_run(512, 512), Some(Pfn::new(0x3c00)));
    // The rest above it is used first.
    assert_eq!(frames.allocate(), Some(Pfn::new(0x3ffe)));
    assert_eq!(frames.allocate_run(3, 4), Some(Pfn::new(0x3ff8)));
    // Only the part below the kernel at 16 MiB begins at a multiple of 8 MiB and has as much; above, 28 MiB to 60 MiB.
    assert_eq!(frames.allocate_run(0x1800, 0x800), Some(Pfn::new(0x2000)));
    assert_eq!(frames.allocate_run(0x1800, 0x800), None);
    assert_eq!(frames.allocate_run(0, 1), None);
    assert_eq!(frames.allocate_run(1, 3), None);
    assert_eq!(frames.release_run(Pfn::new(0x3c00), 512), Ok(()));
    assert_eq!(frames.allocate_run(512, 512), Some(Pfn::new(0x3c00)));
}

#[test]
fn a_wider_window_adds_what_is_new_in_it() {
    let map = machine();
    let frames = EarlyFrames::new(&map, PhysRange::new(PhysAddr::new(0x80_0000), 0x100_0000));
    let first = frames.allocate().expect("a frame");
    assert_eq!(first, Pfn::new(0x17ff));
    let all = PhysRange::new(PhysAddr::ZERO, 1 << 40);
    frames.widen(&map, all).expect("room");
    assert_eq!(
        frames.counts().total,
        EarlyFrames::new(&map, all).counts().total
    );
    assert_eq!(frames.counts().in_use, 1);
    // Above 4 GiB first.
    let rest: BTreeSet<Pfn> = std::iter::from_fn(|| frames.allocate()).collect();
    assert_eq!(rest.last(), Some(&Pfn::new(0x10_0fff)));
    assert!(!rest.contains(&first));
    assert_eq!(rest.len() as u64 + 1, frames.counts().total);
    assert_eq!(
        frames.widen(&map, below_4_gib()).unwrap_err().to_string(),
        "early frames: window 0000000000000000-00000000ffffffff does not hold the window so far, \
         0000000000000000-000000ffffffffff; nothing was changed"
    );
}

#[test]
fn what_is_handed_over_is_all_that_was_left_and_comes_once() {
    let frames = EarlyFrames::new(&machine(), below_4_gib());
    let single = frames.allocate().expect("a frame");
    let run = frames.allocate_run(512, 512).expect("a run");
    let mut ranges = Vec::new();
    frames.hand_over(|range| ranges.push(range));
    let shown: Vec<String> = ranges.iter().map(PhysRange::to_string).collect();
    assert_eq!(
        shown,
        [
            "0000000003e00000-0000000003ffefff",
            "0000000001200000-0000000003bfffff",
            "0000000000100000-0000000000ffffff",
        ]
    );
    let given: u64 = ranges.iter().map(|range| range.size() / 4096).sum();
    let counts = frames.counts();
    assert_eq!(counts.total, given + 513);
    assert_eq!(
        (counts.in_use, counts.free, counts.handed_over),
        (513, 0, given)
    );
    assert_eq!(frames.allocate(), None);
    frames.hand_over(|range| panic!("{range} again"));
    assert_eq!(
        frames.release(single).unwrap_err().to_string(),
        "early frames: release of 0000000003fff000: what was left has gone to the zones; lost, free them there"
    );
    assert_eq!(
        frames.widen(&machine(), below_4_gib()),
        Err(WidenError::HandedOver)
    );
    let counts = frames.counts();
    assert_eq!((counts.in_use, counts.lost), (512, 1));
    assert!(frames.release_run(run, 512).is_err());
    let counts = frames.counts();
    assert_eq!(counts.total, counts.lost + counts.handed_over);
}

proptest! {
    /// Against a set of frames: runs of any length and alignment, released whole or in parts, and never a frame twice.
    #[test]
    fn no_frame_is_in_use_twice(
        steps in prop::collection::vec((any::<Option<prop::sample::Index>>(), 1_u64..20, 0_u32..5), 0..200),
    ) {
        let window = PhysRange::new(PhysAddr::new(0x11f_0000), 0x10_0000);
        let frames = EarlyFrames::new(&machine(), window);
        let all: BTreeSet<u64> = (0x1200..0x12f0).collect();
        let mut free = all.clone();
        let mut held: Vec<(u64, u64)> = Vec::new();
        for (which, count, shift) in steps {
            match which {
                Some(which) if !held.is_empty() => {
                    let at = which.index(held.len());
                    let (first, len) = held.swap_remove(at);
                    let part = count.min(len);
                    prop_assert_eq!(frames.release_run(Pfn::new(first), part), Ok(()));
                    free.extend(first..first + part);
                    if part < len {
                        held.push((first + part, len - part));
                    }
                }
                _ => {
                    let align = 1 << shift;
                    let fits = |first: &u64| first.is_multiple_of(align) && (*first..first + count).all(|frame| free.contains(&frame));
                    let expected = all.iter().copied().filter(fits).max();
                    prop_assert_eq!(frames.allocate_run(count, align).map(Pfn::as_u64), expected);
                    if let Some(first) = expected {
                        (first..first + count).for_each(|frame| { free.remove(&frame); });
                        held.push((first, count));
                    }
                }
            }
            let counts = frames.counts();
            prop_assert_eq!(counts.free, free.len() as u64);
            prop_assert_eq!(counts.in_use, (all.len() - free.len()) as u64);
            prop_assert_eq!((counts.total, counts.lost), (all.len() as u64, 0));
        }
    }
}
