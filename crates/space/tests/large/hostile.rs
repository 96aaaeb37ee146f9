//! Large areas on CPUs that keep every translation they may, under any schedule.

use kspace::shootdown::Rule;
use kspace::vmalloc::{AreaRequest, Resized};
use kspace_layout::VirtRange;
use kspace_paging::{Intent, LongMode, Operation};
use kspace_sim::explore::{Decide, Random, random};
use kspace_sim::{Outcome, Program};

use crate::simulated::{K4, Rig, Setup, pages, with_rig};

const CPUS: usize = 3;

/// Some pages of an area: the first and last ones, and those beside the borders of page tables.
fn samples(range: VirtRange) -> impl Iterator<Item = kspace_layout::VirtAddr> {
    let last = range.size() / K4 - 1;
    pages(range).enumerate().filter_map(move |(index, page)| {
        let slot = page.as_u64() / K4 % 512;
        let chosen = index == 0 || index as u64 == last || slot == 0 || slot == 511;
        chosen.then_some(page)
    })
}

/// Every CPU takes in what the tables say of these pages.
fn everybody_looks(rig: &Rig<'_, '_, LongMode>, range: VirtRange) {
    samples(range).for_each(|page| rig.machine.speculate_at(page));
}

fn check(rig: &Rig<'_, '_, LongMode>) {
    rig.machine
        .check()
        .unwrap_or_else(|violation| panic!("{violation}"));
}

/// Makes an area, lets it grow, uses it from all CPUs, frees it and perhaps purges.
fn one_round(rig: &Rig<'_, '_, LongMode>, number: u64) {
    let request = |pages| AreaRequest::new(pages * K4);
    let range = rig.areas.allocate(&request(260 + number % 300));
    let mut range = range.expect("there is room");
    everybody_looks(rig, range);
    if number.is_multiple_of(3) {
        let more = request(range.size() / K4 + 40);
        // SAFETY: the area is this program's.
        let resized = unsafe { rig.areas.resize(range.start(), &more) };
        if let Ok(Resized::InPlace(larger)) = resized {
            range = larger;
            everybody_looks(rig, range);
        }
    }
    for page in samples(range) {
        let frame = rig.walk(page).expect("it is mapped");
        let reached = rig.machine.reaches(rig.schedule.running(), page, frame);
        reached.unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    // SAFETY: the area is not used any more.
    unsafe { rig.areas.free(range.start()) }.expect("it is there");
    for page in samples(range) {
        assert!(
            rig.machine
                .walk(page, Intent::kernel(Operation::Read))
                .is_err()
        );
    }
    if number.is_multiple_of(2) {
        rig.areas.purge();
    }
    check(rig);
}

/// Always the first that can go on.
struct InTurn;

impl Decide for InTurn {
    fn decide(&mut self, _: usize, _: &dyn Fn() -> u64) -> Option<usize> {
        Some(0)
    }
}

fn run(omitted: Option<Rule>, mut numbers: Random, decide: &mut dyn Decide) -> Outcome {
    let mut outcome = Outcome::Done;
    let setup = Setup {
        cpus: CPUS,
        bound: 600,
        omitted,
        ..Setup::new()
    };
    with_rig::<LongMode>(setup, |rig| {
        let root = rig.areas.tables().root();
        for cpu in 1..CPUS {
            rig.machine.load_root(cpu, root, 0, false);
        }
        let joins = |_| -> Program<'_> { Box::new(|| rig.areas.shootdown().join()) };
        let joined = rig
            .schedule
            .run((0..CPUS).map(joins).collect(), &|| {}, &mut InTurn, &|| 0);
        assert_eq!(joined, Outcome::Done);
        let rounds: Vec<Vec<u64>> = (0..CPUS)
            .map(|_| (0..4).map(|_| numbers.next()).collect())
            .collect();
        let programs = rounds
            .iter()
            .map(|rounds| -> Program<'_> {
                Box::new(move || {
                    for &number in rounds {
                        one_round(rig, number);
                    }
                })
            })
            .collect();
        let serve = || rig.areas.shootdown().serve();
        outcome = rig.schedule.run(programs, &serve, decide, &|| 0);
    });
    outcome
}

#[test]
fn no_cpu_reaches_what_is_somebody_elses() {
    let explored = random(0..40, |numbers, decide| run(None, numbers, decide));
    assert_eq!(explored.expect("all is flushed").runs, 40);
}

/// Without its flushes, the same is found to be wrong.
#[test]
fn a_flush_left_out_is_found() {
    for rule in [Rule::Here, Rule::Wait] {
        let explored = random(0..40, |numbers, decide| run(Some(rule), numbers, decide));
        let failure = explored.expect_err("a flush is missing");
        assert!(failure.message.contains("frame"), "{rule:?}: {failure}");
    }
}
