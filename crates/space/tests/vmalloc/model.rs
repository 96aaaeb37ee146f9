//! Random operations beside a model: a map of addresses to sizes.

use std::collections::{BTreeMap, BTreeSet};

use kspace::vmalloc::{AreaRequest, FreeProblem, State};
use kspace_layout::{PagingMode, Pfn, VirtAddr, VirtRange};
use kspace_paging::{EntryFormat, LongMode, Pae, TwoLevel};
use proptest::prelude::*;

use crate::rig::{K4, NEVER, Rig, Setup, pages, with_rig};

#[derive(Clone, Copy, Debug)]
enum Op {
    /// So many pages at a multiple of 2^so many pages.
    Allocate(u64, u32),
    /// The area with this number, of those that live.
    Free(usize),
    /// An address inside a live area, or one that was freed before.
    FreeWrongly(usize, u64),
    Purge,
    /// Counts, and the list.
    Look,
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![6 => 1..4_u64, 3 => 4..40_u64, 1 => 40..=255_u64];
    prop_oneof![
        8 => (size, prop_oneof![8 => Just(0), 2 => 0..9_u32]).prop_map(|(n, align)| Op::Allocate(n, align)),
        6 => any::<usize>().prop_map(Op::Free),
        1 => (any::<usize>(), 0..300_u64).prop_map(|(area, page)| Op::FreeWrongly(area, page)),
        1 => Just(Op::Purge),
        1 => Just(Op::Look),
    ]
}

/// What should be.
#[derive(Default)]
struct Model {
    /// Start to range and frames.
    live: BTreeMap<VirtAddr, (VirtRange, Vec<Pfn>)>,
    /// Freed and not purged.
    lazy: BTreeMap<VirtAddr, VirtRange>,
}

impl Model {
    /// All that must not overlap, with guards.
    fn taken(&self) -> impl Iterator<Item = VirtRange> + '_ {
        let live = self.live.values().map(|(range, _)| *range);
        live.chain(self.lazy.values().copied())
    }
}

fn with_guard(range: VirtRange) -> VirtRange {
    VirtRange::new(range.start(), range.size() + K4)
}

fn check<E: EntryFormat>(setup: Setup, ops: &[Op]) {
    with_rig::<E>(setup, |rig| {
        let before = rig.frames.frames.in_use();
        let mut model = Model::default();
        for op in ops {
            step(rig, &mut model, *op);
        }
        for start in std::mem::take(&mut model.live).into_keys() {
            // SAFETY: nobody uses it.
            unsafe { rig.areas.free(start) }.expect("it lives");
        }
        rig.areas.purge();
        assert_eq!(rig.frames.frames.in_use(), before);
        assert_eq!(rig.areas.areas().count(), 0);
        rig.machine.check().expect("nothing is stale");
    });
}

fn step<E: EntryFormat>(rig: &Rig<'_, '_, E>, model: &mut Model, op: Op) {
    match op {
        Op::Allocate(count, align) => allocate(rig, model, count, align),
        Op::Free(index) => {
            let Some(start) = nth(&model.live, index) else {
                return;
            };
            let (range, frames) = model.live.remove(&start).expect("just found");
            for (page, frame) in pages(range).zip(&frames) {
                assert_eq!(rig.frame_at(page), Some(*frame));
            }
            // SAFETY: nobody uses it.
            unsafe { rig.areas.free(start) }.expect("it lives");
            assert!(pages(range).all(|page| rig.walk(page).is_none()));
            model.lazy.insert(start, range);
        }
        Op::FreeWrongly(index, page) => free_wrongly(rig, model, index, page),
        Op::Purge => {
            let purged = rig.areas.purge();
            assert_eq!(purged.areas, model.lazy.len() as u64);
            model.lazy.clear();
        }
        Op::Look => look(rig, model),
    }
    // A purge that was due has taken what waited.
    if rig.areas.totals().lazy_pages == 0 {
        assert!(model.lazy.is_empty() || rig.setup.bound < NEVER);
        model.lazy.clear();
    }
}

