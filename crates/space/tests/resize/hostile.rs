//! Resized areas on CPUs that keep every translation they may, under any schedule.

use kspace::shootdown::Rule;
use kspace::vmalloc::AreaRequest;
use kspace_layout::{VirtAddr, VirtRange};
use kspace_paging::{Controls, Intent, LongMode, Operation};
use kspace_sim::explore::{Decide, Random, random};
use kspace_sim::{Outcome, Program};

use crate::simulated::{K4, Rig, Setup, pages, with_rig};

const CPUS: usize = 3;

/// Whether some CPU may still reach a page, by any translation that it may have kept.
fn is_reached(rig: &Rig<'_, '_, LongMode>, address: VirtAddr) -> bool {
    let intent = Intent::kernel(Operation::Read);
    (0..CPUS).any(|cpu| {
        let seen = rig.machine.access(cpu, address, intent, Controls::KERNEL);
        let seen = seen.unwrap_or_else(|violation| panic!("{violation}"));
        !seen.pages.is_empty()
    })
}

fn everybody_looks(rig: &Rig<'_, '_, LongMode>, range: VirtRange) {
    pages(range).for_each(|page| rig.machine.speculate_at(page));
}

/// Gives an area one size after the other. Whatever it no longer has is reached by no CPU, unless it is somebody else's by then.
fn one_round(rig: &Rig<'_, '_, LongMode>, numbers: &[u64]) {
    let size = |number: u64| {
        if number.is_multiple_of(3) {
            260 + number % 60
        } else {
            1 + number % 25
        }
    };
    let request = |number| AreaRequest::new(size(number) * K4);
    let mut range = rig.areas.allocate(&request(numbers[0])).expect("room");
    let behind = rig.areas.allocate(&request(1)).expect("room");
    for number in &numbers[1..] {
        everybody_looks(rig, range);
        // SAFETY: the area is this program's.
        let now = unsafe { rig.areas.reallocate(range.start(), &request(*number)) };
        let now = now.expect("room");
        let gone = pages(range).filter(|page| !now.contains(*page));
        // Another CPU's area may lie there already, but no other one's translation.
        for page in gone {
            let new = rig
                .areas
                .find(page)
                .filter(|info| info.range.contains(page));
            assert!(
                new.is_some() || !is_reached(rig, page),
                "{page} is still reached"
            );
        }
        range = now;
        everybody_looks(rig, range);
        for page in pages(range) {
            let frame = rig.walk(page).expect("it is mapped");
            let reached = rig.machine.reaches(rig.schedule.running(), page, frame);
            reached.unwrap_or_else(|wrong| panic!("{wrong}"));
        }
        rig.machine
            .check()
            .unwrap_or_else(|violation| panic!("{violation}"));
    }
    for range in [range, behind] {
        // SAFETY: the area is not used any more.
        unsafe { rig.areas.free(range.start()) }.expect("it is there");
    }
}

/// Always the first that can go on.
struct InTurn;

impl Decide for InTurn {
    fn decide(&mut self, _: usize, _: &dyn Fn() -> u64) -> Option<usize> {
        Some(0)
    }
}

fn run(omitted: Option<Rule>, mut numbers: Random, decide: &mut dyn Decide) -> Outcome {
    let setup = Setup {
        cpus: CPUS,
        bound: 400,
        omitted,
        ..Setup::new()
    };
    let mut outcome = Outcome::Done;
    with_rig::<LongMode>(setup, |rig| {
        let root = rig.areas.tables().root();
        for cpu in 1..CPUS {
            rig.machine.load_root(cpu, root, 0, false);
        }
        let joins = |_| -> Program<'_> { Box::new(|| rig.areas.shootdown().join()) };
        let joins = (0..CPUS).map(joins).collect();
        let joined = rig.schedule.run(joins, &|| {}, &mut InTurn, &|| 0);
        assert_eq!(joined, Outcome::Done);
        let serve = || rig.areas.shootdown().serve();
        let program = |_| -> Program<'_> {
            let round: Vec<u64> = (0..5).map(|_| numbers.next()).collect();
            Box::new(move || one_round(rig, &round))
        };
        let programs = (0..CPUS).map(program).collect();
        outcome = rig.schedule.run(programs, &serve, decide, &|| 0);
    });
    outcome
}

#[test]
fn no_cpu_reaches_what_an_area_no_longer_has() {
    let explored = random(0..40, |numbers, decide| run(None, numbers, decide));
    assert_eq!(explored.expect("all is flushed").runs, 40);
}

/// Without its flushes, the same is found to be wrong.
#[test]
fn a_flush_left_out_is_found() {
    for rule in [Rule::Here, Rule::Wait] {
        let explored = random(0..40, |numbers, decide| run(Some(rule), numbers, decide));
        let failure = explored.expect_err("a flush is missing");
        let told = ["frame", "still reached"]
            .iter()
            .any(|words| failure.message.contains(words));
        assert!(told, "{rule:?}: {failure}");
    }
}
