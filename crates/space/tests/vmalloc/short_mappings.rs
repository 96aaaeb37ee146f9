//! Short mappings: what one CPU sees of them, and what is left when something runs out.

use kspace::vmalloc::{AreaError, AreaRequest, FreeError, FreeProblem, Kind, State};
use kspace_layout::{PagingMode, Pfn, VirtAddr, VirtRange};
use kspace_paging::{EntryFormat, LongMode, Pae, TwoLevel};

use crate::rig::{AREA, K4, M2, Rig, Setup, pages, with_rig};

/// The most pages that are mapped in a block.
const LIMIT: u64 = 64;

/// Somebody's frames, one behind the other from here on.
const GIVEN: u64 = 0x30_000;

fn given(page: u64) -> Pfn {
    Pfn::new(GIVEN + page)
}

fn map<E: EntryFormat>(rig: &Rig<'_, '_, E>, count: u64) -> VirtRange {
    // SAFETY: nobody else uses these frames.
    let mapped = unsafe { rig.areas.map_ram(count, given) };
    mapped.unwrap_or_else(|error| panic!("{count} pages: {error}"))
}

fn unmap<E: EntryFormat>(
    rig: &Rig<'_, '_, E>,
    start: VirtAddr,
    count: u64,
) -> Result<(), FreeError> {
    // SAFETY: the test uses no mapping after it has unmapped it.
    unsafe { rig.areas.unmap_ram(start, count) }
}

fn unmap_all<E: EntryFormat>(rig: &Rig<'_, '_, E>, ranges: impl IntoIterator<Item = VirtRange>) {
    for range in ranges {
        unmap(rig, range.start(), range.size() / K4).unwrap_or_else(|error| panic!("{error}"));
    }
}

fn problem(result: Result<(), FreeError>) -> FreeProblem {
    result.expect_err("it must be refused").problem()
}

fn guard(range: VirtRange) -> VirtAddr {
    range.last().checked_add(1).expect("there is one")
}

/// Everything that a purge must restore.
fn books<E: EntryFormat>(rig: &Rig<'_, '_, E>) -> (Vec<Pfn>, u64, u64, u64, u64, u64) {
    rig.areas.purge();
    let totals = rig.areas.totals();
    (
        rig.frames.frames.used(),
        totals.largest,
        totals.chunks,
        totals.areas,
        totals.used,
        totals.lazy_pages,
    )
}

fn shown<E: EntryFormat>(rig: &Rig<'_, '_, E>) {
    // The books on large areas keep their first frame.
    unmap_all(rig, [map(rig, 300)]);
    let before = books(rig);
    for count in [1, 2, 3, 17, LIMIT, LIMIT + 1, 255, 256, 600] {
        let range = map(rig, count);
        assert_eq!(range.size(), count * K4);
        for (page, at) in (0..).zip(pages(range)) {
            assert_eq!(rig.frame_at(at), Some(given(page)));
        }
        assert_eq!(rig.frame_at(guard(range)), None);
        unmap_all(rig, [range]);
        assert!(pages(range).all(|page| rig.walk(page).is_none()));
    }
    assert_eq!(books(rig), before);
}

#[test]
fn a_mapping_shows_the_given_frames_and_ends_at_a_guard() {
    with_rig::<LongMode>(Setup::new(), shown);
    for (mode, area) in [
        (
            PagingMode::Pae,
            VirtRange::new(VirtAddr::new(0xf100_3000), 64 << 20),
        ),
        (
            PagingMode::TwoLevel,
            VirtRange::new(VirtAddr::new(0xf100_3000), 64 << 20),
        ),
    ] {
        let setup = Setup {
            mode,
            area,
            ..Setup::new()
        };
        match mode {
            PagingMode::Pae => with_rig::<Pae>(setup, shown),
            _ => with_rig::<TwoLevel>(setup, shown),
        }
    }
}

