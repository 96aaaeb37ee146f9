//! What a request can say of pages and rights.

use kspace::vmalloc::{AreaError, AreaRequest, Kind, ProtectionProblem};
use kspace_layout::{PageSize, Pfn};
use kspace_paging::{Access, CacheType, Limits, Protection};

use crate::rig::{K4, M2, Setup, guard, with_rig};

const G1: u64 = 1 << 30;

/// RAM in which two whole GiB lie.
const LARGE: Setup = Setup {
    ram: 3 << 30,
    ..Setup::new()
};

fn sizes(rig: &crate::rig::Rig<'_, '_>, request: &AreaRequest) -> Vec<(PageSize, u64)> {
    let range = rig.areas.allocate(request).expect("room");
    assert_eq!(rig.page(guard(range)), None);
    let sizes = rig.sizes(range).into_iter().collect();
    // SAFETY: the area is not used.
    unsafe { rig.areas.free(range.start()) }.expect("it is there");
    rig.areas.purge();
    assert!(rig.frames.blocks().is_empty());
    sizes
}

#[test]
fn a_gibibyte_of_memory_is_one_page_where_one_is_there() {
    with_rig(LARGE, |rig| {
        let request = AreaRequest::new(G1);
        assert_eq!(sizes(rig, &request), [(PageSize::Size1G, 1)]);
        let request = AreaRequest::new(2 * G1 + 3 * M2 + 5 * K4);
        assert_eq!(
            sizes(rig, &request),
            [
                (PageSize::Size4K, 5),
                (PageSize::Size2M, 3),
                (PageSize::Size1G, 2)
            ]
        );
        // One frame of each GiB but the first is taken: the rest is in 2 MiB and less.
        let taken: Vec<_> = rig.frames.take_in_each(1 << 18, 1);
        assert_eq!(
            sizes(rig, &AreaRequest::new(2 * G1)),
            [(PageSize::Size2M, 512), (PageSize::Size1G, 1)]
        );
        rig.frames.give_all(taken);
        let taken: Vec<_> = rig.frames.take_in_each(1 << 18, 0);
        assert_eq!(sizes(rig, &AreaRequest::new(G1)), [(PageSize::Size2M, 512)]);
        rig.frames.give_all(taken);
    });
}

#[test]
fn a_machine_without_such_pages_has_smaller_ones() {
    let limits = Limits::WIDEST.with_gigabyte_pages(false);
    with_rig(Setup { limits, ..LARGE }, |rig| {
        assert_eq!(sizes(rig, &AreaRequest::new(G1)), [(PageSize::Size2M, 512)]);
    });
}

#[test]
fn a_part_of_a_gibibyte_can_be_given_back() {
    with_rig(LARGE, |rig| {
        let range = rig.areas.allocate(&AreaRequest::new(G1)).expect("room");
        let free = rig.frames.free_frames();
        // SAFETY: the area is the test's.
        let now = unsafe { rig.areas.resize(range.start(), &AreaRequest::new(G1 - K4)) };
        now.expect("it can be cut");
        // But for the two tables that the page was split into.
        assert_eq!(rig.frames.free_frames(), free + 1 - 2);
        let now = kspace_layout::VirtRange::new(range.start(), G1 - K4);
        let sizes: Vec<_> = rig.sizes(now).into_iter().collect();
        assert_eq!(sizes, [(PageSize::Size4K, 511), (PageSize::Size2M, 511)]);
    });
}

#[test]
fn zeros_are_zeros_in_the_largest_page() {
    with_rig(LARGE, |rig| {
        let range = rig.areas.allocate(&AreaRequest::new(G1)).expect("room");
        let first = rig.page(range.start()).expect("mapped").phys.pfn().as_u64();
        let frames = [0, 511, 512, 100_000, (1 << 18) - 1].map(|frame| Pfn::new(first + frame));
        for frame in frames {
            rig.memory.words(frame)[511].store(1, std::sync::atomic::Ordering::Relaxed);
        }
        // SAFETY: the area is not used.
        unsafe { rig.areas.free(range.start()) }.expect("it is there");
        rig.areas.purge();
        let again = rig
            .areas
            .allocate(&AreaRequest::new(G1).zeroed())
            .expect("room");
        let page = rig.page(again.start()).expect("mapped");
        assert_eq!(
            (page.size, page.phys.pfn().as_u64()),
            (PageSize::Size1G, first)
        );
        for frame in frames {
            assert!(rig.memory.snapshot(frame).iter().all(|word| *word == 0));
        }
    });
}

