//! What a large area is made of, and what is left when it is freed.

use kspace::vmalloc::{AreaError, AreaRequest, FreeProblem, Kind, Resized, State};
use kspace_layout::{PageSize, Pfn, VirtAddr};
use kspace_paging::{Access, Protection};

use crate::rig::{K4, M2, M4, Setup, guard, pages, with_rig};

#[test]
fn two_mebibytes_are_one_large_page() {
    with_rig(Setup::new(), |rig| {
        let range = rig.areas.allocate(&AreaRequest::new(M2)).expect("room");
        assert_eq!(range.size(), M2);
        assert!(range.start().is_aligned(M2));
        assert_eq!(
            rig.sizes(range).into_iter().collect::<Vec<_>>(),
            [(PageSize::Size2M, 1)]
        );
        assert_eq!(rig.page(guard(range)), None);
    });
}

#[test]
fn what_is_left_after_large_pages_is_in_blocks_and_in_order() {
    with_rig(Setup::new(), |rig| {
        let bytes = 2 * M2 + 0xb7 * K4 + 1;
        let range = rig.areas.allocate(&AreaRequest::new(bytes)).expect("room");
        let sizes = rig.sizes(range);
        assert_eq!(
            (sizes[&PageSize::Size2M], sizes[&PageSize::Size4K]),
            (2, 0xb8)
        );
        let orders: Vec<_> = rig.frames.blocks().into_values().collect();
        let mut sorted = orders;
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(sorted, [9, 9, 7, 5, 4, 3]);
        assert_eq!(rig.page(guard(range)), None);
    });
}

#[test]
fn a_small_area_with_a_large_alignment() {
    with_rig(Setup::new(), |rig| {
        let range = rig
            .areas
            .allocate(&AreaRequest::new(3 * K4).aligned(1 << 30))
            .expect("room");
        assert!(range.start().is_aligned(1 << 30));
        assert_eq!(rig.sizes(range)[&PageSize::Size4K], 3);
    });
}

#[test]
fn a_free_is_honest_and_the_purge_gives_all_back() {
    with_rig(Setup::new(), |rig| {
        warm_up(rig);
        let before = rig.everything();
        let range = rig
            .areas
            .allocate(&AreaRequest::new(5 * M2 + K4))
            .expect("room");
        // SAFETY: the area is not used.
        unsafe { rig.areas.free(range.start()) }.expect("it is there");
        assert!(pages(range).all(|page| rig.page(page).is_none()));
        // Its frames are nobody's yet.
        assert_eq!(rig.frames.blocks().len(), 6);
        assert_eq!(rig.areas.totals().lazy_pages, 5 * 512 + 1);
        let purged = rig.areas.purge();
        assert_eq!((purged.areas, purged.pages), (1, 5 * 512 + 1));
        assert_eq!(rig.everything(), before);
        assert_eq!(rig.areas.totals().lazy_pages, 0);
    });
}

/// The books on large areas keep one frame once there has been one.
fn warm_up(rig: &crate::rig::Rig<'_, '_>) {
    let range = rig.areas.allocate(&AreaRequest::new(M2)).expect("room");
    // SAFETY: the area is not used.
    unsafe { rig.areas.free(range.start()) }.expect("it is there");
    rig.areas.purge();
}

