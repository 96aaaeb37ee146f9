//! An area that user mode can reach keeps its frames, whoever frees it.

use kspace::areas::{Addresses, OwnedArea, VmallocInfo, remap};
use kspace::shootdown::{Load, Scope, Shootdown};
use kspace::user::{UserMapping, UserSpace};
use kspace::vmalloc::{AreaRequest, FreeProblem, Kind, State};
use kspace_layout::{PagingMode, VirtAddr};
use kspace_paging::Access;

use crate::rig::{K4, M2, Setup, pages, with_rig};
use crate::spaces::{AT, frames_of, user_part, with_space};

const OTHER: VirtAddr = VirtAddr::new(0x7000_0000_0000);

fn request(bytes: u64) -> AreaRequest {
    AreaRequest::new(bytes).user_mappable()
}

#[test]
fn a_freed_area_keeps_its_frames_until_the_last_mapping_is_gone() {
    with_rig(Setup::new(), |rig| {
        // The books keep their first frame.
        drop(OwnedArea::allocate(rig.areas, &request(1)).expect("room"));
        rig.areas.purge();
        for bytes in [K4, 3 * K4, M2 + K4] {
            let before = rig.everything();
            with_space(rig, |space| {
                let area = OwnedArea::allocate(rig.areas, &request(bytes)).expect("room");
                let (range, count) = (area.range(), bytes / K4);
                let blocks = rig.frames.blocks();
                let one = area
                    .remap(space, AT, 0..count, Access::ReadWrite)
                    .expect("room");
                let two = area
                    .remap(space, OTHER, 0..1, Access::ReadOnly)
                    .expect("room");
                let frames = frames_of(rig, space, one.range());
                drop(area);
                // The kernel's own entries are gone at once; nothing else is, whatever is purged.
                for _ in 0..2 {
                    assert!(pages(range).all(|at| rig.page(at).is_none()));
                    assert_eq!(rig.areas.purge().areas, 0);
                    assert_eq!(rig.frames.blocks(), blocks);
                    assert_eq!(frames_of(rig, space, one.range()), frames);
                    let info = rig
                        .areas
                        .find(range.start())
                        .expect("its addresses are taken");
                    assert_eq!((info.state, info.user), (State::Freed, true));
                }
                let fresh = rig.areas.allocate(&request(bytes)).expect("room");
                assert!(!fresh.overlaps(range));
                // SAFETY: nobody uses it.
                unsafe { rig.areas.free(fresh.start()) }.expect("it is there");
                // Who frees it again learns so, and changes nothing.
                // SAFETY: it is refused.
                let again = unsafe { rig.areas.free(range.start()) }.expect_err("freed");
                assert!(matches!(
                    again.problem(),
                    FreeProblem::Freed { by: Some(_), .. }
                ));
                drop(one);
                assert_eq!(rig.areas.purge().areas, 1, "only the fresh one");
                assert_eq!(rig.frames.blocks(), blocks);
                drop(two);
                assert_eq!(rig.frames.blocks(), blocks, "before the purge");
                let purged = rig.areas.purge();
                assert_eq!((purged.areas, purged.pages), (1, count));
                assert_eq!(rig.areas.totals().lazy_pages, 0);
            })
            .expect("room");
            rig.areas.purge();
            assert_eq!(rig.everything(), before);
        }
    });
}

#[test]
fn a_mapping_that_goes_first_keeps_nothing() {
    with_rig(Setup::new(), |rig| {
        with_space(rig, |space| {
            let area = OwnedArea::allocate(rig.areas, &request(K4)).expect("room");
            for _ in 0..3 {
                drop(area.remap(space, AT, 0..1, Access::ReadOnly).expect("room"));
            }
            drop(area);
            assert_eq!(rig.areas.purge().areas, 1);
        })
        .expect("room");
    });
}

#[test]
fn a_refused_mapping_keeps_nothing() {
    with_rig(Setup::new(), |rig| {
        with_space(rig, |space| {
            let area = OwnedArea::allocate(rig.areas, &request(K4)).expect("room");
            for at in [AT, VirtAddr::new(1), rig.areas.area().start()] {
                assert!(area.remap(space, at, 0..2, Access::ReadOnly).is_err());
            }
            drop(area);
            assert_eq!(rig.areas.purge().areas, 1);
        })
        .expect("room");
    });
}

