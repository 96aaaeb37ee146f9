//! Several CPUs with hostile TLBs come to a user space and go, while areas are mapped there, freed, unmapped and purged.
//!
//! What is checked: user mode reaches the frames of a mapping as long as it is there, whatever the kernel does with the area, and no CPU
//! reaches a frame or a table that somebody else has, ever.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use kspace::areas::{RemapError, remap};
use kspace::shootdown::{Rule, Scope, Shootdown};
use kspace::user::{UserMapping, UserSpace};
use kspace::vmalloc::AreaRequest;
use kspace_layout::{Pfn, VirtAddr, VirtRange};
use kspace_paging::{Access, Controls, Intent, LongMode, Operation};
use kspace_sim::explore::{Decide, Explored, Failure, Random, random};
use kspace_sim::{Outcome, Program, SimPlatform, Use};

use crate::machine::{CPUS, K4, Rig, Setup, SimKernel, pages, with_rig};

type Space<'s, 'r> = UserSpace<'s, 'r, SimKernel<'r, LongMode>, CPUS>;
type Mapping<'m, 's, 'r> = UserMapping<'m, 's, 'r, SimKernel<'r, LongMode>, CPUS>;

/// The user part.
const USER: VirtRange = VirtRange::new(VirtAddr::new(K4), 1 << 40);
/// CPUs that do something.
const ACTIVE: usize = 3;
const ROUNDS: usize = 10;

/// What the CPUs do, and which rule of the user space's flushes is broken.
#[derive(Clone, Copy)]
struct Load {
    work: fn(&World<'_, '_, '_, '_>, Random),
    omitted: Option<Rule>,
}

const EVERYTHING: Load = Load {
    work: |world, random| world.work(random),
    omitted: None,
};

/// A mapping, and what it leads to.
struct Mapped<'m, 's, 'r: 's> {
    mapping: Mapping<'m, 's, 'r>,
    frames: Vec<Pfn>,
    /// The area, until the kernel frees it.
    area: Option<VirtAddr>,
}

struct World<'m, 's, 'a, 'r: 's> {
    rig: &'m Rig<'a, 'r, LongMode>,
    space: &'m Space<'s, 'r>,
    mapped: RefCell<Vec<Mapped<'m, 's, 'r>>>,
    /// Which CPUs run the space.
    runs: [Cell<bool>; ACTIVE],
}

fn run(load: Load, numbers: Random, decide: &mut dyn Decide) -> Outcome {
    let mut outcome = Outcome::Cut;
    let setup = Setup {
        cpus: ACTIVE,
        pauses: true,
        bound: 4,
        ..Setup::new()
    };
    with_rig(setup, |rig| {
        for cpu in 1..ACTIVE {
            let root = rig.areas.tables().root();
            rig.machine.load_root(cpu, root, 0, false);
        }
        // The books keep their first frame.
        let warm = AreaRequest::new(K4).user_mappable();
        let warm = rig.areas.allocate(&warm).expect("room");
        // SAFETY: nobody uses it.
        unsafe { rig.areas.free(warm.start()) }.expect("it lives");
        rig.areas.purge();
        let join = |_| -> Program<'_> { Box::new(|| rig.areas.shootdown().join()) };
        let programs = (0..ACTIVE).map(join).collect();
        let joined = rig.schedule.run(programs, &|| {}, &mut InTurn, &|| 0);
        assert_eq!(joined, Outcome::Done);
        let before = rig.frames.frames.in_use();
        outcome = in_space(rig, load, numbers, decide);
        if outcome == Outcome::Done {
            let purge = || {
                rig.areas.purge();
                // A chunk that was marked between two steps of a purge goes with the next one.
                rig.areas.purge();
            };
            outcome = alone(rig, Box::new(purge));
            assert_eq!(rig.frames.frames.in_use(), before, "frames are lost");
        }
    });
    outcome
}