#[test]
fn a_second_free_names_the_first() {
    with_rig(Setup::new(), |rig| {
        let range = rig.areas.allocate(&AreaRequest::new(M2)).expect("room");
        let start = range.start();
        let inside = start.checked_add(K4).expect("inside");
        // SAFETY: it is refused.
        let error = unsafe { rig.areas.free(inside) }.expect_err("it is inside");
        assert_eq!(error.problem(), FreeProblem::Inside(range));
        // SAFETY: the area is not used.
        let (freed, line) = (unsafe { rig.areas.free(start) }, line!());
        freed.expect("it is there");
        // SAFETY: it is refused.
        let error = unsafe { rig.areas.free(start) }.expect_err("it is freed");
        let FreeProblem::Freed { by, range: was } = error.problem() else {
            panic!("{error}");
        };
        let by = by.expect("the test is one image");
        assert_eq!((by.file(), by.line(), was), (file!(), line, range));
        // SAFETY: it is refused.
        let error = unsafe { rig.areas.free(inside) }.expect_err("there is nothing");
        assert_eq!(error.problem(), FreeProblem::NoArea);
        rig.areas.purge();
        // SAFETY: it is refused.
        let error = unsafe { rig.areas.free(start) }.expect_err("there is nothing any more");
        assert_eq!(error.problem(), FreeProblem::NoArea);
    });
}

#[test]
fn where_an_area_began_once_is_the_inside_of_the_one_that_is_there_now() {
    with_rig(Setup::new(), |rig| {
        let free = |address| {
            // SAFETY: nobody uses what is freed, or it is refused.
            unsafe { rig.areas.free(address) }
        };
        let request = AreaRequest::new(K4);
        let small = [(); 8].map(|()| rig.areas.allocate(&request).expect("room"));
        for range in small {
            free(range.start()).expect("it is there");
        }
        rig.areas.purge();
        let whole = rig
            .areas
            .allocate(&AreaRequest::new(15 * K4))
            .expect("room");
        let inside = small.iter().filter(|range| whole.contains(range.start()));
        let inside: Vec<_> = inside
            .filter(|range| range.start() != whole.start())
            .collect();
        assert!(inside.len() > 4, "{whole} lies elsewhere");
        for range in inside {
            let error = free(range.start()).expect_err("it is inside");
            assert_eq!(error.problem(), FreeProblem::Inside(whole));
        }
    });
}

#[test]
fn requests_that_no_machine_can_serve_are_refused() {
    with_rig(Setup::new(), |rig| {
        let before = rig.everything();
        let area = rig.setup.area;
        let refusals = [
            (AreaRequest::new(0), AreaError::Empty),
            (
                AreaRequest::new(M2).aligned(3 << 20),
                AreaError::Alignment { align: 3 << 20 },
            ),
            (
                AreaRequest::new(M2).aligned(0),
                AreaError::Alignment { align: 0 },
            ),
            (
                AreaRequest::new(u64::MAX),
                AreaError::TooLarge {
                    bytes: u64::MAX,
                    within: area,
                },
            ),
            (
                AreaRequest::new(area.size() + 1),
                AreaError::TooLarge {
                    bytes: area.size() + 1,
                    within: area,
                },
            ),
            (
                AreaRequest::new(rig.setup.ram + 1),
                AreaError::BeyondMemory {
                    pages: rig.setup.ram / K4 + 1,
                    memory: rig.setup.ram / K4,
                },
            ),
            (
                AreaRequest::new(M2).kind(Kind::Device),
                AreaError::Kind(Kind::Device),
            ),
        ];
        for (request, error) in refusals {
            assert_eq!(rig.areas.allocate(&request), Err(error), "{request:?}");
        }
        // An alignment as large as the area: there is no such place but the area's start, and 2^63 has none.
        let error = rig.areas.allocate(&AreaRequest::new(K4).aligned(1 << 63));
        assert!(matches!(error, Err(AreaError::NoSpace { .. })), "{error:?}");
        assert_eq!(
            AreaError::BeyondMemory {
                pages: 32769,
                memory: 16384
            }
            .to_string(),
            "vmalloc: 32769 pages (128 MiB) are asked for, and the machine has 16384 (64 MiB); ask for less"
        );
        rig.areas.purge();
        assert_eq!(rig.everything(), before);
    });
}

