//! Short mappings among other areas, under random operations: beside a model, and on several CPUs with hostile TLBs.

use std::cell::RefCell;
use std::collections::BTreeMap;

use kspace::shootdown::Rule;
use kspace::vmalloc::{AreaError, AreaRequest, FreeProblem, State};
use kspace_layout::{PagingMode, Pfn, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{EntryFormat, FrameSource, LongMode, TwoLevel};
use kspace_sim::explore::{Decide, Explored, Failure, Random, random};
use kspace_sim::{Outcome, Program};
use proptest::prelude::*;

use crate::rig::{K4, NEVER, Rig, Setup, pages, with_rig};

#[derive(Clone, Copy, Debug)]
enum Op {
    Map(u64),
    /// The mapping with this number, of those that there are.
    Unmap(usize),
    /// The same, with so many pages too many, or at so many pages behind its start.
    UnmapWrongly(usize, u64, u64),
    /// Another area, and another area's end.
    Allocate(u64),
    Free(usize),
    Purge,
    Look,
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![8 => 1..4_u64, 3 => 4..=64_u64, 1 => 65..300_u64];
    prop_oneof![
        12 => size.prop_map(Op::Map),
        10 => any::<usize>().prop_map(Op::Unmap),
        1 => (any::<usize>(), 0..3_u64, 0..3_u64).prop_map(|(which, more, page)| Op::UnmapWrongly(which, more, page)),
        2 => (1..40_u64).prop_map(Op::Allocate),
        2 => any::<usize>().prop_map(Op::Free),
        1 => Just(Op::Purge),
        1 => Just(Op::Look),
    ]
}

/// What should be.
#[derive(Default)]
struct Model {
    /// Start to range and first frame.
    mapped: BTreeMap<VirtAddr, (VirtRange, u64)>,
    areas: BTreeMap<VirtAddr, VirtRange>,
    /// Unmapped or freed since the last purge that is known of.
    waiting: Vec<VirtRange>,
    mappings: u64,
}

impl Model {
    /// All that must not overlap.
    fn taken(&self) -> impl Iterator<Item = VirtRange> + '_ {
        let mapped = self.mapped.values().map(|(range, _)| *range);
        let areas = self.areas.values().chain(&self.waiting);
        mapped.chain(areas.copied())
    }
}

fn with_guard(range: VirtRange) -> VirtRange {
    VirtRange::new(range.start(), range.size() + K4)
}

/// Frames that no test memory has: each mapping's are others.
fn first_frame(mapping: u64) -> u64 {
    0x40_000 + mapping % 512 * 512
}

fn check<E: EntryFormat>(setup: Setup, ops: &[Op]) {
    with_rig::<E>(setup, |rig| {
        // The books on large areas keep their first frame.
        let large = rig
            .areas
            .allocate(&AreaRequest::new(300 * K4))
            .expect("room");
        // SAFETY: made just now.
        unsafe { rig.areas.free(large.start()) }.expect("it lives");
        rig.areas.purge();
        let before = rig.frames.frames.in_use();
        let mut model = Model::default();
        for op in ops {
            step(rig, &mut model, *op);
        }
        for (range, _) in std::mem::take(&mut model.mapped).into_values() {
            // SAFETY: nobody uses it.
            unsafe { rig.areas.unmap_ram(range.start(), range.size() / K4) }.expect("it is mapped");
        }
        for start in std::mem::take(&mut model.areas).into_keys() {
            // SAFETY: nobody uses it.
            unsafe { rig.areas.free(start) }.expect("it lives");
        }
        rig.areas.purge();
        assert_eq!(rig.frames.frames.in_use(), before);
        assert_eq!(rig.areas.areas().count(), 0);
        let totals = rig.areas.totals();
        assert_eq!(
            (totals.areas, totals.used, totals.lazy_pages, totals.chunks),
            (0, 0, 0, 0)
        );
        rig.machine.check().expect("nothing is stale");
    });
}

