//! How many CPUs are interrupted for how much, and which are not.

use kspace::platform::{CpuId, CpuMask, TlbFeatures};
use kspace::shootdown::{Holding, Shootdown};
use kspace_layout::{PageSize, PagingMode, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Invalidation, Limits, Stale};
use kspace_sim::explore::random;
use kspace_sim::{Outcome, Program, Schedule, SimFrames, SimMachine, SimPlatform};

use crate::world::{InTurn, K4, RAM, memory};

const CPUS: usize = 4;

type Protocol<'r> = Shootdown<SimPlatform<'r>, CPUS>;

/// Runs `program` on CPU 0, in some schedule, while the others do `others` and then stay idle but not lazy.
fn beside(others: fn(&Protocol<'_>), program: fn(&Protocol<'_>)) {
    let memory = memory();
    let outcome = random(0..20, |_, decide| {
        let frames = SimFrames::new(&memory, RAM);
        let mode = PagingMode::FourLevel;
        let root = PhysAddr::new(RAM.start().as_u64());
        let machine = SimMachine::new(&memory, &frames, mode, Limits::WIDEST, root, CPUS)
            .with_features(TlbFeatures::plain(mode).with_global_pages());
        let schedule = Schedule::new(CPUS);
        let shootdown = Shootdown::new(SimPlatform::new(&schedule, &machine));
        let (shootdown, schedule) = (&shootdown, &schedule);
        let mut programs: Vec<Program<'_>> = vec![Box::new(move || {
            shootdown.join();
            // Until the others are where they are to be.
            while schedule.idle() < CPUS - 1 {
                schedule.look();
                schedule.relax();
            }
            program(shootdown);
        })];
        for _ in 1..CPUS {
            programs.push(Box::new(move || {
                shootdown.join();
                others(shootdown);
            }));
        }
        schedule.run(programs, &|| shootdown.serve(), decide, &|| 0)
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

fn page(index: u64) -> Invalidation {
    Invalidation::Range(Stale {
        range: VirtRange::new(VirtAddr::new(0xffff_c900_0000_0000 + index * K4), K4),
        page: PageSize::Size4K,
        global: true,
        tables: false,
        root: false,
    })
}

fn freed_table() -> Invalidation {
    match page(0) {
        Invalidation::Range(stale) => Invalidation::Range(Stale {
            tables: true,
            ..stale
        }),
        Invalidation::Everything => unreachable!("it is a page"),
    }
}

#[test]
fn each_other_cpu_is_interrupted_once_for_a_flush() {
    beside(
        |_| {},
        |shootdown| {
            shootdown.invalidate(&page(0));
            assert_eq!(shootdown.activity().interrupts, 3);
            assert_eq!(shootdown.activity().flushes, 1);
            assert_eq!(shootdown.activity_of(CpuId::new(3)).pages, 1);
        },
    );
}

#[test]
fn a_batch_is_one_flush() {
    beside(
        |_| {},
        |shootdown| {
            for first in (0..1000).step_by(25) {
                shootdown.invalidate_all((first..first + 25).map(page));
            }
            assert_eq!(shootdown.activity().interrupts, 3 * 40);
            assert_eq!(shootdown.activity().pages, 4 * 1000);
        },
    );
}

#[test]
fn lazy_cpus_are_interrupted_for_tables_only() {
    beside(
        |shootdown| shootdown.enter_lazy(),
        |shootdown| {
            shootdown.invalidate(&page(0));
            assert_eq!(shootdown.activity().interrupts, 0);
            shootdown.invalidate(&freed_table());
            assert_eq!(shootdown.activity().interrupts, 3);
            assert_eq!(shootdown.holding(CpuId::new(1)), Holding::Lazy);
            // It has answered, and caught up with the first on the way.
            assert_eq!(shootdown.seen(CpuId::new(1)), 2);
        },
    );
}

#[test]
fn cpus_that_left_are_left_alone() {
    beside(
        |shootdown| shootdown.leave(),
        |shootdown| {
            assert_eq!(shootdown.holders(), CpuMask::one(CpuId::new(0)));
            shootdown.invalidate(&freed_table());
            assert_eq!(shootdown.activity().interrupts, 0);
            assert_eq!(shootdown.seen(CpuId::new(1)), 0);
        },
    );
}

#[test]
fn a_flush_with_a_lock_held_is_refused_or_reported() {
    let memory = memory();
    let frames = SimFrames::new(&memory, RAM);
    let root = PhysAddr::new(RAM.start().as_u64());
    let mode = PagingMode::FourLevel;
    let machine = SimMachine::new(&memory, &frames, mode, Limits::WIDEST, root, 1);
    let schedule = Schedule::new(1);
    let shootdown = Protocol::new(SimPlatform::new(&schedule, &machine));
    let program: Program<'_> = Box::new(|| {
        shootdown.join();
        schedule.acquire_lock();
        shootdown.invalidate(&page(0));
        schedule.release_lock();
    });
    let outcome = schedule.run(vec![program], &|| {}, &mut InTurn, &|| 0);
    let complaint = "shootdown: CPU 0 waits for a flush in atomic context (a lock held, or in an interrupt handler); \
                     flush after it, or leave the token to a quarantine";
    if cfg!(debug_assertions) {
        assert_eq!(outcome, Outcome::Failed(format!("CPU 0: {complaint}")));
    } else {
        assert_eq!(outcome, Outcome::Done);
        assert_eq!(schedule.complaints(), [complaint]);
        assert_eq!(shootdown.seen(CpuId::new(0)), 1, "it is done all the same");
    }
}
