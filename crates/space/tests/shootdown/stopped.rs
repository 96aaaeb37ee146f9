//! A CPU that stops for good, as in a panic, is waited for until somebody says so.

use std::cell::Cell;
use std::ops::Range;

use kspace::platform::{CpuId, TlbFeatures};
use kspace::shootdown::{Rule, Shootdown};
use kspace_layout::{PagingMode, VirtAddr, VirtRange};
use kspace_paging::{FrameSource, Invalidation, Limits, PhysMemory, RawEntry, Stale};
use kspace_sim::explore::{Explored, Failure, random};
use kspace_sim::{Program, Schedule, SimFrames, SimMachine, SimPlatform};

use crate::world::{K4, RAM, memory};

/// CPU 0 flushes, CPU 1 stops somewhere, CPU 2 says that it has.
pub fn random_runs(omitted: Option<Rule>, seeds: Range<u64>) -> Result<Explored, Failure> {
    let mode = PagingMode::FourLevel;
    let memory = memory();
    let page = Invalidation::Range(Stale {
        range: VirtRange::new(VirtAddr::new(0xffff_c900_0000_0000), K4),
        page: kspace_layout::PageSize::Size4K,
        global: true,
        tables: true,
        root: false,
    });
    random(seeds, |_, decide| {
        let frames = SimFrames::new(&memory, RAM);
        let root = frames.allocate().expect("there is room");
        let empty = memory.entries::<u64>(root, 512).expect("it is there");
        assert!(empty.iter().all(|slot| u64::load(slot) == 0));
        let machine = SimMachine::new(&memory, &frames, mode, Limits::WIDEST, root, 3)
            .with_features(TlbFeatures::plain(mode).with_global_pages());
        let schedule = Schedule::new(3);
        let platform = SimPlatform::new(&schedule, &machine).omitting(omitted);
        let shootdown = Shootdown::<_, 3, 8, _>::probed(platform, platform);
        let (shootdown, schedule) = (&shootdown, &schedule);
        let stopped = Cell::new(false);
        let programs: Vec<Program<'_>> = vec![
            Box::new(|| {
                shootdown.join();
                schedule.pause();
                shootdown.invalidate(&page);
            }),
            Box::new(|| {
                shootdown.join();
                schedule.pause();
                schedule.set_interrupts(false);
                stopped.set(true);
                schedule.stop();
            }),
            Box::new(|| {
                shootdown.join();
                while !stopped.get() {
                    schedule.look();
                    schedule.relax();
                }
                shootdown.gone(CpuId::new(1));
            }),
        ];
        schedule.run(programs, &|| shootdown.serve(), decide, &|| 0)
    })
}

#[test]
fn nobody_waits_for_a_cpu_that_is_gone() {
    random_runs(None, 0..200).unwrap_or_else(|failure| panic!("{failure}"));
}
