//! Several CPUs with hostile TLBs, under random schedules that stop them at every access to tables, books and frames.
//!
//! Areas are passed from CPU to CPU, and freed twice now and then; so what is checked is that every page leads to its own frame as long as its
//! area lives, and to nothing that somebody else has, ever.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use kspace::shootdown::Rule;
use kspace::vmalloc::{AreaError, AreaRequest, FreeProblem};
use kspace_layout::{Pfn, VirtAddr, VirtRange};
use kspace_paging::LongMode;
use kspace_sim::explore::{Decide, Explored, Failure, Random, random};
use kspace_sim::{Outcome, Program};

use crate::rig::{CPUS, K4, Rig, Setup, pages, with_rig};

/// What a world's CPUs do, each so many times.
#[derive(Clone, Copy)]
struct Load {
    cpus: usize,
    rounds: usize,
    /// Areas have up to so many pages.
    largest: usize,
    /// Freed pages until a purge is due.
    bound: u64,
    omitted: Option<Rule>,
}

struct World<'w, 'a, 'r> {
    rig: &'w Rig<'a, 'r, LongMode>,
    load: Load,
    /// Areas that anybody may take over, with their frames.
    areas: RefCell<Vec<(VirtRange, Vec<Pfn>)>>,
    /// Frames of live areas.
    owned: RefCell<HashSet<Pfn>>,
}

fn run(load: Load, numbers: Random, decide: &mut dyn Decide) -> Outcome {
    let mut outcome = Outcome::Cut;
    let setup = Setup {
        cpus: load.cpus,
        bound: load.bound,
        omitted: load.omitted,
        pauses: true,
        ..Setup::new()
    };
    with_rig(setup, |rig| {
        for cpu in 1..load.cpus {
            rig.machine
                .load_root(cpu, rig.areas.tables().root(), 0, false);
        }
        let before = rig.frames.frames.in_use();
        let world = World {
            rig,
            load,
            areas: RefCell::default(),
            owned: RefCell::default(),
        };
        let join = |_| -> Program<'_> { Box::new(|| rig.areas.shootdown().join()) };
        let joined = rig.schedule.run(
            (0..load.cpus).map(join).collect(),
            &|| {},
            &mut InTurn,
            &|| 0,
        );
        assert_eq!(joined, Outcome::Done);
        let mut numbers = numbers;
        let programs = (0..load.cpus)
            .map(|_| {
                let numbers = Random::new(numbers.next());
                let world = &world;
                Box::new(move || world.work(numbers)) as Program<'_>
            })
            .collect();
        let serve = || rig.areas.shootdown().serve();
        outcome = rig.schedule.run(programs, &serve, decide, &|| 0);
        if outcome == Outcome::Done {
            outcome = world.end(before);
        }
    });
    outcome
}

/// The first that can go on.
struct InTurn;

impl Decide for InTurn {
    fn decide(&mut self, _: usize, _: &dyn Fn() -> u64) -> Option<usize> {
        Some(0)
    }
}

