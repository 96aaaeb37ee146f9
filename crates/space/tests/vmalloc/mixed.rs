//! Everything at once, on several CPUs with hostile TLBs: areas of all sizes, alignments and kinds are made, grown, freed, freed wrongly,
//! purged and reclaimed, and frames run out now and then.
//!
//! The model is a list of what lives, with its frames. Of it and the machine alone is checked: no two areas share addresses, a guard or a
//! frame; what was written into an area is there as long as it lives; what was asked for as zeros is zeros; every page leads to its own
//! frame by whatever translation a CPU may use; no CPU reaches a frame that was given back; and in the end nothing is left.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;

use kspace::shootdown::Rule;
use kspace::vmalloc::{AreaError, AreaRequest, FreeProblem, Kind, ResizeError, Resized};
use kspace_frames::Order;
use kspace_frames::zone::{NodeId, Shortage, ZoneKind};
use kspace_layout::{Pfn, VirtAddr, VirtRange};
use kspace_paging::{FrameSource, LongMode};
use kspace_sim::explore::{Decide, Explored, Failure, Random, random};
use kspace_sim::{Outcome, Program};

use crate::rig::{K4, RAM, Rig, Setup, pages, with_rig};

const ACTIVE: usize = 3;
const ROUNDS: usize = 24;

/// An area that lives.
struct Area {
    range: VirtRange,
    kind: Kind,
    frames: Vec<Pfn>,
    /// What its pages hold.
    stamp: u64,
}

struct World<'w, 'a, 'r> {
    rig: &'w Rig<'a, 'r, LongMode>,
    areas: RefCell<Vec<Area>>,
    /// Frames of areas that have some of their own.
    owned: RefCell<HashSet<Pfn>>,
    /// Frames that are mapped for others: given back at the end.
    given: RefCell<Vec<Pfn>>,
    stamps: Cell<u64>,
    tally: &'w Tally,
}

/// What came of requests: a run in which something never happens shows nothing about it.
#[derive(Debug, Default)]
struct Tally {
    made: Cell<u64>,
    short: Cell<u64>,
    resized: Cell<u64>,
    elsewhere: Cell<u64>,
}

fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

fn run(tally: &Tally, omitted: Option<Rule>, numbers: Random, decide: &mut dyn Decide) -> Outcome {
    let mut outcome = Outcome::Cut;
    let setup = Setup {
        cpus: ACTIVE,
        bound: 64,
        omitted,
        pauses: true,
        ..Setup::new()
    };
    with_rig(setup, |rig| {
        for cpu in 1..ACTIVE {
            let root = rig.areas.tables().root();
            rig.machine.load_root(cpu, root, 0, false);
        }
        // The books keep their first frame.
        let large = AreaRequest::new(K4).aligned(1 << 30);
        let large = rig.areas.allocate(&large).expect("room");
        // SAFETY: nobody uses it.
        unsafe { rig.areas.free(large.start()) }.expect("it lives");
        rig.areas.purge();
        let before = rig.frames.frames.in_use();
        outcome = in_world(rig, tally, numbers, decide);
        if outcome == Outcome::Done {
            let totals = rig.areas.totals();
            let left = (totals.areas, totals.used, totals.lazy_pages, totals.chunks);
            assert_eq!(left, (0, 0, 0, 0));
            assert_eq!(rig.frames.frames.in_use(), before, "frames are lost");
        }
    });
    outcome
}