fn in_space(
    rig: &Rig<'_, '_, LongMode>,
    load: Load,
    mut numbers: Random,
    decide: &mut dyn Decide,
) -> Outcome {
    let platform = SimPlatform::new(rig.schedule, rig.machine).omitting(load.omitted);
    let shootdown = Shootdown::probed(platform, platform).with_scope(Scope::Own);
    // SAFETY: the CPUs below come and go by the shootdown, which is this space's alone.
    let space = unsafe { UserSpace::new(rig.areas, USER, &shootdown) }.expect("room");
    let world = World {
        rig,
        space: &space,
        mapped: RefCell::default(),
        runs: Default::default(),
    };
    let programs = (0..ACTIVE)
        .map(|_| {
            let numbers = Random::new(numbers.next());
            let world = &world;
            Box::new(move || (load.work)(world, numbers)) as Program<'_>
        })
        .collect();
    let serve = || {
        rig.areas.shootdown().serve();
        shootdown.serve();
    };
    let outcome = rig.schedule.run(programs, &serve, decide, &|| 0);
    if outcome != Outcome::Done {
        // What is left is in whatever state the failure found it.
        std::mem::forget(world);
        std::mem::forget(space);
        return outcome;
    }
    let kept = world.mapped.into_inner();
    let end = || {
        for Mapped { mapping, area, .. } in kept {
            drop(mapping);
            if let Some(start) = area {
                // SAFETY: nobody uses it.
                unsafe { rig.areas.free(start) }.expect("it lives");
            }
        }
    };
    alone(rig, Box::new(end))
}