fn step<E: EntryFormat>(rig: &Rig<'_, '_, E>, model: &mut Model, op: Op) {
    match op {
        Op::Map(count) => map(rig, model, count),
        Op::Unmap(which) => {
            let Some((range, first)) = nth(&model.mapped, which) else {
                return;
            };
            shows(rig, range, first);
            // SAFETY: nobody uses it.
            unsafe { rig.areas.unmap_ram(range.start(), range.size() / K4) }.expect("it is mapped");
            assert!(pages(range).all(|page| rig.walk(page).is_none()));
            model.mapped.remove(&range.start());
            model.waiting.push(range);
        }
        Op::UnmapWrongly(which, more, page) => unmap_wrongly(rig, model, which, more, page),
        Op::Allocate(count) => {
            let range = rig
                .areas
                .allocate(&AreaRequest::new(count * K4))
                .expect("room");
            free_of_others(model, range);
            model.areas.insert(range.start(), range);
        }
        Op::Free(which) => {
            let Some(range) = nth(&model.areas, which) else {
                return;
            };
            // SAFETY: nobody uses it.
            unsafe { rig.areas.free(range.start()) }.expect("it lives");
            model.areas.remove(&range.start());
            model.waiting.push(range);
        }
        Op::Purge => {
            let purged = rig.areas.purge();
            assert_eq!(purged.areas, model.waiting.len() as u64);
            // Whatever CPUs kept of it is gone.
            for range in model.waiting.drain(..) {
                assert!(
                    pages(range).all(|page| rig.frame_at(page).is_none()),
                    "{range}"
                );
            }
        }
        Op::Look => look(rig, model),
    }
    // A purge that was due has taken what waited.
    if rig.areas.totals().lazy_pages == 0 {
        assert!(model.waiting.is_empty() || rig.setup.bound < NEVER);
        model.waiting.clear();
    }
}

fn free_of_others(model: &Model, range: VirtRange) {
    for other in model.taken() {
        let apart = !with_guard(range).overlaps(with_guard(other));
        assert!(apart, "{range} and {other}");
    }
}

fn map<E: EntryFormat>(rig: &Rig<'_, '_, E>, model: &mut Model, count: u64) {
    let first = first_frame(model.mappings);
    model.mappings += 1;
    // SAFETY: nobody uses these frames.
    let range = unsafe { rig.areas.map_ram(count, |page| Pfn::new(first + page)) };
    let range = range.expect("there is room for all");
    assert_eq!(range.size(), count * K4);
    assert!(rig.setup.area.contains_range(with_guard(range)));
    free_of_others(model, range);
    shows(rig, range, first);
    model.mapped.insert(range.start(), (range, first));
}

/// Every translation that the CPU may use leads to the mapping's frames, and none beyond.
fn shows<E: EntryFormat>(rig: &Rig<'_, '_, E>, range: VirtRange, first: u64) {
    for (page, frame) in pages(range).zip(first..) {
        assert_eq!(rig.frame_at(page), Some(Pfn::new(frame)));
    }
    let guard = range.last().checked_add(1).expect("there is one");
    assert_eq!(rig.frame_at(guard), None);
}

fn unmap_wrongly<E: EntryFormat>(
    rig: &Rig<'_, '_, E>,
    model: &Model,
    which: usize,
    more: u64,
    page: u64,
) {
    if let Some((range, first)) = nth(&model.mapped, which) {
        let count = range.size() / K4;
        let page = page.min(count);
        if (more, page) != (0, 0) {
            let start = range.start().checked_add(page * K4).expect("canonical");
            // SAFETY: no mapping of so many pages begins there.
            let error = unsafe { rig.areas.unmap_ram(start, count + more) };
            let expected = if page == 0 {
                FreeProblem::Pages {
                    range,
                    pages: count + more,
                }
            } else {
                FreeProblem::Inside(range)
            };
            assert_eq!(error.expect_err("wrong").problem(), expected);
        }
        shows(rig, range, first);
    }
    if let Some(range) = nth(&model.areas, which) {
        // SAFETY: it is no mapping.
        let error = unsafe { rig.areas.unmap_ram(range.start(), range.size() / K4) };
        let problem = error.expect_err("no mapping").problem();
        assert!(matches!(problem, FreeProblem::Kind { .. }), "{problem:?}");
    }
}

fn look<E: EntryFormat>(rig: &Rig<'_, '_, E>, model: &Model) {
    let mapped = model.mapped.values().map(|(range, _)| *range);
    let mut expected: Vec<VirtRange> = mapped.chain(model.areas.values().copied()).collect();
    expected.sort_by_key(|range| range.start());
    let all: Vec<_> = rig.areas.areas().collect();
    assert!(all.is_sorted_by_key(|info| info.range.start()));
    let live = all.iter().filter(|info| info.state == State::Live);
    assert_eq!(live.map(|info| info.range).collect::<Vec<_>>(), expected);
    let totals = rig.areas.totals();
    assert_eq!(totals.areas, expected.len() as u64);
    assert_eq!(
        totals.used,
        expected.iter().map(|range| range.size()).sum::<u64>()
    );
    let waiting = model.waiting.iter().map(|range| range.size() / K4);
    assert_eq!(totals.lazy_pages, waiting.sum::<u64>());
}