#[test]
fn in_atomic_context_nothing_is_allocated_and_everything_freed() {
    with_rig(
        Setup {
            bound: 1,
            ..Setup::new()
        },
        |rig| {
            let range = rig.areas.allocate(&AreaRequest::new(M2)).expect("room");
            rig.cpu.atomic.set(true);
            let error = rig.areas.allocate(&AreaRequest::new(M2));
            assert_eq!(error, Err(AreaError::AtomicContext));
            let flushes = rig.cpu.flushes.get();
            // SAFETY: the area is not used.
            unsafe { rig.areas.free(range.start()) }.expect("it is there");
            assert_eq!(rig.cpu.flushes.get(), flushes);
            assert_eq!(rig.page(range.start()), None);
            assert_eq!(rig.frames.blocks().len(), 1);
            rig.cpu.atomic.set(false);
            rig.areas.purge();
            assert_eq!(rig.frames.blocks().len(), 0);
        },
    );
}

#[test]
fn given_frames_are_mapped_and_stay_the_givers() {
    with_rig(Setup::new(), |rig| {
        let protection = Protection::kernel(Access::ReadOnly);
        let request = AreaRequest::new(2 * M2 + K4)
            .kind(Kind::Device)
            .protection(protection);
        // A large page, another one that does not follow it, and one page.
        let frame = |page: u64| match page {
            0..512 => Pfn::new(0x10_0000 + page),
            512..1024 => Pfn::new(0x20_0000 + page - 512),
            _ => Pfn::new(0x777),
        };
        // SAFETY: nobody uses the area.
        let range = unsafe { rig.areas.map(&request, frame) }.expect("room");
        let sizes = rig.sizes(range);
        assert_eq!((sizes[&PageSize::Size2M], sizes[&PageSize::Size4K]), (2, 1));
        let expected: Vec<u64> = (0..1025).map(|page| frame(page).as_u64()).collect();
        assert_eq!(rig.frames_of(range), expected);
        let page = rig.page(range.start()).expect("mapped");
        assert!(page.attributes.grants(protection));
        // SAFETY: as above.
        unsafe { rig.areas.free(range.start()) }.expect("it is there");
        let purged = rig.areas.purge();
        // Tables: those are all that is given back.
        assert_eq!((purged.pages, rig.frames.blocks().len()), (1025, 0));
    });
}

#[test]
fn a_gibibyte_in_one_page() {
    with_rig(Setup::new(), |rig| {
        let request = AreaRequest::new(1 << 30).kind(Kind::Device);
        // SAFETY: nobody uses the area.
        let range = unsafe { rig.areas.map(&request, |page| Pfn::new((4 << 18) + page)) };
        let range = range.expect("room");
        assert_eq!(
            rig.sizes(range).into_iter().collect::<Vec<_>>(),
            [(PageSize::Size1G, 1)]
        );
        // SAFETY: as above.
        unsafe { rig.areas.free(range.start()) }.expect("it is there");
        assert_eq!(rig.page(range.start()), None);
        assert_eq!(rig.areas.purge().pages, 1 << 18);
    });
}

#[test]
fn areas_are_found_and_listed_in_order() {
    with_rig(Setup::new(), |rig| {
        let request = AreaRequest::new(M2 + 1);
        let (first, line) = (rig.areas.allocate(&request), line!());
        let first = first.expect("room");
        let small = rig.areas.allocate(&AreaRequest::new(1)).expect("room");
        let second = rig.areas.allocate(&AreaRequest::new(M4)).expect("room");
        let info = rig
            .areas
            .find(guard(first))
            .expect("the guard belongs to it");
        assert_eq!(
            (info.range, info.pages, info.state),
            (first, 513, State::Live)
        );
        let caller = info.caller.expect("one image");
        assert_eq!((caller.file(), caller.line()), (file!(), line));
        assert_eq!(
            rig.areas
                .find(guard(first).checked_add(K4).expect("inside")),
            None
        );
        let mut ranges = vec![first, small, second];
        ranges.sort_by_key(|range| range.start());
        let listed: Vec<_> = rig.areas.areas().map(|info| info.range).collect();
        assert_eq!(listed, ranges);
        let totals = rig.areas.totals();
        assert_eq!((totals.areas, totals.used), (3, M2 + K4 + K4 + M4));
        // SAFETY: the area is not used.
        unsafe { rig.areas.free(second.start()) }.expect("it is there");
        let freed = rig.areas.find(second.start()).expect("it waits");
        assert_eq!((freed.state, freed.range), (State::Freed, second));
    });
}