fn allocate<E: EntryFormat>(rig: &Rig<'_, '_, E>, model: &mut Model, count: u64, align: u32) {
    let request = AreaRequest::new(count * K4 - 7).aligned(K4 << align);
    let range = rig.areas.allocate(&request).expect("there is room for all");
    assert_eq!(range.size(), count * K4);
    assert!(range.start().is_aligned(K4 << align));
    assert!(rig.setup.area.contains_range(with_guard(range)));
    for other in model.taken() {
        assert!(
            !with_guard(range).overlaps(with_guard(other)),
            "{range} and {other}"
        );
    }
    let frames: Vec<Pfn> = pages(range)
        .map(|page| rig.frame_at(page).expect("mapped"))
        .collect();
    let mut all: BTreeSet<Pfn> = model
        .live
        .values()
        .flat_map(|(_, frames)| frames)
        .copied()
        .collect();
    assert!(
        frames.iter().all(|frame| all.insert(*frame)),
        "a frame in two areas"
    );
    model.live.insert(range.start(), (range, frames));
}

fn free_wrongly<E: EntryFormat>(rig: &Rig<'_, '_, E>, model: &Model, index: usize, page: u64) {
    let Some(start) = nth(&model.live, index).or_else(|| nth(&model.lazy, index)) else {
        return;
    };
    let Ok(address) = start.checked_add(page * K4 + 1) else {
        return;
    };
    // SAFETY: no area begins in the middle of a page.
    let error = unsafe { rig.areas.free(address) }.expect_err("no start");
    let around = model
        .live
        .values()
        .find(|(range, _)| with_guard(*range).contains(address));
    match (error.problem(), around) {
        (FreeProblem::Inside(range), Some((expected, _))) => assert_eq!(range, *expected),
        (FreeProblem::NoArea, None) => {}
        (FreeProblem::Outside(_), None) => assert!(!rig.setup.area.contains(address)),
        (problem, around) => panic!("{problem:?} for {address} in {around:?}"),
    }
    for start in model.lazy.keys() {
        // SAFETY: it is freed already.
        let error = unsafe { rig.areas.free(*start) }.expect_err("a double free");
        assert!(matches!(error.problem(), FreeProblem::Freed { .. }));
    }
}

fn look<E: EntryFormat>(rig: &Rig<'_, '_, E>, model: &Model) {
    let mut expected: Vec<(VirtRange, State)> = model
        .live
        .values()
        .map(|(range, _)| (*range, State::Live))
        .chain(model.lazy.values().map(|range| (*range, State::Freed)))
        .collect();
    expected.sort_by_key(|(range, _)| range.start());
    let listed: Vec<(VirtRange, State)> = rig
        .areas
        .areas()
        .map(|info| (info.range, info.state))
        .collect();
    assert_eq!(listed, expected);
    let totals = rig.areas.totals();
    assert_eq!(totals.areas, model.live.len() as u64);
    let used = model.live.values().map(|(range, _)| range.size());
    assert_eq!(totals.used, used.sum::<u64>());
    let lazy = model.lazy.values().map(|range| range.size() / K4);
    assert_eq!(totals.lazy_pages, lazy.sum::<u64>());
}

fn nth<T>(map: &BTreeMap<VirtAddr, T>, index: usize) -> Option<VirtAddr> {
    map.keys().nth(index % map.len().max(1)).copied()
}

/// The middle of a chunk is where the area begins.
fn high(mode: PagingMode) -> Setup {
    Setup {
        mode,
        area: VirtRange::new(VirtAddr::new(0xf100_3000), 128 << 20),
        bound: 100,
        ..Setup::new()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn as_the_model_says(ops in prop::collection::vec(op(), 1..120)) {
        check::<LongMode>(Setup::new(), &ops);
    }

    #[test]
    fn as_the_model_says_with_purges_in_between(ops in prop::collection::vec(op(), 1..120)) {
        check::<LongMode>(Setup { bound: 60, ..Setup::new() }, &ops);
    }

    #[test]
    fn as_the_model_says_under_pae(ops in prop::collection::vec(op(), 1..120)) {
        check::<Pae>(high(PagingMode::Pae), &ops);
    }

    #[test]
    fn as_the_model_says_with_two_levels(ops in prop::collection::vec(op(), 1..120)) {
        check::<TwoLevel>(high(PagingMode::TwoLevel), &ops);
    }
}
