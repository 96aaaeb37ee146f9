//! Random schedules; and that each step is needed.

use std::ops::Range;

use kspace::platform::TlbFeatures;
use kspace::shootdown::Rule;
use kspace_sim::SimMemory;
use kspace_sim::explore::{Explored, Failure, random};

use crate::world::{Broken, MODE, RAM, run};

const PLAIN: TlbFeatures = TlbFeatures::plain(MODE).with_global_pages();

fn runs(features: TlbFeatures, broken: Broken, seeds: Range<u64>) -> Result<Explored, Failure> {
    let memory = SimMemory::arena(RAM);
    random(seeds, |_, decide| run(&memory, features, broken, decide))
}

#[test]
fn every_cpu_executes_the_old_instruction_or_the_new_one() {
    for features in [PLAIN, PLAIN.with_contexts().with_invpcid()] {
        for two_patchers in [false, true] {
            let broken = Broken {
                two_patchers,
                ..Broken::default()
            };
            let explored = runs(features, broken, 0..300);
            explored.unwrap_or_else(|failure| panic!("{failure}"));
        }
    }
}

/// Leaves something out, and returns how it is noticed.
fn missed(features: TlbFeatures, broken: Broken) -> String {
    let failure = runs(features, broken, 0..400);
    failure
        .expect_err(&format!("{broken:?} is not missed"))
        .message
}

#[test]
fn without_any_of_the_three_steps_it_is_wrong() {
    for step in 0..3 {
        let broken = Broken {
            step: Some(step),
            ..Broken::default()
        };
        let message = missed(PLAIN, broken);
        assert!(
            message.contains("it may execute")
                || message.contains("nobody knows of")
                || message.contains("when it is done, they have"),
            "step {step}: {message}"
        );
    }
}

#[test]
fn lazy_cpus_and_those_to_come_are_waited_for() {
    for rule in [Rule::LazyTables, Rule::Wait, Rule::Interrupt] {
        let broken = Broken {
            rule: Some(rule),
            ..Broken::default()
        };
        missed(PLAIN, broken);
    }
}

#[test]
fn an_alias_that_is_not_forgotten_leads_astray() {
    let broken = Broken {
        alias_stays: true,
        ..Broken::default()
    };
    let message = missed(PLAIN.with_contexts(), broken);
    assert!(message.contains("has kept the alias"), "{message}");
}
