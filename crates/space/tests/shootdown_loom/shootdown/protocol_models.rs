//! Posting, serving, going lazy, joining, and falling behind, each with all that it needs, and with one thing less.

use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

use super::Rule;
use super::machine::{Machine, Omission, Platform, Protocol, forget};

/// Preemptions that are tried; what is wrong shows with fewer.
const PREEMPTIONS: usize = 3;

/// A thread of a model: one CPU from beginning to end.
type Part<const SLOTS: usize> = fn(&Machine, &Protocol<SLOTS>);

/// Tries every interleaving of these CPUs. Loom begins with running its main thread as far as it goes, and reverses from there what it
/// sees to conflict; what it overlooks from one beginning shows from another, so each CPU is the main thread once.
fn model<const SLOTS: usize>(
    preemptions: usize,
    omitted: Option<Rule>,
    prepare: Part<SLOTS>,
    parts: &'static [Part<SLOTS>],
) {
    for main in 0..parts.len() {
        let mut builder = Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.max_branches = 10_000;
        builder.check(move || {
            let machine = Machine::new();
            let platform = Platform(machine.clone());
            let protocol = Arc::new(Protocol::<SLOTS>::probed(platform, Omission(omitted)));
            prepare(&machine, &protocol);
            let others: Vec<_> = (0..parts.len())
                .filter(|&cpu| cpu != main)
                .map(|cpu| {
                    let (machine, protocol) = (machine.clone(), protocol.clone());
                    thread::spawn(move || {
                        machine.be(cpu);
                        parts[cpu](&machine, &protocol);
                    })
                })
                .collect();
            machine.be(main);
            parts[main](&machine, &protocol);
            for other in others {
                other.join().expect("a CPU panicked");
            }
        });
    }
}

/// Whether loom finds something wrong with a model.
fn fails(model: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    std::panic::catch_unwind(model).is_err()
}

/// The first `cpus` CPUs have joined, and still hold every translation: as if they had taken them in again.
fn joined<const SLOTS: usize>(machine: &Machine, protocol: &Protocol<SLOTS>, cpus: usize) {
    for cpu in 0..cpus {
        machine.be(cpu);
        protocol.join();
        machine.read(0);
        machine.read(1);
    }
}

fn unmap_and_reuse<const SLOTS: usize>(machine: &Machine, protocol: &Protocol<SLOTS>, page: usize) {
    machine.unmap(page);
    protocol.invalidate(&forget(page));
    machine.reuse(page);
}

/// CPU 0 unmaps what CPU 1 reads.
fn post_and_serve(omitted: Option<Rule>) {
    model::<2>(
        PREEMPTIONS,
        omitted,
        |machine, protocol| joined(machine, protocol, 2),
        &[
            |machine, protocol| unmap_and_reuse(machine, protocol, 0),
            |machine, protocol| {
                machine.read(0);
                protocol.serve();
                machine.read(0);
                protocol.leave();
            },
        ],
    );
}

/// CPU 0 unmaps what CPU 1 reads before it leaves.
fn leaving(omitted: Option<Rule>) {
    model::<2>(
        PREEMPTIONS,
        omitted,
        |machine, protocol| joined(machine, protocol, 2),
        &[
            |machine, protocol| unmap_and_reuse(machine, protocol, 0),
            |machine, protocol| {
                machine.read(0);
                protocol.leave();
            },
        ],
    );
}

/// CPU 0 unmaps what CPU 1, going lazy and coming back, reads.
fn lazy(omitted: Option<Rule>) {
    model::<2>(
        PREEMPTIONS,
        omitted,
        |machine, protocol| joined(machine, protocol, 2),
        &[
            |machine, protocol| unmap_and_reuse(machine, protocol, 0),
            |machine, protocol| {
                machine.read(0);
                protocol.enter_lazy();
                protocol.leave_lazy();
                machine.read(0);
                protocol.leave();
            },
        ],
    );
}

/// CPU 0 unmaps what CPU 1, joining with a TLB full of what it once held, reads.
fn joining(omitted: Option<Rule>) {
    model::<2>(
        PREEMPTIONS,
        omitted,
        |machine, protocol| joined(machine, protocol, 1),
        &[
            |machine, protocol| unmap_and_reuse(machine, protocol, 0),
            |machine, protocol| {
                protocol.join();
                machine.read(0);
                protocol.leave();
            },
        ],
    );
}

/// CPU 0 unmaps two pages, and has one slot for both; CPU 1, which was lazy, reads both.
fn falling_behind(omitted: Option<Rule>) {
    model::<1>(
        PREEMPTIONS,
        omitted,
        |machine, protocol| joined(machine, protocol, 2),
        &[
            |machine, protocol| {
                unmap_and_reuse(machine, protocol, 0);
                unmap_and_reuse(machine, protocol, 1);
            },
            |machine, protocol| {
                protocol.enter_lazy();
                protocol.leave_lazy();
                machine.read(0);
                machine.read(1);
                protocol.leave();
            },
        ],
    );
}

/// Two CPUs unmap, and have one slot for both; one reads what the other has unmapped.
fn overwriting(omitted: Option<Rule>) {
    model::<1>(
        2,
        omitted,
        |machine, protocol| joined(machine, protocol, 2),
        &[
            |machine, protocol| {
                unmap_and_reuse(machine, protocol, 0);
                machine.read(1);
                protocol.leave();
            },
            |machine, protocol| {
                unmap_and_reuse(machine, protocol, 1);
                protocol.leave();
            },
        ],
    );
}

#[test]
fn who_serves_reads_nothing_that_is_reused() {
    post_and_serve(None);
    assert!(fails(|| post_and_serve(Some(Rule::Wait))));
}

#[test]
fn who_leaves_has_read_nothing_that_is_reused() {
    leaving(None);
    assert!(fails(|| leaving(Some(Rule::Wait))));
}

#[test]
fn who_was_lazy_reads_nothing_that_is_reused() {
    lazy(None);
    assert!(fails(|| lazy(Some(Rule::CatchUp))));
}

#[test]
fn lazy_cpus_need_both_fences() {
    assert!(fails(|| lazy(Some(Rule::FenceAfterTaking))));
    assert!(fails(|| lazy(Some(Rule::FenceAfterActive))));
}

#[test]
fn who_joins_reads_nothing_that_is_reused() {
    joining(None);
    assert!(fails(|| joining(Some(Rule::JoinForgets))));
}

#[test]
fn joining_needs_both_fences() {
    assert!(fails(|| joining(Some(Rule::FenceAfterTaking))));
    assert!(fails(|| joining(Some(Rule::FenceAfterActive))));
}

#[test]
fn who_falls_behind_reads_nothing_that_is_reused() {
    falling_behind(None);
    assert!(fails(|| falling_behind(Some(Rule::Unfound))));
}

#[test]
fn two_posters_of_one_slot_read_nothing_that_is_reused() {
    overwriting(None);
    assert!(fails(|| overwriting(Some(Rule::Unfound))));
}
