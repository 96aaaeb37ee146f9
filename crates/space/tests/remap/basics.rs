//! What a mapping in a user space is: the area's frames, the rights asked for, and no others at any level.

use std::sync::atomic::Ordering::Relaxed;

use kspace::areas::{DeviceCache, IoMemory, OwnedArea};
use kspace::vmalloc::AreaRequest;
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_layout::{PageSize, PagingMode, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{
    Access, CacheType, Controls, EntryFormat, FaultCause, Intent, LongMode, Operation, Pae,
    Refusal, TwoLevel,
};

use crate::rig::{K4, M2, Rig, Setup, guard, pages, with_rig, with_rig_of};
use crate::spaces::{AT, Space, frames_of, page, user_part, walk, with_space, words};

/// The U/S bit of an entry (Intel SDM vol. 3, section 5.5.4).
const USER: u64 = 1 << 2;

fn why(
    rig: &Rig<'_, '_>,
    space: &Space<'_, '_>,
    at: VirtAddr,
    intent: Intent,
) -> Option<FaultCause> {
    match walk(rig, space, at).access(intent, Controls::KERNEL) {
        Ok(_) => None,
        Err(Refusal::Fault(fault)) => Some(fault.cause),
        Err(other) => panic!("{at}: {other:?}"),
    }
}

fn area<'v, 'r, E: EntryFormat>(
    rig: &'v Rig<'_, 'r, E>,
    bytes: u64,
) -> OwnedArea<'v, 'r, crate::rig::SimKernel<'r, E>, 1> {
    OwnedArea::allocate(rig.areas, &AreaRequest::new(bytes).user_mappable()).expect("room")
}

#[test]
fn user_mode_has_the_areas_frames_with_these_rights_and_no_others() {
    with_rig(Setup::new(), |rig| {
        with_space(rig, |space| {
            for (access, write) in [(Access::ReadOnly, false), (Access::ReadWrite, true)] {
                let area = area(rig, 5 * K4);
                let mapping = area.remap(space, AT, 0..5, access).expect("room");
                assert_eq!(mapping.range(), VirtRange::new(AT, 5 * K4));
                let expected: Vec<_> = rig.frames_of(area.range()).into_iter().map(Some).collect();
                assert_eq!(frames_of(rig, space, mapping.range()), expected);
                for at in pages(mapping.range()) {
                    let rights = page(rig, space, at).expect("mapped").attributes;
                    assert!(rights.user && !rights.execute && !rights.global);
                    assert_eq!((rights.write, rights.cache), (write, CacheType::WriteBack));
                    let walk = walk(rig, space, at);
                    assert_eq!(walk.steps().len(), 4);
                    assert!(walk.steps().iter().all(|step| step.raw & USER != 0));
                    let user = |operation| why(rig, space, at, Intent::user(operation));
                    assert_eq!(user(Operation::Read), None);
                    assert_eq!(
                        user(Operation::Write),
                        (!write).then_some(FaultCause::Write)
                    );
                    assert_eq!(user(Operation::Fetch), Some(FaultCause::Fetch));
                    let kernel = Intent::kernel(Operation::Read);
                    assert_eq!(why(rig, space, at, kernel), Some(FaultCause::Smap));
                }
                mapping.unmap();
                assert!(pages(VirtRange::new(AT, 5 * K4)).all(|at| page(rig, space, at).is_none()));
                assert_eq!(rig.frames_of(area.range()).len(), 5);
            }
        })
        .expect("room");
    });
}

#[test]
fn the_kernels_half_is_the_same_in_every_space_and_closed_to_user_mode() {
    with_rig(Setup::new(), |rig| {
        with_space(rig, |space| {
            // Made after the space, and in parts of the area that had no tables then.
            let small = rig.areas.allocate(&AreaRequest::new(3 * K4)).expect("room");
            let far = AreaRequest::new(M2).aligned(1 << 30);
            let others = [far, far, AreaRequest::new(K4).user_mappable()];
            let others = others.map(|request| rig.areas.allocate(&request).expect("room"));
            for range in [small, others[0], others[1], others[2]] {
                for at in pages(range) {
                    assert_eq!(page(rig, space, at), rig.page(at));
                    let user = Intent::user(Operation::Read);
                    assert_eq!(why(rig, space, at, user), Some(FaultCause::User));
                    assert_eq!(why(rig, space, at, Intent::kernel(Operation::Write)), None);
                }
                assert_eq!(page(rig, space, guard(range)), None);
            }
        })
        .expect("room");
    });
}

#[test]
fn nothing_of_others_is_shown() {
    with_rig(Setup::new(), |rig| {
        with_space(rig, |space| {
            // Every frame there is has had something in it.
            let mut dirty = Vec::new();
            for bytes in [M2, K4] {
                while let Ok(range) = rig.areas.allocate(&AreaRequest::new(bytes)) {
                    for frame in rig.frames_of(range) {
                        words(rig, frame)
                            .iter()
                            .for_each(|word| word.store(!0, Relaxed));
                    }
                    dirty.push(range);
                }
            }
            for range in dirty {
                // SAFETY: nobody uses the area.
                unsafe { rig.areas.free(range.start()) }.expect("it is there");
            }
            rig.areas.purge();
            for bytes in [1, 9 * K4, M2 + K4] {
                let mut area = area(rig, bytes);
                let more = area.range().size() + K4;
                // Also what it grows by, whoever asks for that.
                area.resize(&AreaRequest::new(more)).expect("room");
                assert_eq!(area.range().size(), more);
                let count = more / K4;
                let mapping = area
                    .remap(space, AT, 0..count, Access::ReadOnly)
                    .expect("room");
                for frame in frames_of(rig, space, mapping.range()) {
                    let frame = words(rig, frame.expect("mapped"));
                    assert!(frame.iter().all(|word| word.load(Relaxed) == 0));
                }
            }
        })
        .expect("room");
    });
}