#[test]
fn large_pages_on_request_and_none_on_request() {
    with_rig(Setup::new(), |rig| {
        let odd = AreaRequest::new(3 * M2 + K4);
        assert_eq!(
            sizes(rig, &odd),
            [(PageSize::Size4K, 1), (PageSize::Size2M, 3)]
        );
        assert_eq!(sizes(rig, &odd.huge()), [(PageSize::Size2M, 4)]);
        assert_eq!(
            sizes(rig, &AreaRequest::new(K4).huge()),
            [(PageSize::Size2M, 1)]
        );
        assert_eq!(sizes(rig, &odd.small_pages()), [(PageSize::Size4K, 1537)]);
        // Where there are no blocks, it is pieces.
        rig.frames.fragment(6);
        assert_eq!(
            sizes(rig, &AreaRequest::new(K4).huge()),
            [(PageSize::Size4K, 512)]
        );
        let error = rig.areas.allocate(&AreaRequest::new(u64::MAX).huge());
        assert!(
            matches!(error, Err(AreaError::TooLarge { .. })),
            "{error:?}"
        );
    });
}

#[test]
fn rights_that_an_area_must_not_have_are_refused() {
    with_rig(Setup::new(), |rig| {
        let before = rig.everything();
        let data = Protection::KERNEL_DATA;
        let code = Protection::kernel(Access::ReadExecute);
        let user = Protection { user: true, ..data };
        let cache = |cache| Protection { cache, ..data };
        let uncached = cache(CacheType::Uncached);
        for pages in [1, 20, 600] {
            for kind in [Kind::Memory, Kind::Stack, Kind::Executable] {
                for (protection, problem) in [
                    (user, ProtectionProblem::User),
                    (code, ProtectionProblem::Executable),
                    (uncached, ProtectionProblem::Cache),
                    (cache(CacheType::WriteCombining), ProtectionProblem::Cache),
                    (cache(CacheType::WriteThrough), ProtectionProblem::Cache),
                ] {
                    let request = AreaRequest::new(pages * K4)
                        .kind(kind)
                        .protection(protection);
                    let refused = AreaError::Protection {
                        protection,
                        kind,
                        problem,
                    };
                    assert_eq!(rig.areas.allocate(&request), Err(refused));
                }
            }
            // Given RAM likewise; devices have the cache type that they need.
            for (kind, protection, refused) in [
                (Kind::Frames, user, true),
                (Kind::Frames, code, true),
                (Kind::Frames, uncached, true),
                (Kind::Device, code, true),
                (Kind::Device, uncached, false),
            ] {
                let request = AreaRequest::new(pages * K4)
                    .kind(kind)
                    .protection(protection);
                // SAFETY: nobody uses the area.
                let made = unsafe { rig.areas.map(&request, |page| Pfn::new(0x10_0000 + page)) };
                let is_refused = matches!(made, Err(AreaError::Protection { .. }));
                assert_eq!(is_refused, refused, "{kind} {protection:?}");
                if let Ok(range) = made {
                    // SAFETY: as above.
                    unsafe { rig.areas.free(range.start()) }.expect("it is there");
                }
            }
        }
        rig.areas.purge();
        let now = rig.everything();
        assert_eq!((now.2, now.3, now.4), (before.2, before.3, before.4));
        let request = AreaRequest::new(K4).protection(uncached);
        assert_eq!(
            rig.areas
                .allocate(&request)
                .expect_err("refused")
                .to_string(),
            "vmalloc: an area for vmalloc with such rights: RAM is write-back everywhere; ask for write-back"
        );
    });
}
