//! Two CPUs in every schedule, eight in random ones.

use kspace_sim::Grain;
use kspace_sim::explore::{Explored, exhaustive};

use crate::suite::{EVERY_OPERATION, random_runs};
use crate::world::{Op, Setup, memory, run};

/// What the exhaustive search combines.
const CHOICE: [Op; 4] = [Op::Unmap, Op::Purge, Op::Idle, Op::Absent];

const COARSE: Setup = Setup {
    grain: Grain::Coarse,
    ..Setup::new(2)
};

fn every_schedule(setup: Setup, first: &[Op], second: &[Op]) -> Explored {
    let memory = memory();
    let programs = [first.to_vec(), second.to_vec()];
    exhaustive(|decide| run::<64>(setup, &memory, &programs, decide))
        .unwrap_or_else(|failure| panic!("{first:?} beside {second:?}: {failure}"))
}

/// Every program that begins with `first`: two operations beside one, and three beside none.
fn every_program_from(first: Op) {
    let mut all = Explored::default();
    for second in CHOICE {
        for third in CHOICE {
            for (one, other) in [
                (vec![first, second], vec![third]),
                (vec![first, second, third], vec![]),
            ] {
                let explored = every_schedule(COARSE, &one, &other);
                all.runs += explored.runs;
                all.states += explored.states;
            }
        }
    }
    println!("{first:?} first: {all:?}");
}

#[test]
fn two_cpus_with_every_program_of_three_operations_from_unmap() {
    every_program_from(Op::Unmap);
}

#[test]
fn two_cpus_with_every_program_of_three_operations_from_purge() {
    every_program_from(Op::Purge);
}

#[test]
fn two_cpus_with_every_program_of_three_operations_from_idle() {
    every_program_from(Op::Idle);
}

#[test]
fn two_cpus_with_every_program_of_three_operations_from_absent() {
    every_program_from(Op::Absent);
}

#[test]
fn two_cpus_that_wait_for_each_other_with_interrupts_off() {
    every_schedule(COARSE, &[Op::UnmapQuietly], &[Op::UnmapQuietly]);
    every_schedule(COARSE, &[Op::UnmapQuietly], &[Op::Purge]);
}

#[test]
fn two_cpus_that_stop_at_every_step() {
    let fine = Setup::new(2);
    every_schedule(fine, &[Op::Unmap], &[Op::Idle]);
    every_schedule(fine, &[Op::Purge], &[Op::Absent]);
    every_schedule(fine, &[Op::Protect], &[Op::Touch]);
}

#[test]
fn eight_cpus_at_random() {
    random_runs::<64>(Setup::new(8), &EVERY_OPERATION, 4, 0..150).unwrap();
}
