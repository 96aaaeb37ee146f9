//! Several CPUs that change neighbours in one large page, under any schedule, with TLBs that forget nothing by themselves.

use kspace::permissions::Change;
use kspace::shootdown::Rule;
use kspace_layout::{PageSize, VirtRange};
use kspace_paging::{Access, CacheType, Controls, Intent, Operation};
use kspace_sim::explore::{Decide, Random, random};
use kspace_sim::{Outcome, Program};

use crate::kernel::{Machine, with_kernel};
use crate::simulated::Setup;

const CPUS: usize = 3;

/// Always the first that can go on.
struct InTurn;

impl Decide for InTurn {
    fn decide(&mut self, _: usize, _: &dyn Fn() -> u64) -> Option<usize> {
        Some(0)
    }
}

/// What any CPU may do at a page when a change of it has returned.
fn check(
    machine: &Machine<'_, '_, '_>,
    range: VirtRange,
    allowed: &dyn Fn(bool, CacheType) -> bool,
) {
    let cpu = machine.rig.schedule.running();
    let intent = Intent::kernel(Operation::Read);
    for other in 0..CPUS {
        let seen = machine
            .rig
            .machine
            .access(other, range.start(), intent, Controls::KERNEL);
        let seen = seen.unwrap_or_else(|violation| panic!("{violation}"));
        for page in seen.pages {
            let attributes = page.attributes;
            assert!(
                allowed(attributes.write, attributes.cache),
                "after CPU {cpu}'s change CPU {other} has a stale frame at {}: {attributes}",
                range.start()
            );
        }
    }
}

/// Changes a page of its own back and forth.
fn one_round(machine: &Machine<'_, '_, '_>, range: VirtRange, number: u64) {
    machine.rig.machine.speculate_at(range.start());
    match number % 3 {
        0 => {
            machine.set(range, Change::ReadOnly).expect("frames");
            check(machine, range, &|write, _| !write);
            machine.set(range, Change::Writable).expect("frames");
        }
        1 => {
            machine.set(range, Change::NonPresent).expect("frames");
            check(machine, range, &|_, _| false);
            machine.set(range, Change::Present).expect("frames");
        }
        _ => {
            machine.set(range, Change::Uncached).expect("frames");
            check(machine, range, &|_, cache| {
                cache == CacheType::UncachedMinus
            });
            machine.set(range, Change::WriteBack).expect("frames");
        }
    }
    check(machine, range, &|write, cache| {
        write && cache == CacheType::WriteBack
    });
}

fn run(omitted: Option<Rule>, mut numbers: Random, decide: &mut dyn Decide) -> Outcome {
    let setup = Setup {
        cpus: CPUS,
        pauses: omitted.is_none(),
        omitted,
        ..Setup::new()
    };
    let mut outcome = Outcome::Done;
    with_kernel(setup, |machine| {
        let rig = machine.rig;
        let joins = |_| -> Program<'_> { Box::new(|| rig.areas.shootdown().join()) };
        let joined = rig
            .schedule
            .run((0..CPUS).map(joins).collect(), &|| {}, &mut InTurn, &|| 0);
        assert_eq!(joined, Outcome::Done);
        let program = |cpu: usize| -> Program<'_> {
            let rounds: Vec<u64> = (0..2).map(|_| numbers.next()).collect();
            // Neighbours, in the same large page.
            let range = machine.large(cpu as u64 * 4096, 1);
            Box::new(move || {
                for number in rounds {
                    one_round(machine, range, number);
                }
            })
        };
        let programs = (0..CPUS).map(program).collect();
        outcome = rig
            .schedule
            .run(programs, &|| rig.areas.shootdown().serve(), decide, &|| 0);
        if outcome == Outcome::Done {
            rig.machine
                .check()
                .unwrap_or_else(|violation| panic!("{violation}"));
            let first = machine.large(0, 1).start();
            assert_eq!(machine.page(first).access, Access::ReadWrite);
            assert_eq!(machine.size(first), PageSize::Size1G);
            assert_eq!(machine.permissions.in_books(), (0, 0));
        }
    });
    outcome
}

#[test]
fn neighbours_in_one_large_page_do_not_disturb_each_other() {
    let explored = random(0..20, |numbers, decide| run(None, numbers, decide));
    assert_eq!(explored.expect("all is flushed").runs, 20);
}

/// Without its flushes, the same is found to be wrong.
#[test]
fn a_flush_left_out_is_found() {
    for rule in [Rule::Here, Rule::Wait] {
        let explored = random(0..40, |numbers, decide| run(Some(rule), numbers, decide));
        let failure = explored.expect_err("a flush is missing");
        let told = failure.message.contains("stale frame")
            || failure.message.contains("caches again")
            || failure.message.contains("a flush is missing");
        assert!(told, "{rule:?}: {failure}");
    }
}