#[test]
fn a_purge_makes_every_cpu_forget_what_was_unmapped_beside_what_is_still_mapped() {
    with_rig::<LongMode>(Setup::new(), |rig| {
        let ranges: Vec<VirtRange> = (0..9).map(|_| map(rig, 2)).collect();
        let (kept, gone) = (
            ranges[4],
            [0, 1, 2, 3, 5, 6, 7, 8].map(|index| ranges[index]),
        );
        for range in &ranges {
            rig.machine.speculate_at(range.start());
        }
        unmap_all(rig, gone);
        let used = |range: VirtRange| rig.frame_at(range.start());
        assert_eq!(used(gone[0]), Some(given(0)), "the machine is hostile");
        let totals = rig.areas.totals();
        assert_eq!(
            (totals.areas, totals.used, totals.lazy_pages),
            (1, 2 * K4, 16)
        );
        let purged = rig.areas.purge();
        assert_eq!((purged.areas, purged.pages, purged.frames), (8, 16, 0));
        assert!(gone.iter().all(|range| used(*range).is_none()));
        assert_eq!(used(kept), Some(given(0)));
        assert_eq!(rig.areas.totals().lazy_pages, 0);
        // The block is closed, and comes back when the last mapping goes.
        assert_eq!(rig.areas.totals().chunks, 1);
        unmap_all(rig, [kept]);
        assert_eq!(rig.areas.purge().areas, 1);
        assert_eq!(rig.areas.totals().chunks, 0);
    });
}

#[test]
fn addresses_come_back_block_by_block_after_a_flush() {
    let setup = Setup {
        bound: 300,
        ..Setup::new()
    };
    with_rig::<LongMode>(setup, |rig| {
        let mut seen = std::collections::HashSet::new();
        for round in 0..5_000 {
            let range = map(rig, 1 + round % 3);
            // A stale translation would be another frame's: the guard's page, or the page of another mapping.
            for (page, at) in (0..).zip(pages(range)) {
                assert_eq!(rig.frame_at(at), Some(given(page)), "round {round}");
            }
            assert_eq!(rig.frame_at(guard(range)), None, "round {round}");
            seen.insert(range.start());
            unmap_all(rig, [range]);
        }
        let totals = rig.areas.totals();
        assert!(totals.purges >= 30, "{} purges", totals.purges);
        assert!(totals.chunks <= 4, "{} chunks", totals.chunks);
        assert!(seen.len() < 1_000, "addresses are used again");
    });
}

#[test]
fn bad_unmaps_are_refused_with_what_is_wrong() {
    with_rig::<LongMode>(Setup::new(), |rig| {
        let range = map(rig, 3);
        let neighbour = map(rig, 1);
        let at = |offset| range.start().checked_add(offset).expect("canonical");
        for inside in [at(1), at(K4), at(2 * K4 + 7), at(3 * K4)] {
            assert_eq!(problem(unmap(rig, inside, 3)), FreeProblem::Inside(range));
        }
        for wrong in [0, 1, 2, 4, 255, 256, 3 + 256, u64::MAX] {
            let expected = FreeProblem::Pages {
                range,
                pages: wrong,
            };
            assert_eq!(problem(unmap(rig, range.start(), wrong)), expected);
        }
        let text = unmap(rig, range.start(), 2).expect_err("wrong").to_string();
        let end = format!(
            ": 2 pages of a short mapping, {range}, that has 3; unmap it whole; nothing was changed"
        );
        assert!(text.ends_with(&end), "{text}");
        let other = rig.areas.allocate(&AreaRequest::new(K4)).expect("room");
        let expected = FreeProblem::Kind {
            range: other,
            kind: Kind::Memory,
        };
        assert_eq!(problem(unmap(rig, other.start(), 1)), expected);
        assert_eq!(
            problem(unmap(rig, guard(AREA), 1)),
            FreeProblem::Outside(AREA)
        );
        assert_eq!(
            problem(unmap(rig, VirtAddr::new(AREA.last().as_u64() - K4 + 1), 1)),
            FreeProblem::NoArea
        );
        assert_eq!(rig.frame_at(at(K4)), Some(given(1)), "nothing was changed");
        let line = line!() + 1;
        unmap(rig, range.start(), 3).expect("it is mapped");
        for again in [unmap(rig, range.start(), 3), unmap(rig, range.start(), 1)] {
            let FreeProblem::Freed { by, range: was } = problem(again) else {
                panic!("{again:?}");
            };
            let by = by.expect("this image");
            assert_eq!((was, by.file()), (range, file!()));
            assert_ne!(by.line(), line, "the helper's line stands there");
        }
        assert_eq!(rig.frame_at(neighbour.start()), Some(given(0)));
        rig.areas.purge();
        assert!(matches!(
            problem(unmap(rig, range.start(), 3)),
            FreeProblem::Freed { .. } | FreeProblem::NoArea
        ));
    });
}