#[test]
fn a_part_of_an_area_is_mapped_at_several_places() {
    with_rig(Setup::new(), |rig| {
        // So that frames are in no row.
        rig.frames.fragment(1);
        with_space(rig, |space| {
            let area = area(rig, 8 * K4);
            let frames: Vec<_> = rig.frames_of(area.range()).into_iter().map(Some).collect();
            let two = VirtAddr::new(AT.as_u64() + 3 * K4);
            let one = area
                .remap(space, AT, 2..5, Access::ReadWrite)
                .expect("room");
            let two = area
                .remap(space, two, 4..8, Access::ReadOnly)
                .expect("room");
            assert_eq!(frames_of(rig, space, one.range()), frames[2..5]);
            assert_eq!(frames_of(rig, space, two.range()), frames[4..8]);
            drop(one);
            assert_eq!(frames_of(rig, space, two.range()), frames[4..8]);
            let again = area
                .remap(space, AT, 0..1, Access::ReadOnly)
                .expect("room again");
            assert_eq!(frames_of(rig, space, again.range()), frames[..1]);
        })
        .expect("room");
    });
}

#[test]
fn large_pages_stay_large_where_the_user_address_suits_them() {
    with_rig(Setup::new(), |rig| {
        with_space(rig, |space| {
            let area = area(rig, 2 * M2 + K4);
            let size = |at: VirtAddr| page(rig, space, at).expect("mapped").size;
            let mapping = area
                .remap(space, AT, 0..1025, Access::ReadOnly)
                .expect("room");
            assert_eq!(size(AT), PageSize::Size2M);
            assert!(page(rig, space, AT).expect("mapped").attributes.user);
            assert_eq!(size(mapping.range().last()), PageSize::Size4K);
            drop(mapping);
            let odd = VirtAddr::new(AT.as_u64() + M2 + K4);
            let _mapping = area
                .remap(space, odd, 0..1024, Access::ReadOnly)
                .expect("room");
            assert_eq!(size(odd), PageSize::Size4K);
        })
        .expect("room");
    });
}

#[test]
fn a_device_keeps_its_cache_type() {
    with_rig(Setup::new(), |rig| {
        with_space(rig, |space| {
            let ram = FirmwareEntry {
                start: 0,
                size: 80 << 20,
                kind: 1,
            };
            let map = MemoryMap::from_firmware([ram], 46, |_| ()).expect("a sound map");
            let start = PhysAddr::new(0x1_0000_0010);
            for cache in [DeviceCache::Uncached, DeviceCache::WriteCombining] {
                // SAFETY: there is no device.
                let device =
                    unsafe { IoMemory::new(rig.areas, rig.types, &map, start, 2 * K4, cache) };
                let device = device.expect("room");
                // SAFETY: as above.
                let mapped = unsafe { device.remap(space, AT, 1..3, Access::ReadWrite) };
                let mapped = mapped.expect("three pages have bytes of it");
                let there = page(rig, space, AT).expect("mapped");
                assert_eq!(there.phys, PhysAddr::new(0x1_0000_1000));
                let kernels = rig.page(device.address()).expect("mapped").attributes;
                assert_eq!(there.attributes.cache, kernels.cache);
                assert!(there.attributes.user && there.attributes.write);
                assert!(!there.attributes.execute && !there.attributes.global);
                drop(mapped);
            }
        })
        .expect("room");
    });
}

fn any_mode<E: EntryFormat>(mode: PagingMode, area_at: VirtRange) {
    let setup = Setup {
        mode,
        area: area_at,
        ..Setup::new()
    };
    with_rig_of::<E>(setup, |rig| {
        drop(area(rig, K4));
        rig.areas.purge();
        let before = rig.everything();
        let mapped = with_space(rig, |space| {
            assert_eq!(space.range(), user_part(mode));
            let last = VirtAddr::new(user_part(mode).last().as_u64() - 5 * K4 + 1);
            for at in [VirtAddr::new(K4), AT, last] {
                let area = area(rig, 5 * K4);
                let mapping = area
                    .remap(space, at, 0..5, Access::ReadWrite)
                    .expect("room");
                let expected: Vec<_> = rig.frames_of(area.range()).into_iter().map(Some).collect();
                assert_eq!(frames_of(rig, space, mapping.range()), expected);
                let rights = page(rig, space, at).expect("mapped").attributes;
                assert!(rights.user && rights.write && !rights.global);
                assert_eq!(page(rig, space, area.start()), rig.page(area.start()));
                let kernels = page(rig, space, area.start()).expect("mapped").attributes;
                assert!(!kernels.user);
            }
        });
        mapped.expect("room");
        rig.areas.purge();
        assert_eq!(rig.everything(), before, "{mode}");
    });
}

#[test]
fn it_is_so_in_every_mode_and_the_space_leaves_nothing() {
    let low = VirtRange::new(VirtAddr::new(0xd000_0000), 128 << 20);
    any_mode::<LongMode>(PagingMode::FourLevel, crate::rig::AREA);
    any_mode::<LongMode>(
        PagingMode::FiveLevel,
        VirtRange::new(VirtAddr::new(0xffa0_0000_0000_0000), 1 << 40),
    );
    any_mode::<Pae>(PagingMode::Pae, low);
    any_mode::<TwoLevel>(PagingMode::TwoLevel, low);
}