/// One CPU does this, and the others only answer.
fn alone<'p>(rig: &Rig<'_, '_, LongMode>, program: Program<'p>) -> Outcome {
    let mut programs: Vec<Program<'p>> = vec![program];
    programs.extend((1..ACTIVE).map(|_| -> Program<'p> { Box::new(|| {}) }));
    let serve = || rig.areas.shootdown().serve();
    rig.schedule.run(programs, &serve, &mut InTurn, &|| 0)
}

/// The first that can go on.
struct InTurn;

impl Decide for InTurn {
    fn decide(&mut self, _: usize, _: &dyn Fn() -> u64) -> Option<usize> {
        Some(0)
    }
}

impl World<'_, '_, '_, '_> {
    fn work(&self, mut random: Random) {
        self.come();
        for _ in 0..ROUNDS {
            match random.below(10) {
                0..3 => self.map(&mut random),
                3..5 => self.touch(&mut random),
                5 => self.free(&mut random),
                6..8 => self.unmap(&mut random),
                8 => {
                    self.rig.areas.purge();
                }
                _ => self.switch(),
            }
            self.nothing_is_stale();
        }
        if self.runs[self.me()].get() {
            self.go();
        }
    }

    /// Maps a page where all others want one, too; who has it reaches its own frame, from the first moment on.
    fn contend(&self) {
        self.come();
        for _ in 0..8 {
            let request = AreaRequest::new(K4).user_mappable();
            let area = self.rig.areas.allocate(&request).expect("room");
            let frame = self.rig.frame_at(area.start()).expect("it is mapped");
            let at = USER.start();
            // SAFETY: the area is this CPU's.
            let mapped = unsafe {
                remap(
                    self.rig.areas,
                    area.start(),
                    self.space,
                    at,
                    0..1,
                    Access::ReadOnly,
                )
            };
            match mapped {
                Ok(_mapping) => {
                    for _ in 0..2 {
                        self.reads(at, frame);
                        self.rig.machine.speculate_at(at);
                        self.rig.schedule.pause();
                    }
                }
                Err(RemapError::Taken { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            // SAFETY: nobody uses it.
            unsafe { self.rig.areas.free(area.start()) }.expect("it lives");
            self.nothing_is_stale();
        }
        self.go();
    }

    /// User mode on this CPU, which runs the space, reads this frame there, whatever translation it uses.
    fn reads(&self, page: VirtAddr, frame: Pfn) {
        let (intent, machine) = (Intent::user(Operation::Read), self.rig.machine);
        let seen = machine.access(self.me(), page, intent, Controls::NONE);
        let seen = seen.unwrap_or_else(|violation| panic!("{violation}"));
        assert!(!seen.pages.is_empty(), "{page} is not mapped");
        for possible in seen.pages {
            assert!(possible.attributes.user && !possible.attributes.execute);
            assert_eq!(possible.translate(page).pfn(), frame, "{page}");
        }
    }

    fn me(&self) -> usize {
        self.rig.schedule.running()
    }

    fn come(&self) {
        let (me, rig) = (self.me(), self.rig);
        let taken = rig.schedule.takes_interrupts();
        rig.schedule.set_interrupts(false);
        // While it loads the root, a CPU uses nothing.
        rig.machine.set_use(me, Use::Nothing);
        let root = self.space.root();
        let load = |_| rig.machine.load_root(me, root, 0, false);
        self.space.shootdown().switch_in(load);
        rig.machine.set_use(me, Use::Everything);
        rig.schedule.set_interrupts(taken);
        self.runs[me].set(true);
    }

    fn go(&self) {
        let (me, rig) = (self.me(), self.rig);
        let taken = rig.schedule.takes_interrupts();
        rig.schedule.set_interrupts(false);
        let root = rig.areas.tables().root();
        rig.machine.load_root(me, root, 0, false);
        self.space.shootdown().switch_out(false);
        rig.schedule.set_interrupts(taken);
        self.runs[me].set(false);
    }

    fn switch(&self) {
        if self.runs[self.me()].get() {
            self.go();
        } else {
            self.come();
        }
    }

    /// A new area at one of a few places, of which some overlap.
    fn map(&self, random: &mut Random) {
        let count = 1 + random.below(3) as u64;
        let request = AreaRequest::new(count * K4).user_mappable();
        let area = self.rig.areas.allocate(&request).expect("room");
        let frames: Vec<Pfn> = pages(area)
            .map(|page| self.rig.frame_at(page).expect("a new area is mapped"))
            .collect();
        let table = (1 + random.below(2) as u64) << 30;
        let at = VirtAddr::new(table + random.below(4) as u64 * K4);
        let access = [Access::ReadOnly, Access::ReadWrite][random.below(2)];
        // SAFETY: the area is this CPU's.
        match unsafe {
            remap(
                self.rig.areas,
                area.start(),
                self.space,
                at,
                0..count,
                access,
            )
        } {
            Ok(mapping) => {
                // Every CPU may take it in from now on.
                for page in pages(mapping.range()) {
                    self.rig.machine.speculate_at(page);
                }
                self.mapped.borrow_mut().push(Mapped {
                    mapping,
                    frames,
                    area: Some(area.start()),
                });
            }
            Err(RemapError::Taken { .. }) => {
                // SAFETY: nobody uses it.
                unsafe { self.rig.areas.free(area.start()) }.expect("it lives");
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// User mode reads one of the mappings, and reaches its frames whatever translation the CPU uses.
    fn touch(&self, random: &mut Random) {
        let mapped = self.mapped.borrow();
        let Some(one) = mapped.get(random.below(mapped.len().max(1))) else {
            return;
        };
        if !self.runs[self.me()].get() {
            return;
        }
        for (page, frame) in pages(one.mapping.range()).zip(&one.frames) {
            self.reads(page, *frame);
        }
    }

    /// The kernel frees an area that is mapped.
    fn free(&self, random: &mut Random) {
        let start = {
            let mut mapped = self.mapped.borrow_mut();
            let count = mapped.len().max(1);
            let one = mapped.get_mut(random.below(count));
            one.and_then(|one| one.area.take())
        };
        if let Some(start) = start {
            // SAFETY: the kernel uses it no more.
            unsafe { self.rig.areas.free(start) }.expect("it lives");
        }
    }

    fn unmap(&self, random: &mut Random) {
        let one = {
            let mut mapped = self.mapped.borrow_mut();
            let index = random.below(mapped.len().max(1));
            (index < mapped.len()).then(|| mapped.swap_remove(index))
        };
        let Some(Mapped { mapping, area, .. }) = one else {
            return;
        };
        for page in pages(mapping.range()) {
            self.rig.machine.speculate_at(page);
        }
        drop(mapping);
        self.nothing_is_stale();
        if let Some(start) = area {
            // SAFETY: nobody uses it.
            unsafe { self.rig.areas.free(start) }.expect("it lives");
        }
    }

    fn nothing_is_stale(&self) {
        let checked = self.rig.machine.check();
        checked.unwrap_or_else(|violation| panic!("{violation}"));
    }
}

fn runs(load: Load, seeds: Range<u64>) -> Result<Explored, Failure> {
    random(seeds, |numbers, decide| run(load, numbers, decide))
}

#[test]
fn user_mode_never_reaches_what_was_freed() {
    runs(EVERYTHING, 0..60).unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn addresses_are_nobody_elses_before_the_flush() {
    let load = Load {
        work: |world, _| world.contend(),
        ..EVERYTHING
    };
    runs(load, 0..30).unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn a_user_flush_that_is_left_out_is_noticed() {
    let contend: fn(&World<'_, '_, '_, '_>, Random) = |world, _| world.contend();
    for (rule, work) in [
        (Rule::Here, EVERYTHING.work),
        (Rule::LastPage, EVERYTHING.work),
        (Rule::Wait, contend),
    ] {
        let omitted = Some(rule);
        assert!(
            runs(Load { work, omitted }, 0..60).is_err(),
            "nobody noticed that {rule:?} is left out"
        );
    }
}
