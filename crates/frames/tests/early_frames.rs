//! The early frame source: every free frame once, from the top, and released ones again.

use std::collections::BTreeSet;

use kspace_frames::{Counts, EarlyFrames, FirmwareEntry, MemoryMap, ReleaseError};
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
            lost: 0
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
    assert_eq!(
        frames.release(first),
        Err(ReleaseError::NotHandedOut(first))
    );
    let (older, _newer) = (frames.allocate().expect("a frame"), frames.allocate());
    assert_eq!(frames.release(older), Ok(()));
    assert_eq!(
        frames.release(older).unwrap_err().to_string(),
        "early frames: release of 0000000003fff000: it is free already; nothing was changed"
    );
    for never in [0x1000, 0x3ffd, 0x5000, 0x10_0000] {
        let never = Pfn::new(never);
        assert_eq!(
            frames.release(never),
            Err(ReleaseError::NotHandedOut(never))
        );
    }
    assert_eq!(
        frames.release(Pfn::new(0x1000)).unwrap_err().to_string(),
        "early frames: release of 0000000001000000: it was never handed out; nothing was changed"
    );
    let counts = frames.counts();
    assert_eq!((counts.in_use, counts.free), (1, counts.total - 1));
}

#[test]
fn what_is_released_newest_first_needs_no_list() {
    let frames = EarlyFrames::new(&machine(), below_4_gib());
    let mut taken: Vec<Pfn> = std::iter::from_fn(|| frames.allocate()).collect();
    let all = taken.clone();
    while let Some(frame) = taken.pop() {
        assert_eq!(frames.release(frame), Ok(()));
    }
    let counts = frames.counts();
    assert_eq!(
        (counts.in_use, counts.free, counts.lost),
        (0, counts.total, 0)
    );
    let again: Vec<Pfn> = std::iter::from_fn(|| frames.allocate()).collect();
    assert_eq!(again, all);
}

#[test]
fn a_full_list_loses_frames_and_counts_them() {
    let frames = EarlyFrames::new(&machine(), below_4_gib());
    let taken: Vec<Pfn> = (0..514).map_while(|_| frames.allocate()).collect();
    let (last, others) = taken[..513].split_last().expect("514 frames");
    for frame in others {
        frames.release(*frame).expect("512 fit");
    }
    assert_eq!(
        frames.release(*last).unwrap_err().to_string(),
        "early frames: release of 0000000003dff000: 512 released frames are waiting already; this one is lost"
    );
    let counts = frames.counts();
    assert_eq!(
        (counts.lost, counts.in_use, counts.free),
        (1, 1, counts.total - 2)
    );
}

proptest! {
    #[test]
    fn no_frame_is_in_use_twice(steps in prop::collection::vec(any::<Option<prop::sample::Index>>(), 0..200)) {
        let window = PhysRange::new(PhysAddr::new(0x11f_0000), 0x4_0000);
        let frames = EarlyFrames::new(&machine(), window);
        let all: BTreeSet<u64> = (0x1200..0x1230).collect();
        let mut held: Vec<Pfn> = Vec::new();
        for step in steps {
            match step {
                Some(which) if !held.is_empty() => {
                    let frame = held.swap_remove(which.index(held.len()));
                    prop_assert_eq!(frames.release(frame), Ok(()));
                }
                _ => match frames.allocate() {
                    Some(frame) => {
                        prop_assert!(all.contains(&frame.as_u64()), "{} is not free RAM", frame.start());
                        prop_assert!(!held.contains(&frame), "{} came twice", frame.start());
                        held.push(frame);
                    }
                    None => prop_assert_eq!(held.len(), all.len()),
                },
            }
            let counts = frames.counts();
            prop_assert_eq!(counts.in_use, held.len() as u64);
            prop_assert_eq!(counts.free + counts.in_use, counts.total);
        }
    }
}
