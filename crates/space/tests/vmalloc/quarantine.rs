//! How much waits for a purge at most.

use kspace::vmalloc::AreaRequest;
use kspace_sim::explore::Decide;
use kspace_sim::{Outcome, Program};

use crate::rig::{CPUS, K4, Rig, Setup, with_rig};

const ROUNDS: u64 = 400;

/// The first that can go on.
struct InTurn;

impl Decide for InTurn {
    fn decide(&mut self, _: usize, _: &dyn Fn() -> u64) -> Option<usize> {
        Some(0)
    }
}

/// Runs `program` on one CPU after the other, the rest being idle.
fn in_turn(rig: &Rig<'_, '_>, program: impl Fn()) {
    for turn in 0..rig.setup.cpus {
        let programs = (0..rig.setup.cpus).map(|cpu| -> Program<'_> {
            if cpu == turn {
                Box::new(&program)
            } else {
                Box::new(|| {})
            }
        });
        run(rig, programs.collect());
    }
}

fn run(rig: &Rig<'_, '_>, programs: Vec<Program<'_>>) {
    let serve = || rig.areas.shootdown().serve();
    let outcome = rig.schedule.run(programs, &serve, &mut InTurn, &|| 0);
    assert_eq!(outcome, Outcome::Done);
}

#[test]
fn what_waits_is_the_bound_and_what_cpus_have_not_told_a_quarter_of_it() {
    for (cpus, bound) in [
        (1, 1),
        (1, 80),
        (2, 80),
        (CPUS, 80),
        (CPUS, 1000),
        (1, 1000),
    ] {
        let setup = Setup {
            cpus,
            bound,
            ..Setup::new()
        };
        with_rig(setup, |rig| {
            for cpu in 1..cpus {
                let root = rig.areas.tables().root();
                rig.machine.load_root(cpu, root, 0, false);
            }
            if cpus > 1 {
                let join = |_| -> Program<'_> { Box::new(|| rig.areas.shootdown().join()) };
                run(rig, (0..cpus).map(join).collect());
            }
            in_turn(rig, || {
                for _ in 0..ROUNDS {
                    let area = rig.areas.allocate(&AreaRequest::new(K4)).expect("room");
                    // SAFETY: it is not used.
                    unsafe { rig.areas.free(area.start()) }.expect("it is live");
                    let waits = rig.areas.totals().lazy_pages;
                    assert!(
                        waits <= bound + bound / 4,
                        "{waits} of {bound}, {cpus} CPUs"
                    );
                }
            });
            // And none sooner than it must.
            let purges = rig.areas.totals().purges;
            assert!(purges <= cpus as u64 * ROUNDS / bound, "{purges} purges");
        });
    }
}
