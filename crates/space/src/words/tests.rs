//! The slab against a set of ids, and what it does when frames run out.

extern crate std;
use std::collections::HashSet;
use std::vec::Vec;

use core::sync::atomic::Ordering::Relaxed;

use kspace_layout::{PhysAddr, PhysRange};
use kspace_sim::{SimFrames, SimMemory};

use super::slab::{NODE_WORDS, NODES_PER_FRAME, NoFrame, NodeId, Slab};

/// Frames from physical address 0 on: the first one is no special case.
fn with_slab(test: impl FnOnce(&SimFrames<'_>, &mut Slab<'_, SimMemory, &SimFrames<'_>>)) {
    let memory = SimMemory::sparse();
    let frames = SimFrames::new(&memory, PhysRange::new(PhysAddr::ZERO, 1 << 20));
    {
        let mut slab = Slab::new(&memory, &frames);
        test(&frames, &mut slab);
    }
    assert_eq!(
        frames.in_use(),
        0,
        "dropping the slab gives all frames back"
    );
}

#[test]
fn nodes_are_distinct_and_keep_their_words() {
    with_slab(|frames, slab| {
        slab.reserve(200).expect("frames");
        assert_eq!(frames.in_use(), 4);
        assert_eq!(slab.bytes(), 4 * 4096);
        let ids: Vec<NodeId> = std::iter::from_fn(|| slab.take()).collect();
        assert_eq!(ids.len() as u64, 4 * NODES_PER_FRAME);
        for (number, id) in ids.iter().enumerate() {
            for (word, slot) in slab.words(*id).iter().enumerate() {
                slot.store((number * NODE_WORDS + word) as u64, Relaxed);
            }
        }
        for (number, id) in ids.iter().enumerate() {
            for (word, slot) in slab.words(*id).iter().enumerate() {
                assert_eq!(slot.load(Relaxed), (number * NODE_WORDS + word) as u64);
            }
            assert_eq!(NodeId::from_word(NodeId::to_word(Some(*id))), Some(*id));
        }
        // In an order that empties frames in the middle of the lists.
        for id in ids.iter().rev().step_by(2).chain(ids.iter().step_by(2)) {
            slab.put(*id);
        }
        let again: HashSet<u64> = std::iter::from_fn(|| slab.take())
            .map(|id| NodeId::to_word(Some(id)))
            .collect();
        assert_eq!(again.len(), ids.len());
    });
}

#[test]
fn a_failed_reservation_changes_nothing() {
    with_slab(|frames, slab| {
        slab.reserve(1).expect("a frame");
        for budget in 0..3 {
            frames.set_budget(Some(budget));
            assert_eq!(slab.reserve(1 + 3 * NODES_PER_FRAME), Err(NoFrame));
            assert_eq!((frames.in_use(), slab.capacity()), (1, NODES_PER_FRAME));
        }
        frames.set_budget(Some(3));
        assert_eq!(slab.reserve(1 + 3 * NODES_PER_FRAME), Ok(()));
        assert_eq!(frames.in_use(), 4);
    });
}

#[test]
fn empty_frames_go_back_but_not_at_the_edge() {
    with_slab(|frames, slab| {
        slab.reserve(3 * NODES_PER_FRAME).expect("frames");
        let ids: Vec<NodeId> = std::iter::from_fn(|| slab.take()).collect();
        slab.trim(0);
        assert_eq!(frames.in_use(), 3, "all are used");
        for id in &ids[1..] {
            slab.put(*id);
        }
        slab.trim(2 * NODES_PER_FRAME);
        assert_eq!(
            frames.in_use(),
            3,
            "one node less, and it would be taken again"
        );
        slab.trim(2 * NODES_PER_FRAME - NODES_PER_FRAME / 2);
        assert_eq!(frames.in_use(), 2);
        slab.trim(1);
        assert_eq!(frames.in_use(), 1);
        slab.put(ids[0]);
        slab.trim(0);
        assert_eq!(
            frames.in_use(),
            1,
            "the last one stays until the slab is dropped"
        );
    });
}

#[test]
fn frames_out_of_reach_count_as_none() {
    let memory = SimMemory::sparse();
    let elsewhere = SimMemory::sparse();
    let frames = SimFrames::new(&elsewhere, PhysRange::new(PhysAddr::ZERO, 1 << 20));
    let mut slab = Slab::new(&memory, &frames);
    assert_eq!(slab.reserve(1), Err(NoFrame));
    assert_eq!(frames.in_use(), 0);
}

#[test]
#[should_panic(expected = "is put back twice")]
fn putting_a_node_back_twice_is_a_broken_invariant() {
    with_slab(|_, slab| {
        slab.reserve(1).expect("a frame");
        let id = slab.take().expect("a node");
        slab.put(id);
        slab.put(id);
    });
}