fn nth<T: Copy>(map: &BTreeMap<VirtAddr, T>, which: usize) -> Option<T> {
    map.values().nth(which % map.len().max(1)).copied()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn as_the_model_says(ops in prop::collection::vec(op(), 1..250)) {
        check::<LongMode>(Setup::new(), &ops);
    }

    #[test]
    fn as_the_model_says_with_purges_in_between(ops in prop::collection::vec(op(), 1..250)) {
        check::<LongMode>(Setup { bound: 60, ..Setup::new() }, &ops);
    }

    #[test]
    fn as_the_model_says_with_two_levels(ops in prop::collection::vec(op(), 1..250)) {
        let area = VirtRange::new(VirtAddr::new(0xf100_3000), 128 << 20);
        check::<TwoLevel>(Setup { mode: PagingMode::TwoLevel, area, bound: 100, ..Setup::new() }, &ops);
    }
}

/// What CPUs do, each so many times.
#[derive(Clone, Copy)]
struct Load {
    cpus: usize,
    rounds: usize,
    largest: usize,
    bound: u64,
    omitted: Option<Rule>,
}

/// Mappings that go from CPU to CPU; their frames are used for something else as soon as that is allowed.
struct World<'w, 'a, 'r> {
    rig: &'w Rig<'a, 'r, LongMode>,
    load: Load,
    mapped: RefCell<Vec<(VirtRange, Vec<Pfn>)>>,
    /// Frames of what is unmapped.
    unmapped: RefCell<Vec<Pfn>>,
}

impl World<'_, '_, '_> {
    fn work(&self, mut random: Random) {
        for _ in 0..self.load.rounds {
            match random.below(12) {
                0..5 => self.map(1 + random.below(self.load.largest)),
                5..9 => self.unmap(&mut random),
                9 => self.other_area(),
                _ => self.purge(),
            }
        }
    }

    fn map(&self, count: usize) {
        let frames = &self.rig.frames.frames;
        let taken: Vec<Pfn> = (0..count)
            .map(|_| frames.allocate().expect("enough for this").pfn())
            .collect();
        // SAFETY: the frames were taken just now, and are released after a purge.
        let range = match unsafe {
            self.rig
                .areas
                .map_ram(count as u64, |page| taken[page as usize])
        } {
            Ok(range) => range,
            Err(AreaError::NoTables) => {
                return taken.iter().for_each(|frame| frames.release(frame.start()));
            }
            Err(error) => panic!("{error}"),
        };
        self.check(range, &taken);
        self.mapped.borrow_mut().push((range, taken));
    }

    /// Unmaps one of them, whoever mapped it.
    fn unmap(&self, random: &mut Random) {
        let found = {
            let mut mapped = self.mapped.borrow_mut();
            let which = random.below(mapped.len().max(1));
            (which < mapped.len()).then(|| mapped.swap_remove(which))
        };
        let Some((range, frames)) = found else { return };
        self.check(range, &frames);
        // SAFETY: nobody else has the mapping any more.
        unsafe { self.rig.areas.unmap_ram(range.start(), frames.len() as u64) }
            .unwrap_or_else(|error| panic!("{error}"));
        self.unmapped.borrow_mut().extend(frames);
    }

    /// Takes chunks that might have been a block.
    fn other_area(&self) {
        let area = self.rig.areas.allocate(&AreaRequest::new(200 * K4));
        if let Ok(area) = area {
            // SAFETY: made just now.
            unsafe { self.rig.areas.free(area.start()) }.expect("it lives");
        }
    }

    /// After it, what had been unmapped before is anybody's.
    fn purge(&self) {
        let before = std::mem::take(&mut *self.unmapped.borrow_mut());
        self.rig.areas.purge();
        for frame in before {
            self.rig.frames.frames.release(frame.start());
        }
        self.nothing_is_stale();
    }

    fn check(&self, range: VirtRange, frames: &[Pfn]) {
        for (page, frame) in pages(range).zip(frames) {
            self.rig.machine.speculate_at(page);
            assert_eq!(self.rig.frame_at(page), Some(*frame), "{page}");
        }
        let guard = range.last().checked_add(1).expect("there is one");
        assert_eq!(self.rig.walk(guard), None, "the guard of {range}");
        self.nothing_is_stale();
    }

    fn nothing_is_stale(&self) {
        let checked = self.rig.machine.check();
        checked.unwrap_or_else(|violation| panic!("{violation}"));
    }

    /// When all is unmapped and purged, nothing is left but what was there before.
    fn end(&self, before: usize) -> Outcome {
        let last = || -> Program<'_> {
            Box::new(|| {
                while !self.mapped.borrow().is_empty() {
                    self.unmap(&mut Random::new(0));
                }
                self.purge();
                // A chunk that was marked between two steps of a purge goes with the next one.
                self.purge();
            })
        };
        let mut programs: Vec<Program<'_>> = vec![last()];
        programs.extend((1..self.load.cpus).map(|_| -> Program<'_> { Box::new(|| {}) }));
        let serve = || self.rig.areas.shootdown().serve();
        let ended = self.rig.schedule.run(programs, &serve, &mut InTurn, &|| 0);
        if ended == Outcome::Done {
            let totals = self.rig.areas.totals();
            assert_eq!(
                (totals.areas, totals.used, totals.lazy_pages, totals.chunks),
                (0, 0, 0, 0)
            );
            assert_eq!(self.rig.frames.frames.in_use(), before, "frames are lost");
        }
        ended
    }
}