#[test]
fn a_forgotten_mapping_leaks_its_area_and_frees_nothing() {
    with_rig(Setup::new(), |rig| {
        let mut range = None;
        with_space(rig, |space| {
            let area = OwnedArea::allocate(rig.areas, &request(K4)).expect("room");
            let mapping = area.remap(space, AT, 0..1, Access::ReadOnly).expect("room");
            std::mem::forget(mapping);
            range = Some(area.range());
        })
        .expect("room");
        assert_eq!(rig.areas.purge().areas, 0);
        let range = range.expect("there was room");
        let info = rig.areas.find(range.start()).expect("it is kept");
        assert_eq!(info.state, State::Freed);
    });
}

#[test]
fn a_mapping_is_given_up_and_taken_up() {
    with_rig(Setup::new(), |rig| {
        with_space(rig, |space| {
            let area = rig.areas.allocate(&request(K4)).expect("room");
            // SAFETY: the area is this test's.
            let mapping =
                unsafe { remap(rig.areas, area.start(), space, AT, 0..1, Access::ReadOnly) };
            let raw = mapping.expect("room").into_raw();
            assert_eq!(raw.1, Some(area.start()));
            // SAFETY: nobody else frees it.
            unsafe { rig.areas.free(area.start()) }.expect("it is there");
            assert_eq!(rig.areas.purge().areas, 0);
            // SAFETY: it was given up above.
            drop(unsafe { UserMapping::from_raw(space, rig.areas, raw) });
            assert_eq!(rig.areas.purge().areas, 1);
        })
        .expect("room");
    });
}

#[test]
fn the_list_of_areas_says_which_ones_user_spaces_may_have() {
    with_rig(Setup::new(), |rig| {
        let area = OwnedArea::allocate(rig.areas, &request(2 * K4)).expect("room");
        let _plain = OwnedArea::allocate(rig.areas, &AreaRequest::new(K4)).expect("room");
        assert_eq!(area.kind(), Kind::Memory);
        let text = VmallocInfo::new(rig.areas, Addresses::Real, |_| None).to_string();
        let user: Vec<_> = text
            .lines()
            .filter(|row| row.contains(" pages=2 vmalloc user"))
            .collect();
        assert_eq!((user.len(), text.lines().count()), (1, 2), "{text}");
    });
}

#[test]
fn what_a_cpu_kept_of_one_space_is_not_taken_for_the_next_ones() {
    with_rig(Setup::new(), |rig| {
        let shootdown = Shootdown::new(rig.cpu).with_scope(Scope::Own);
        for _ in 0..2 {
            let user = user_part(PagingMode::FourLevel);
            // SAFETY: there is no CPU that could load the root.
            let space = unsafe { UserSpace::new(rig.areas, user, &shootdown) }.expect("room");
            // It leaves, keeps what it has under its PCID, and comes back to the same space.
            let visit = |expected| {
                shootdown.switch_in(|load| assert_eq!(load, expected));
                shootdown.switch_out(true);
            };
            visit(Load::Flush);
            visit(Load::Keep);
            drop(space);
        }
    });
}

#[test]
#[should_panic(expected = "is leaked: a CPU runs it")]
fn a_space_that_a_cpu_runs_is_not_freed() {
    with_rig(Setup::new(), |rig| {
        let shootdown = Shootdown::new(rig.cpu).with_scope(Scope::Own);
        let user = user_part(PagingMode::FourLevel);
        // SAFETY: there is no CPU that could load the root.
        let space = unsafe { UserSpace::new(rig.areas, user, &shootdown) }.expect("room");
        shootdown.switch_in(|_| ());
        drop(space);
    });
}

#[test]
fn another_size_takes_no_frame_from_user_mode() {
    with_rig(Setup::new(), |rig| {
        with_space(rig, |space| {
            for (bytes, other) in [(4 * K4, K4), (2 * M2, M2), (4 * K4, 6 * K4)] {
                let mut area = OwnedArea::allocate(rig.areas, &request(bytes)).expect("room");
                let pages = 0..bytes / K4;
                let mapping = area
                    .remap(space, AT, pages, Access::ReadOnly)
                    .expect("room");
                let frames = frames_of(rig, space, mapping.range());
                // What it answers is for others to test.
                let _ = area.resize(&request(other));
                rig.areas.purge();
                assert_eq!(frames_of(rig, space, mapping.range()), frames);
                let blocks = rig.frames.blocks();
                for frame in frames.into_iter().flatten() {
                    let (first, order) = blocks.range(..=frame).next_back().expect("taken");
                    assert!(frame - first < 1 << order, "frame {frame:x} is free");
                }
            }
        })
        .expect("room");
    });
}