fn in_world(
    rig: &Rig<'_, '_, LongMode>,
    tally: &Tally,
    mut numbers: Random,
    decide: &mut dyn Decide,
) -> Outcome {
    let world = World {
        rig,
        areas: RefCell::default(),
        owned: RefCell::default(),
        given: RefCell::default(),
        stamps: Cell::new(1),
        tally,
    };
    let join = |_| -> Program<'_> { Box::new(|| rig.areas.shootdown().join()) };
    let programs = (0..ACTIVE).map(join).collect();
    let joined = rig.schedule.run(programs, &|| {}, &mut InTurn, &|| 0);
    assert_eq!(joined, Outcome::Done);
    let programs = (0..ACTIVE)
        .map(|_| {
            let (numbers, world) = (Random::new(numbers.next()), &world);
            Box::new(move || world.work(numbers)) as Program<'_>
        })
        .collect();
    let serve = || rig.areas.shootdown().serve();
    let outcome = rig.schedule.run(programs, &serve, decide, &|| 0);
    if outcome != Outcome::Done {
        return outcome;
    }
    rig.frames.frames.set_budget(None);
    let end = || -> Program<'_> { Box::new(|| world.end()) };
    let mut programs = vec![end()];
    programs.extend((1..ACTIVE).map(|_| -> Program<'_> { Box::new(|| {}) }));
    rig.schedule.run(programs, &serve, &mut InTurn, &|| 0)
}

fn node(number: u32) -> NodeId {
    NodeId::try_new(number).expect("a small number")
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
        for _ in 0..ROUNDS {
            match random.below(16) {
                0..5 => self.allocate(&mut random),
                5 => self.map(&mut random),
                6..9 => self.free(&mut random),
                9 => self.free_inside(&mut random),
                10 => self.resize(&mut random),
                11 => self.look(&mut random),
                12 => {
                    self.rig.areas.purge();
                }
                13 => self.reclaim(&mut random),
                14 => self.ask_for_nonsense(&mut random),
                _ => self.change_budget(&mut random),
            }
            self.nothing_is_stale();
        }
    }

    fn pages(random: &mut Random) -> u64 {
        1 + match random.below(8) {
            0..5 => random.below(4),
            5 | 6 => random.below(24),
            _ => 240 + random.below(40),
        } as u64
    }

    fn allocate(&self, random: &mut Random) {
        let count = Self::pages(random);
        let align = [0, 0, 0, 1, 4, 9, 18][random.below(7)];
        let kind = [Kind::Memory, Kind::Memory, Kind::Stack, Kind::Executable][random.below(4)];
        let mut request = AreaRequest::new(count * K4 - random.below(K4 as usize) as u64)
            .aligned(K4 << align)
            .kind(kind);
        let zeroed = random.below(3) == 0;
        if zeroed {
            request = request.zeroed();
        }
        if random.below(3) == 0 {
            request = request.node(node(random.below(4) as u32));
        }
        let Some(range) = self.expect_or_short(self.rig.areas.allocate(&request)) else {
            return;
        };
        assert_eq!(range.size(), count * K4);
        assert!(range.is_aligned(K4) && range.start().is_aligned(K4 << align));
        let frames = self.frames_of(range);
        for frame in &frames {
            let new = self.owned.borrow_mut().insert(*frame);
            assert!(new, "frame {frame:x} of {range} is another area's too");
            let words = self.rig.memory.words(*frame);
            assert!(!zeroed || words.iter().all(|word| word.load(Relaxed) == 0));
        }
        self.add(range, kind, frames);
    }

    /// Frames of somebody's, at addresses of their own.
    fn map(&self, random: &mut Random) {
        let count = 1 + random.below(6);
        let frames: Option<Vec<Pfn>> = (0..count)
            .map(|_| {
                let frame = self.rig.frames.frames.allocate()?.pfn();
                self.given.borrow_mut().push(frame);
                Some(frame)
            })
            .collect();
        let Some(frames) = frames else { return };
        let request = AreaRequest::new(count as u64 * K4).kind(Kind::Frames);
        let frame = |page: u64| frames[page as usize];
        // SAFETY: the frames are the test's, which gives them back at the end.
        let mapped = unsafe { self.rig.areas.map(&request, frame) };
        let Some(range) = self.expect_or_short(mapped) else {
            return;
        };
        assert_eq!(self.frames_of(range), frames);
        self.add(range, Kind::Frames, frames);
    }

    fn free(&self, random: &mut Random) {
        let Some(area) = self.take(random) else {
            return;
        };
        self.check(&area);
        for page in pages(area.range) {
            self.rig.machine.speculate_at(page);
        }
        for frame in &area.frames {
            self.owned.borrow_mut().remove(frame);
        }
        // SAFETY: nobody else has the area any more.
        unsafe { self.rig.areas.free(area.range.start()) }
            .unwrap_or_else(|error| panic!("{error}"));
    }

    fn free_inside(&self, random: &mut Random) {
        let Some(area) = self.take(random) else {
            return;
        };
        let last = area.range.last().align_down(K4);
        if last > area.range.start() {
            // SAFETY: it is refused.
            let error = unsafe { self.rig.areas.free(last) }.expect_err("it is inside");
            assert_eq!(error.problem(), FreeProblem::Inside(area.range));
        }
        self.check(&area);
        self.areas.borrow_mut().push(area);
    }

    fn resize(&self, random: &mut Random) {
        let Some(mut area) = self.take(random) else {
            return;
        };
        let more = area.range.size() + K4 * (1 + random.below(30) as u64);
        let request = AreaRequest::new(more).kind(area.kind);
        // SAFETY: the area is this CPU's.
        match unsafe { self.rig.areas.resize(area.range.start(), &request) } {
            Ok(Resized::InPlace(range)) => {
                let frames = self.frames_of(range);
                assert_eq!(frames[..area.frames.len()], area.frames);
                for frame in &frames[area.frames.len()..] {
                    assert!(self.owned.borrow_mut().insert(*frame));
                }
                count(&self.tally.resized);
                (area.range, area.frames) = (range, frames);
                self.stamp(&area);
            }
            Ok(Resized::Elsewhere) => count(&self.tally.elsewhere),
            Err(ResizeError::Area(AreaError::Kind(Kind::Frames))) => {
                assert_eq!(area.kind, Kind::Frames);
            }
            Err(ResizeError::Area(error)) => {
                self.expect_or_short(Err(error));
            }
            Err(error) => panic!("{error}"),
        }
        self.check(&area);
        self.areas.borrow_mut().push(area);
    }

    fn look(&self, random: &mut Random) {
        if let Some(area) = self.take(random) {
            self.check(&area);
            let inside = VirtAddr::new(area.range.last().as_u64() - 8);
            let found = self.rig.areas.find(inside).expect("it lives");
            assert_eq!((found.range, found.kind), (area.range, area.kind));
            self.areas.borrow_mut().push(area);
        }
    }

    fn reclaim(&self, random: &mut Random) {
        self.rig.areas.reclaim(&Shortage {
            node: node(0),
            kind: ZoneKind::Normal,
            order: Order::FRAME,
            frames: 1,
            may_wait: random.below(2) == 0,
            urgent: random.below(2) == 0,
        });
    }

    fn ask_for_nonsense(&self, random: &mut Random) {
        let areas = self.rig.areas;
        let whole = areas.area().size();
        let request = [
            AreaRequest::new(0),
            AreaRequest::new(whole + 1),
            AreaRequest::new(u64::MAX),
            AreaRequest::new(RAM.size() + K4),
            AreaRequest::new(K4).aligned(3 * K4),
            AreaRequest::new(K4).aligned(1 << 62),
            AreaRequest::new(K4).kind(Kind::Device),
        ][random.below(7)];
        let error = areas.allocate(&request).expect_err("no machine has it");
        assert!(!matches!(error, AreaError::AtomicContext), "{error}");
    }

    /// From now on a few more frames, or all there are.
    fn change_budget(&self, random: &mut Random) {
        let budget = (random.below(3) == 0).then(|| random.below(40));
        self.rig.frames.frames.set_budget(budget);
    }

    fn add(&self, range: VirtRange, kind: Kind, frames: Vec<Pfn>) {
        let with_guard = VirtRange::new(range.start(), range.size() + K4);
        for other in &*self.areas.borrow() {
            let other = VirtRange::new(other.range.start(), other.range.size() + K4);
            assert!(!other.overlaps(with_guard), "{range} overlaps {other}");
        }
        let stamp = self.stamps.replace(self.stamps.get() + 1) << 32;
        let area = Area {
            range,
            kind,
            frames,
            stamp,
        };
        self.stamp(&area);
        // Every CPU may take the area in from now on.
        for page in pages(range) {
            self.rig.machine.speculate_at(page);
        }
        self.areas.borrow_mut().push(area);
    }

    /// Writes into each page whose it is, and which.
    fn stamp(&self, area: &Area) {
        for (index, frame) in (0..).zip(&area.frames) {
            self.rig.memory.words(*frame)[7].store(area.stamp + index, Relaxed);
        }
    }

    fn frames_of(&self, range: VirtRange) -> Vec<Pfn> {
        let frame = |page| self.rig.frame_at(page).expect("a live area is mapped");
        pages(range).map(frame).collect()
    }

    /// The area is what it was: its frames, what they hold, and its guard.
    fn check(&self, area: &Area) {
        assert_eq!(self.frames_of(area.range), area.frames);
        for (index, frame) in (0..).zip(&area.frames) {
            let word = self.rig.memory.words(*frame)[7].load(Relaxed);
            assert_eq!(word, area.stamp + index, "page {index} of {}", area.range);
        }
        let guard = area.range.last().checked_add(1).expect("there is one");
        assert_eq!(self.rig.walk(guard), None, "the guard of {}", area.range);
    }

    fn take(&self, random: &mut Random) -> Option<Area> {
        let mut areas = self.areas.borrow_mut();
        let index = random.below(areas.len().max(1));
        (index < areas.len()).then(|| areas.swap_remove(index))
    }

    /// What came of a request; `None` when frames ran out, which is all that may be wrong.
    fn expect_or_short(&self, made: Result<VirtRange, AreaError>) -> Option<VirtRange> {
        match made {
            Ok(range) => {
                count(&self.tally.made);
                Some(range)
            }
            Err(AreaError::NoFrames { .. } | AreaError::NoTables) => {
                count(&self.tally.short);
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn nothing_is_stale(&self) {
        let checked = self.rig.machine.check();
        checked.unwrap_or_else(|violation| panic!("{violation}"));
    }

    /// Frees what is left, and learns who was first when it does so again.
    fn end(&self) {
        for area in self.areas.take() {
            self.check(&area);
            let start = area.range.start();
            // SAFETY: nobody uses it.
            unsafe { self.rig.areas.free(start) }.expect("it lives");
            // SAFETY: it is refused.
            let again = unsafe { self.rig.areas.free(start) }.expect_err("a double free");
            assert!(matches!(
                again.problem(),
                FreeProblem::Freed { .. } | FreeProblem::NoArea
            ));
        }
        self.rig.areas.purge();
        // A chunk that was marked between two steps of a purge goes with the next one.
        self.rig.areas.purge();
        for frame in self.given.take() {
            self.rig.frames.frames.release(frame.start());
        }
        self.nothing_is_stale();
    }
}

fn runs(tally: &Tally, omitted: Option<Rule>, seeds: u64) -> Result<Explored, Failure> {
    random(0..seeds, |numbers, decide| {
        run(tally, omitted, numbers, decide)
    })
}

#[test]
fn everything_at_once_breaks_nothing() {
    let tally = Tally::default();
    runs(&tally, None, 16).unwrap_or_else(|failure| panic!("{failure}"));
    let Tally {
        made,
        short,
        resized,
        elsewhere,
    } = &tally;
    let happened = [made, short, resized, elsewhere];
    assert!(happened.iter().all(|count| count.get() > 3), "{tally:?}");
}

#[test]
fn a_flush_that_is_left_out_is_noticed() {
    assert!(runs(&Tally::default(), Some(Rule::Wait), 16).is_err());
}
