//! Large areas on CPUs that keep every translation they may, under any schedule.

use kspace::shootdown::Rule;
use kspace::vmalloc::{AreaRequest, Resized};
use kspace_layout::VirtRange;
use kspace_paging::{Intent, LongMode, Operation};
use kspace_sim::explore::{Decide, Random, random};
use kspace_sim::{Outcome, Program};

use crate::simulated::{AREA, K4, Rig, Setup, pages, with_rig};

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
    // Few pages are flushed one by one, many all together.
    let range = rig.areas.allocate(&if number % 8 < 5 {
        request(1 + number % 5).aligned(4 << 20)
    } else {
        request(260 + number % 300)
    });
    let mut range = range.expect("there is room");
    everybody_looks(rig, range);
    if number.is_multiple_of(3) {
        let more = request(range.size() / K4 + 5);
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

/// Runs these programs on a machine whose CPUs have all joined.
fn run_programs(
    setup: Setup,
    decide: &mut dyn Decide,
    programs: impl for<'p> FnOnce(&'p Rig<'_, '_, LongMode>) -> Vec<Program<'p>>,
) -> Outcome {
    let mut outcome = Outcome::Done;
    with_rig::<LongMode>(setup, |rig| {
        let root = rig.areas.tables().root();
        for cpu in 1..setup.cpus {
            rig.machine.load_root(cpu, root, 0, false);
        }
        let joins = |_| -> Program<'_> { Box::new(|| rig.areas.shootdown().join()) };
        let joins = (0..setup.cpus).map(joins).collect();
        let joined = rig.schedule.run(joins, &|| {}, &mut InTurn, &|| 0);
        assert_eq!(joined, Outcome::Done);
        let serve = || rig.areas.shootdown().serve();
        outcome = rig.schedule.run(programs(rig), &serve, decide, &|| 0);
    });
    outcome
}

fn run(omitted: Option<Rule>, mut numbers: Random, decide: &mut dyn Decide) -> Outcome {
    let setup = Setup {
        cpus: CPUS,
        bound: 600,
        omitted,
        ..Setup::new()
    };
    run_programs(setup, decide, |rig| {
        let program = |_| -> Program<'_> {
            let rounds: Vec<u64> = (0..4).map(|_| numbers.next()).collect();
            Box::new(move || rounds.into_iter().for_each(|number| one_round(rig, number)))
        };
        (0..CPUS).map(program).collect()
    })
}

/// One CPU runs out of frames again and again, while another takes in whatever is mapped at that moment.
fn run_out(mut numbers: Random, decide: &mut dyn Decide) -> Outcome {
    let setup = Setup {
        cpus: 2,
        pauses: true,
        ..Setup::new()
    };
    run_programs(setup, decide, |rig| {
        let budgets: Vec<usize> = (0..3).map(|_| 100 + numbers.below(180)).collect();
        let fails: Program<'_> = Box::new(move || {
            for budget in budgets {
                rig.frames.frames.set_budget(Some(budget));
                let made = rig.areas.allocate(&AreaRequest::new(300 * K4));
                rig.frames.frames.set_budget(None);
                assert!(made.is_err(), "300 pages of {budget} frames");
                check(rig);
            }
        });
        let looks: Program<'_> = Box::new(|| {
            for _ in 0..20 {
                for page in (0..300).step_by(37) {
                    let page = AREA.start().checked_add(page * K4).expect("inside");
                    rig.machine.speculate_at(page);
                }
                rig.schedule.pause();
            }
        });
        vec![fails, looks]
    })
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

#[test]
fn what_was_mapped_of_a_failure_is_flushed_before_it_is_reused() {
    let explored = random(0..40, |numbers, decide| run_out(numbers, decide));
    assert_eq!(explored.expect("all is flushed").runs, 40);
}