#[test]
fn a_page_in_a_mapping_is_inside_whatever_began_there_before() {
    let setup = Setup {
        bound: 300,
        ..Setup::new()
    };
    with_rig::<LongMode>(setup, |rig| {
        for _ in 0..600 {
            unmap_all(rig, [map(rig, 1)]);
        }
        let range = map(rig, LIMIT);
        for page in pages(range).skip(1) {
            assert_eq!(problem(unmap(rig, page, 1)), FreeProblem::Inside(range));
            // SAFETY: no area begins there.
            let freed = unsafe { rig.areas.free(page) };
            assert_eq!(problem(freed), FreeProblem::Inside(range));
        }
    });
}

#[test]
fn a_mapping_that_is_freed_as_an_area_is_unmapped() {
    with_rig::<LongMode>(Setup::new(), |rig| {
        unmap_all(rig, [map(rig, 300)]);
        let before = books(rig);
        for count in [1, 5, LIMIT, LIMIT + 1, 400] {
            let range = map(rig, count);
            // SAFETY: not used any more.
            let free = || unsafe { rig.areas.free(range.start()) };
            free().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(rig.walk(range.start()), None);
            assert!(matches!(problem(free()), FreeProblem::Freed { .. }));
            assert!(matches!(
                problem(unmap(rig, range.start(), count)),
                FreeProblem::Freed { .. }
            ));
        }
        assert_eq!(books(rig), before);
    });
}

#[test]
fn they_are_listed_and_found_in_the_order_of_addresses() {
    with_rig::<LongMode>(Setup::new(), |rig| {
        let mut made = Vec::new();
        for round in 0..40 {
            made.push((map(rig, 1 + round % 70), Kind::ShortLived));
            let area = rig.areas.allocate(&AreaRequest::new(K4)).expect("room");
            made.push((area, Kind::Memory));
        }
        made.sort_by_key(|(range, _)| range.start());
        let listed = |rig: &Rig<'_, '_>| -> Vec<_> {
            rig.areas
                .areas()
                .map(|info| (info.range, info.kind))
                .collect()
        };
        assert_eq!(listed(rig), made);
        for (range, kind) in &made {
            for at in [range.start(), range.last(), guard(*range)] {
                let info = rig.areas.find(at).expect("there is one");
                assert_eq!(
                    (info.range, info.kind, info.state),
                    (*range, *kind, State::Live)
                );
                assert_eq!(info.caller.map(|caller| caller.file()), Some(file!()));
            }
        }
        let short = made.iter().filter(|(_, kind)| *kind == Kind::ShortLived);
        unmap_all(rig, short.clone().map(|(range, _)| *range));
        for (range, _) in short {
            let info = rig
                .areas
                .find(range.start())
                .expect("it waits for the purge");
            assert_eq!((info.range, info.state), (*range, State::Freed));
        }
        rig.areas.purge();
        assert!(listed(rig).iter().all(|(_, kind)| *kind == Kind::Memory));
        assert_eq!(listed(rig).len(), 40);
    });
}