#[test]
fn an_area_grows_where_it_is_until_something_is_in_the_way() {
    with_rig(Setup::new(), |rig| {
        warm_up(rig);
        let before = rig.everything();
        let request = AreaRequest::new(M2);
        let range = rig.areas.allocate(&request).expect("room");
        let start = range.start();
        let resize = |bytes| {
            // SAFETY: the area is the test's.
            unsafe { rig.areas.resize(start, &AreaRequest::new(bytes)) }
        };
        assert_eq!(resize(M2), Ok(Resized::InPlace(range)));
        let Ok(Resized::InPlace(larger)) = resize(3 * M2 + 5) else {
            panic!("there is room behind it");
        };
        assert_eq!((larger.start(), larger.size()), (start, 3 * M2 + K4));
        rig.sizes(larger);
        assert_eq!(rig.page(guard(larger)), None);
        let behind = rig
            .areas
            .allocate(&AreaRequest::new(M2 / 2).aligned(K4))
            .expect("room");
        // Wherever that is, take the very next addresses too.
        let next = guard(larger).checked_add(K4).expect("inside");
        if !behind.contains(next) {
            let blocker = std::iter::from_fn(|| rig.areas.allocate(&AreaRequest::new(M2 / 2)).ok());
            assert!(
                blocker.take(40).any(|range| range.contains(next)),
                "nothing came behind it"
            );
        }
        assert_eq!(resize(4 * M2), Ok(Resized::Elsewhere));
        let infos: Vec<_> = rig.areas.areas().collect();
        assert_eq!(
            rig.areas.totals().used,
            infos.iter().map(|info| info.range.size()).sum::<u64>()
        );
        for info in infos {
            // SAFETY: the areas are not used.
            unsafe { rig.areas.free(info.range.start()) }.expect("it is there");
        }
        rig.areas.purge();
        assert_eq!(rig.everything(), before);
        // SAFETY: there is no area.
        let gone = unsafe { rig.areas.resize(start, &request) };
        assert_eq!(
            gone.expect_err("it is freed").to_string(),
            format!(
                "vmalloc: resize {start}: no such area begins there; give the address that allocating it returned"
            )
        );
    });
}

#[test]
fn addresses_outside_are_nobodys() {
    with_rig(Setup::new(), |rig| {
        assert_eq!(rig.areas.find(VirtAddr::new(0x1000)), None);
        assert_eq!(rig.areas.next(rig.setup.area.start()), None);
    });
}

#[test]
fn addresses_where_small_pages_were_have_large_ones_again() {
    with_rig(
        Setup {
            bound: 0,
            ..Setup::new()
        },
        |rig| {
            // Kept, so that the purge of the next one finds something live beside it.
            let small = rig.areas.allocate(&AreaRequest::new(K4)).expect("room");
            let request = AreaRequest::new(2 * M2);
            let kept = rig.frames.take_large();
            let pieces = rig.areas.allocate(&request).expect("in pieces");
            assert_eq!(rig.sizes(pieces)[&PageSize::Size4K], 1024);
            let tables = rig.frames.tables();
            // SAFETY: the area is not used. With this bound it is purged at once.
            unsafe { rig.areas.free(pieces.start()) }.expect("it is there");
            assert_eq!(rig.frames.tables(), tables - 2);
            rig.frames.give_all(kept);
            let whole = rig.areas.allocate(&request).expect("room");
            assert_eq!(whole, pieces);
            assert_eq!(rig.sizes(whole)[&PageSize::Size2M], 2);
            assert!(rig.page(small.start()).is_some());
        },
    );
}
