//! A flush for every free: when it returns, no CPU has a translation of the area any more.

use kspace::vmalloc::{AreaRequest, Debug};
use kspace_layout::{VirtAddr, VirtRange};
use kspace_paging::{Controls, Intent, LongMode, Operation};
use kspace_sim::explore::{Decide, Random, random};
use kspace_sim::{Outcome, Program};

use crate::simulated::{K4, Rig, Setup, pages, with_rig};

const CPUS: usize = 3;

const FLUSHING: Debug = Debug {
    flush: true,
    ..Debug::OFF
};

/// Whether some CPU may still reach a page, by any translation that it may have kept.
fn is_reached(rig: &Rig<'_, '_, LongMode>, address: VirtAddr) -> bool {
    let intent = Intent::kernel(Operation::Read);
    (0..rig.setup.cpus).any(|cpu| {
        let seen = rig.machine.access(cpu, address, intent, Controls::KERNEL);
        let seen = seen.unwrap_or_else(|violation| panic!("{violation}"));
        !seen.pages.is_empty()
    })
}

fn everybody_looks(rig: &Rig<'_, '_, LongMode>, range: VirtRange) {
    pages(range).for_each(|page| rig.machine.speculate_at(page));
}

/// Makes areas of any size, looks at them from all CPUs, frees them. How many pages were reached after their free.
fn rounds(rig: &Rig<'_, '_, LongMode>, numbers: &[u64]) -> usize {
    let mut reached = 0;
    for number in numbers {
        let count = if number % 4 == 0 {
            256 + number % 40
        } else {
            1 + number % 30
        };
        let range = rig
            .areas
            .allocate(&AreaRequest::new(count * K4))
            .expect("room");
        everybody_looks(rig, range);
        // SAFETY: the area is not used.
        unsafe { rig.areas.free(range.start()) }.expect("it is there");
        reached += pages(range).filter(|page| is_reached(rig, *page)).count();
    }
    reached
}

/// Always the first that can go on.
struct InTurn;

impl Decide for InTurn {
    fn decide(&mut self, _: usize, _: &dyn Fn() -> u64) -> Option<usize> {
        Some(0)
    }
}

fn run(debug: Debug, mut numbers: Random, decide: &mut dyn Decide) -> Outcome {
    let setup = Setup {
        cpus: CPUS,
        debug,
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
        let lists: Vec<Vec<u64>> = (0..CPUS)
            .map(|_| (0..4).map(|_| numbers.next()).collect())
            .collect();
        let programs = lists
            .iter()
            .map(|list| -> Program<'_> {
                Box::new(|| {
                    assert_eq!(rounds(rig, list), 0, "pages are reached after their free");
                })
            })
            .collect();
        outcome = rig.schedule.run(programs, &serve, decide, &|| 0);
    });
    outcome
}

#[test]
fn nothing_is_stale_on_any_cpu_when_a_free_returns() {
    let explored = random(0..30, |numbers, decide| run(FLUSHING, numbers, decide));
    assert_eq!(explored.expect("all is flushed").runs, 30);
}

/// Without the mode it would be seen.
#[test]
fn without_the_mode_translations_stay() {
    with_rig::<LongMode>(Setup::new(), |rig| {
        assert!(rounds(rig, &[1, 2, 3, 4]) > 20);
    });
    let setup = Setup {
        debug: FLUSHING,
        ..Setup::new()
    };
    with_rig::<LongMode>(setup, |rig| {
        assert_eq!(rounds(rig, &[1, 2, 3, 4]), 0);
        assert_eq!(rig.areas.totals().lazy_pages, 0);
    });
}