/// The first that can go on.
struct InTurn;

impl Decide for InTurn {
    fn decide(&mut self, _: usize, _: &dyn Fn() -> u64) -> Option<usize> {
        Some(0)
    }
}

fn run(load: Load, mut numbers: Random, decide: &mut dyn Decide) -> Outcome {
    let mut outcome = Outcome::Cut;
    let setup = Setup {
        cpus: load.cpus,
        bound: load.bound,
        omitted: load.omitted,
        pauses: true,
        ..Setup::new()
    };
    with_rig(setup, |rig| {
        let root: PhysAddr = rig.areas.tables().root();
        for cpu in 1..load.cpus {
            rig.machine.load_root(cpu, root, 0, false);
        }
        let before = rig.frames.frames.in_use();
        let world = World {
            rig,
            load,
            mapped: RefCell::default(),
            unmapped: RefCell::default(),
        };
        let join = |_| -> Program<'_> { Box::new(|| rig.areas.shootdown().join()) };
        let joins = (0..load.cpus).map(join).collect();
        let joined = rig.schedule.run(joins, &|| {}, &mut InTurn, &|| 0);
        assert_eq!(joined, Outcome::Done);
        let work = |_| {
            let (numbers, world) = (Random::new(numbers.next()), &world);
            Box::new(move || world.work(numbers)) as Program<'_>
        };
        let programs = (0..load.cpus).map(work).collect();
        let serve = || rig.areas.shootdown().serve();
        outcome = rig.schedule.run(programs, &serve, decide, &|| 0);
        if outcome == Outcome::Done {
            outcome = world.end(before);
        }
    });
    outcome
}

fn runs(load: Load, seeds: u64) -> Result<Explored, Failure> {
    random(0..seeds, |numbers, decide| run(load, numbers, decide))
}

const LOAD: Load = Load {
    cpus: 3,
    rounds: 12,
    largest: 3,
    bound: NEVER,
    omitted: None,
};

#[test]
fn no_frame_is_reached_after_the_purge_that_followed_its_unmap() {
    runs(LOAD, 60).unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn the_same_when_purges_are_due_all_the_time() {
    for bound in [0, 3] {
        runs(Load { bound, ..LOAD }, 30).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

#[test]
fn the_same_with_mappings_that_fill_blocks() {
    let load = Load {
        largest: 70,
        rounds: 14,
        bound: 150,
        ..LOAD
    };
    runs(load, 20).unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn a_purge_without_its_flush_is_noticed() {
    let noticed = |rule, cpus| {
        let load = Load {
            omitted: Some(rule),
            cpus,
            ..LOAD
        };
        runs(load, 60).is_err()
    };
    for rule in [Rule::Wait, Rule::Global] {
        assert!(noticed(rule, 3), "nobody noticed that {rule:?} is left out");
    }
    // Who waits for others flushes meanwhile; so one CPU alone shows this.
    assert!(
        noticed(Rule::Here, 1),
        "nobody noticed that a CPU alone does not flush"
    );
}
