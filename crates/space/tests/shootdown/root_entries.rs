//! PAE's root entries are read when CR3 is written, and at no other time.

use std::ops::Range;

use kspace::platform::TlbFeatures;
use kspace::shootdown::{Rule, Shootdown};
use kspace_layout::{PageSize, PagingMode, VirtAddr, VirtRange};
use kspace_paging::{Controls, Editor, FrameSource, Intent, Limits, Operation, Pae, Protection};
use kspace_sim::explore::{Explored, Failure, random};
use kspace_sim::{Program, Schedule, SimFrames, SimMachine, SimPlatform};

use crate::world::{K4, RAM, memory, must};

/// Two CPUs, of which each fills a root entry of its own, maps a page under it, and has the other read it.
pub fn random_runs(omitted: Option<Rule>, seeds: Range<u64>) -> Result<Explored, Failure> {
    let mode = PagingMode::Pae;
    let memory = memory();
    random(seeds, |_, decide| {
        let frames = SimFrames::new(&memory, RAM);
        let root = frames.allocate().expect("there is room");
        let features = TlbFeatures::plain(mode).with_global_pages();
        let machine = SimMachine::new(&memory, &frames, mode, Limits::WIDEST, root, 2);
        let machine = machine.with_features(features);
        // SAFETY: the memory is simulated, and each CPU edits below its own root entry.
        let editor =
            unsafe { Editor::<Pae, _, _>::new(mode, root, Limits::WIDEST, &memory, &frames) };
        let editor = editor.expect("the root suits the mode");
        let schedule = Schedule::new(2);
        let platform = SimPlatform::new(&schedule, &machine).omitting(omitted);
        let shootdown = Shootdown::<_, 2, 8, _>::probed(platform, platform);
        let program = |cpu: u64| -> Program<'_> {
            let (shootdown, schedule, machine) = (&shootdown, &schedule, &machine);
            let (editor, frames, memory) = (&editor, &frames, &memory);
            Box::new(move || {
                shootdown.join();
                schedule.pause();
                let page = VirtRange::new(VirtAddr::new(cpu << 30), K4);
                let token = editor.populate(page).expect("there is room");
                token.flush(shootdown, memory, frames);
                let frame = frames.allocate().expect("there is room");
                let mapped = editor.map(page, frame, Protection::KERNEL_DATA, PageSize::Size4K);
                mapped.expect("the page is free");
                for cpu in 0..2 {
                    // A CPU that has not joined yet flushes before it uses anything.
                    let joined = kspace::platform::CpuId::new(cpu);
                    if shootdown.holding(joined) != kspace::shootdown::Holding::Active
                        || shootdown.seen(joined) < shootdown.generation()
                    {
                        continue;
                    }
                    let intent = Intent::kernel(Operation::Read);
                    let seen = must(machine.access(cpu, page.start(), intent, Controls::KERNEL));
                    assert!(!seen.pages.is_empty(), "{page} is mapped and not there");
                }
            })
        };
        let programs = vec![program(1), program(2)];
        schedule.run(programs, &|| shootdown.serve(), decide, &|| 0)
    })
}

#[test]
fn filled_root_entries_are_there_for_every_cpu() {
    random_runs(None, 0..200).unwrap_or_else(|failure| panic!("{failure}"));
}