impl World<'_, '_, '_> {
    fn work(&self, mut random: Random) {
        for _ in 0..self.load.rounds {
            match random.below(10) {
                0..5 => self.allocate(1 + random.below(self.load.largest) as u64),
                5..8 => self.free(&mut random),
                8 => self.look(&mut random),
                _ => {
                    self.rig.areas.purge();
                }
            }
        }
    }

    fn allocate(&self, count: u64) {
        let range = match self.rig.areas.allocate(&AreaRequest::new(count * K4)) {
            Ok(range) => range,
            Err(AreaError::NoFrames { .. } | AreaError::NoTables) => return,
            Err(error) => panic!("{error}"),
        };
        let frames: Vec<Pfn> = pages(range)
            .map(|page| self.rig.frame_at(page).expect("a new area is mapped"))
            .collect();
        for frame in &frames {
            let new = self.owned.borrow_mut().insert(*frame);
            assert!(new, "frame {frame:x} of {range} is another area's too");
        }
        // Every CPU may take in the area from now on.
        for page in pages(range) {
            self.rig.machine.speculate_at(page);
        }
        self.areas.borrow_mut().push((range, frames));
    }

    /// Frees one of the areas, whoever made it; sometimes twice.
    fn free(&self, random: &mut Random) {
        let Some((range, frames)) = self.take(random) else {
            return;
        };
        self.check(range, &frames);
        for page in pages(range) {
            self.rig.machine.speculate_at(page);
        }
        for frame in &frames {
            self.owned.borrow_mut().remove(frame);
        }
        // SAFETY: nobody else has the area any more.
        unsafe { self.rig.areas.free(range.start()) }.unwrap_or_else(|error| panic!("{error}"));
        // With others about, the address may be another area's by now.
        if self.load.cpus == 1 && random.below(4) == 0 {
            // SAFETY: the area is freed, and nobody could make another one there.
            let again = unsafe { self.rig.areas.free(range.start()) };
            let problem = again.expect_err("a double free").problem();
            assert!(matches!(
                problem,
                FreeProblem::Freed { .. } | FreeProblem::NoArea
            ));
        }
    }

    fn look(&self, random: &mut Random) {
        if let Some((range, frames)) = self.take(random) {
            self.check(range, &frames);
            let found = self.rig.areas.find(range.start()).expect("it lives");
            assert_eq!(found.range, range);
            self.areas.borrow_mut().push((range, frames));
        }
        let mut last = None;
        for info in self.rig.areas.areas() {
            assert!(last < Some(info.range.start()), "out of order");
            last = Some(info.range.start());
        }
    }

    fn take(&self, random: &mut Random) -> Option<(VirtRange, Vec<Pfn>)> {
        let mut areas = self.areas.borrow_mut();
        let index = random.below(areas.len().max(1));
        (index < areas.len()).then(|| areas.swap_remove(index))
    }

    /// The area's pages lead to its frames, whatever translation is used, and its guard to nothing.
    fn check(&self, range: VirtRange, frames: &[Pfn]) {
        for (page, frame) in pages(range).zip(frames) {
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

    /// When all is freed and purged, nothing is left but what was there before.
    fn end(&self, before: usize) -> Outcome {
        let starts: Vec<VirtAddr> = self
            .areas
            .borrow()
            .iter()
            .map(|(range, _)| range.start())
            .collect();
        let rig = self.rig;
        let last = || -> Program<'_> {
            Box::new(move || {
                for start in &starts {
                    // SAFETY: nobody uses it.
                    unsafe { rig.areas.free(*start) }.expect("it lives");
                }
                rig.areas.purge();
                // A chunk that was marked between two steps of a purge goes with the next one.
                rig.areas.purge();
            })
        };
        let mut programs: Vec<Program<'_>> = vec![last()];
        programs.extend((1..self.load.cpus).map(|_| -> Program<'_> { Box::new(|| {}) }));
        let serve = || rig.areas.shootdown().serve();
        let ended = rig.schedule.run(programs, &serve, &mut InTurn, &|| 0);
        if ended != Outcome::Done {
            return ended;
        }
        if let Err(violation) = rig.machine.check() {
            return Outcome::Failed(violation.to_string());
        }
        let totals = rig.areas.totals();
        assert_eq!((totals.areas, totals.used, totals.lazy_pages), (0, 0, 0));
        assert_eq!(totals.chunks, 0);
        assert_eq!(rig.frames.frames.in_use(), before, "frames are lost");
        ended
    }
}

fn runs(load: Load, seeds: u64) -> Result<Explored, Failure> {
    random(0..seeds, |numbers, decide| run(load, numbers, decide))
}

const LOAD: Load = Load {
    cpus: 3,
    rounds: 8,
    largest: 3,
    bound: 1 << 20,
    omitted: None,
};

#[test]
fn no_page_is_reached_after_its_frame_was_given_away() {
    runs(LOAD, 60).unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn the_same_when_purges_are_due_all_the_time() {
    for bound in [0, 3] {
        let load = Load { bound, ..LOAD };
        runs(load, 30).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

#[test]
fn the_same_with_areas_that_fill_chunks() {
    let load = Load {
        cpus: CPUS,
        rounds: 6,
        largest: 180,
        bound: 200,
        ..LOAD
    };
    runs(load, 8).unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn one_cpu_frees_twice() {
    let load = Load {
        cpus: 1,
        rounds: 60,
        bound: 9,
        ..LOAD
    };
    runs(load, 40).unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn a_purge_without_its_flush_is_noticed() {
    let noticed = |rule, cpus| {
        let load = Load {
            omitted: Some(rule),
            bound: 3,
            cpus,
            ..LOAD
        };
        runs(load, 60).is_err()
    };
    for rule in [Rule::Wait, Rule::Global, Rule::LastPage] {
        assert!(noticed(rule, 3), "nobody noticed that {rule:?} is left out");
    }
    // Who waits for others flushes meanwhile; so one CPU alone shows this.
    assert!(
        noticed(Rule::Here, 1),
        "nobody noticed that a CPU alone does not flush"
    );
}

#[test]
fn of_all_who_free_an_area_at_once_one_succeeds() {
    let explored = random(0..60, |numbers, decide| race(numbers, decide));
    explored.unwrap_or_else(|failure| panic!("{failure}"));
}

/// All CPUs free the same areas, in orders of their own.
fn race(mut numbers: Random, decide: &mut dyn Decide) -> Outcome {
    let mut outcome = Outcome::Cut;
    let setup = Setup {
        cpus: CPUS,
        pauses: true,
        ..Setup::new()
    };
    with_rig::<LongMode>(setup, |rig| {
        let before = rig.frames.frames.in_use();
        let starts: Vec<VirtAddr> = (0..3)
            .map(|_| {
                rig.areas
                    .allocate(&AreaRequest::new(K4))
                    .expect("room")
                    .start()
            })
            .collect();
        let freed = Cell::new(0);
        let named = Cell::new(0);
        let programs = (0..CPUS)
            .map(|_| {
                let first = numbers.below(starts.len());
                let (starts, freed, named) = (&starts, &freed, &named);
                Box::new(move || {
                    for index in 0..starts.len() {
                        let start = starts[(first + index) % starts.len()];
                        // SAFETY: nobody uses the areas, or makes others.
                        match unsafe { rig.areas.free(start) } {
                            Ok(()) => freed.set(freed.get() + 1),
                            Err(error) => {
                                let FreeProblem::Freed { by, .. } = error.problem() else {
                                    panic!("{error}");
                                };
                                assert_eq!(by.map(|by| by.file()), Some(file!()));
                                named.set(named.get() + 1);
                            }
                        }
                    }
                }) as Program<'_>
            })
            .collect();
        outcome = rig.schedule.run(programs, &|| {}, decide, &|| 0);
        if outcome == Outcome::Done {
            assert_eq!((freed.get(), named.get()), (3, 3 * (CPUS - 1)));
            rig.areas.purge();
            assert_eq!(rig.frames.frames.in_use(), before);
        }
    });
    outcome
}

#[test]
fn who_walks_all_the_time_never_walks_a_freed_table() {
    random(0..40, |_, decide| walk_while_chunks_go(decide))
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// One CPU makes areas and gives their chunk up, tables and all; the other one walks there ahead of time, at every step.
fn walk_while_chunks_go(decide: &mut dyn Decide) -> Outcome {
    let mut outcome = Outcome::Cut;
    let setup = Setup {
        cpus: 2,
        pauses: true,
        ..Setup::new()
    };
    with_rig::<LongMode>(setup, |rig| {
        let root = rig.areas.tables().root();
        rig.machine.load_root(1, root, 0, false);
        let join = |_| -> Program<'_> { Box::new(|| rig.areas.shootdown().join()) };
        let programs = (0..2).map(join).collect();
        let joined = rig.schedule.run(programs, &|| {}, &mut InTurn, &|| 0);
        assert_eq!(joined, Outcome::Done);
        let (at, done) = (Cell::new(setup.area.start()), Cell::new(false));
        let check = || {
            let checked = rig.machine.check();
            checked.unwrap_or_else(|violation| panic!("{violation}"));
        };
        let gives_up = || {
            let mut chunks = 0;
            for _ in 0..3 {
                let area = rig.areas.allocate(&AreaRequest::new(K4)).expect("room");
                at.set(area.start());
                // SAFETY: nobody uses it.
                unsafe { rig.areas.free(area.start()) }.expect("it lives");
                chunks += rig.areas.purge().chunks;
                check();
            }
            assert_eq!(chunks, 3, "the chunk stays");
            done.set(true);
        };
        let walks = || {
            while !done.get() {
                rig.machine.speculate_at(at.get());
                rig.schedule.pause();
                check();
            }
        };
        let programs: Vec<Program<'_>> = vec![Box::new(gives_up), Box::new(walks)];
        let serve = || rig.areas.shootdown().serve();
        outcome = rig.schedule.run(programs, &serve, decide, &|| 0);
    });
    outcome
}