#[test]
fn in_atomic_context_they_are_mapped_and_unmapped_and_the_purge_comes_later() {
    let setup = Setup {
        bound: 0,
        ..Setup::new()
    };
    with_rig::<LongMode>(setup, |rig| {
        rig.schedule.acquire_lock();
        let ranges: Vec<VirtRange> = (0..400).map(|_| map(rig, 1)).collect();
        for range in &ranges {
            assert_eq!(rig.frame_at(range.start()), Some(given(0)));
        }
        unmap_all(rig, ranges[1..].iter().copied());
        // SAFETY: nobody else uses these frames.
        let large = unsafe { rig.areas.map_ram(LIMIT + 1, given) };
        assert_eq!(large, Err(AreaError::AtomicContext));
        assert_eq!(rig.areas.totals().lazy_pages, 399);
        rig.schedule.release_lock();
        unmap_all(rig, [ranges[0]]);
        assert_eq!(
            rig.areas.totals().lazy_pages,
            0,
            "a bound of 0 flushes at once"
        );
        assert_eq!(rig.frame_at(ranges[7].start()), None);
        assert_eq!(rig.schedule.complaints(), Vec::<String>::new());
    });
}

#[test]
fn no_pages_are_refused() {
    with_rig::<LongMode>(Setup::new(), |rig| {
        let before = books(rig);
        // SAFETY: no frame is mapped.
        let refused = |count| unsafe { rig.areas.map_ram(count, given) };
        assert_eq!(refused(0), Err(AreaError::Empty));
        assert!(matches!(refused(u64::MAX), Err(AreaError::TooLarge { .. })));
        assert_eq!(books(rig), before);
    });
}

#[test]
fn the_failure_of_every_single_frame_in_turn_leaves_nothing_behind() {
    for count in [1, LIMIT, LIMIT + 1] {
        with_rig::<LongMode>(Setup::new(), |rig| {
            let before = books(rig);
            for budget in 0.. {
                rig.frames.frames.set_budget(Some(budget));
                // SAFETY: nobody else uses these frames.
                let made = unsafe { rig.areas.map_ram(count, given) };
                rig.frames.frames.set_budget(None);
                let done = made.is_ok();
                match made {
                    Ok(range) => unmap_all(rig, [range]),
                    Err(error) => assert_eq!(error, AreaError::NoTables),
                }
                assert_eq!(books(rig), before, "budget {budget} for {count} pages");
                if done {
                    assert!(budget >= 3, "books, nodes and tables");
                    break;
                }
            }
        });
    }
}

#[test]
fn all_addresses_can_be_used_and_used_again() {
    let area = VirtRange::new(AREA.start(), 4 * M2);
    let setup = Setup {
        area,
        ..Setup::new()
    };
    with_rig::<LongMode>(setup, |rig| {
        // The table above the chunks' serves other areas, too, so it stays once it is there.
        unmap_all(rig, [map(rig, 1)]);
        let before = books(rig);
        for count in [1, 2, 30, LIMIT] {
            for _ in 0..2 {
                // One chunk is no block, and what is left of blocks is used by nobody.
                let area = rig.areas.allocate(&AreaRequest::new(K4)).expect("room");
                let mut made = Vec::new();
                let error = loop {
                    // SAFETY: nobody else uses these frames.
                    match unsafe { rig.areas.map_ram(count, given) } {
                        Ok(range) => made.push(range),
                        Err(error) => break error,
                    }
                };
                assert!(
                    matches!(error, AreaError::NoSpace { largest: 0, .. }),
                    "{error}"
                );
                let in_blocks = 3 * (512 / (count + 1));
                let elsewhere = 510 / (count + 1);
                assert_eq!(made.len() as u64, in_blocks + elsewhere, "{count} pages");
                unmap_all(rig, made.drain(..));
                // A purge is due before anything is refused.
                unmap_all(rig, [map(rig, count)]);
                // SAFETY: not used.
                unsafe { rig.areas.free(area.start()) }.expect("it lives");
                assert_eq!(books(rig), before);
            }
        }
    });
}
