//! Each rule of the protocol is needed: with any one of them left out, the suite fails.
//!
//! The two fences are not among these: the simulated CPUs take turns, and order everything. The models under loom need them.

use kspace::shootdown::Rule;

use crate::suite::suite;

/// Seeds for each part of the suite; the first failure ends it.
const SEEDS: u64 = 400;

/// How the suite notices.
fn symptom(rule: Rule) -> &'static [&'static str] {
    // Somebody waits forever,
    const STUCK: &[&str] = &["deadlock: CPU "];
    // or reaches what was freed or taken away.
    const STALE: &[&str] = &[
        "may still translate",
        "and still there",
        "which is read-only",
    ];
    const STALE_TABLE: &[&str] = &["may still walk"];
    match rule {
        Rule::Interrupt | Rule::Serve | Rule::OnlyForward | Rule::Gone => STUCK,
        Rule::LazyTables | Rule::Expect => STALE_TABLE,
        Rule::Root => &["is mapped and not there"],
        Rule::LastPage
        | Rule::Global
        | Rule::OtherContexts
        | Rule::Here
        | Rule::Wait
        | Rule::ForgetFirst
        | Rule::Unfound
        | Rule::CatchUp
        | Rule::JoinForgets
        | Rule::SwitchIn => STALE,
        Rule::FenceAfterTaking | Rule::FenceAfterActive => &[],
    }
}

#[test]
fn without_any_one_rule_the_suite_fails() {
    let ordering = [Rule::FenceAfterTaking, Rule::FenceAfterActive];
    for rule in Rule::ALL {
        if ordering.contains(&rule) {
            continue;
        }
        let failure = suite(Some(rule), SEEDS).expect_err(&format!("{rule:?} is not missed"));
        println!("{rule:?}: {failure}");
        let mut symptoms = symptom(rule).iter();
        assert!(
            symptoms.any(|symptom| failure.message.contains(symptom)),
            "{rule:?} is missed for another reason: {failure}"
        );
    }
}
