//! User spaces, each with a protocol of its own, beside the kernel's: CPUs come and go, with PCIDs and without, and wait in one
//! protocol for CPUs that wait in another.

use std::cell::Cell;
use std::ops::Range;

use kspace::platform::TlbFeatures;
use kspace::shootdown::{Load, Rule, Scope, Shootdown};
use kspace_layout::{PageSize, PagingMode, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{
    Controls, Editor, FrameSource, Intent, Limits, LongMode, Operation, PhysMemory, Protection,
    RawEntry,
};
use kspace_sim::explore::{Decide, Explored, Failure, Random, random};
use kspace_sim::{Outcome, Program, Schedule, SimFrames, SimMachine, SimMemory, SimPlatform, Use};

use crate::world::{K4, RAM, memory, must};

const CPUS: usize = 3;
const SPACES: usize = 2;
const MODE: PagingMode = PagingMode::FourLevel;
const PAGE: Protection = Protection {
    user: true,
    global: false,
    ..Protection::KERNEL_DATA
};

/// What one CPU does.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// Runs the other space.
    Switch,
    /// Maps a page in the space that it runs, uses it, unmaps it, flushes, and frees the frame.
    Unmap,
    /// The same, table and all.
    Purge,
    /// Unmaps a page of the space that it does not run, as memory reclaim does.
    UnmapElsewhere,
    /// Maps a page of the kernel's half, unmaps it, and flushes it everywhere.
    UnmapKernel,
    /// Runs a kernel thread in the space for a while, and touches none of its pages.
    Borrow,
}

const CHOICE: [Op; 7] = [
    Op::Switch,
    Op::Switch,
    Op::Unmap,
    Op::Purge,
    Op::UnmapElsewhere,
    Op::UnmapKernel,
    Op::Borrow,
];

/// Where the kernel's half begins, as far as it is used here.
const KERNEL: u64 = 0xffff_c900_0000_0000;

/// A page of the kernel's half, one for each CPU.
fn kernel_page(cpu: usize) -> VirtRange {
    VirtRange::new(VirtAddr::new(KERNEL + cpu as u64 * K4), K4)
}

/// Fills the kernel's root entry, and copies it to every root.
fn share_kernel_half(
    editor: &Editor<'_, LongMode, SimMemory, SimFrames<'_>>,
    memory: &SimMemory,
    roots: [PhysAddr; SPACES],
) {
    let filled = editor.populate(kernel_page(0)).expect("there is room");
    assert_eq!(filled.invalidation(), None);
    let index = MODE.index(VirtAddr::new(KERNEL), MODE.levels()) as usize;
    let entries = roots.map(|root| &memory.entries::<u64>(root, 512).expect("a table")[index]);
    for entry in &entries[1..] {
        u64::store(entry, u64::load(entries[0]));
    }
}

struct Space<'r> {
    editor: Editor<'r, LongMode, SimMemory, SimFrames<'r>>,
    shootdown: Shootdown<SimPlatform<'r>, CPUS, 8, SimPlatform<'r>>,
    context: u16,
}

struct World<'r> {
    memory: &'r SimMemory,
    frames: &'r SimFrames<'r>,
    schedule: &'r Schedule,
    machine: &'r SimMachine<'r>,
    spaces: Vec<Space<'r>>,
    kernel: Space<'r>,
    /// Which space each CPU runs.
    runs: [Cell<usize>; CPUS],
}

/// Random programs in random schedules, with PCIDs in every second one.
pub fn random_runs(omitted: Option<Rule>, seeds: Range<u64>) -> Result<Explored, Failure> {
    let memory = memory();
    random(seeds, |mut numbers, decide| {
        let mut features = TlbFeatures::plain(MODE).with_global_pages();
        if numbers.below(4) > 0 {
            features = features.with_contexts();
        }
        run(features, omitted, &memory, numbers, decide)
    })
}

fn run(
    features: TlbFeatures,
    omitted: Option<Rule>,
    memory: &SimMemory,
    mut numbers: Random,
    decide: &mut dyn Decide,
) -> Outcome {
    let frames = SimFrames::new(memory, RAM);
    let limits = Limits::WIDEST;
    let roots = [(); SPACES].map(|()| frames.allocate().expect("there is room"));
    let machine = SimMachine::new(memory, &frames, MODE, limits, roots[0], CPUS);
    let machine = machine.with_features(features);
    // Each comes to its first space by switching to it.
    for cpu in 0..CPUS {
        machine.set_use(cpu, Use::Nothing);
    }
    let schedule = Schedule::new(CPUS);
    let platform = SimPlatform::new(&schedule, &machine).omitting(omitted);
    // SAFETY: the memory is simulated, and each CPU edits its own pages.
    let editor = |root| unsafe { Editor::new(MODE, root, limits, memory, &frames) };
    let space = |root, scope, context: u16| Space {
        editor: editor(root).expect("a root"),
        shootdown: Shootdown::probed(platform, platform).with_scope(scope),
        context: if features.contexts { context } else { 0 },
    };
    let kernel = space(roots[0], Scope::Shared, 0);
    share_kernel_half(&kernel.editor, memory, roots);
    let world = World {
        memory,
        frames: &frames,
        schedule: &schedule,
        machine: &machine,
        spaces: vec![
            space(roots[0], Scope::Own, 1),
            space(roots[1], Scope::Own, 2),
        ],
        kernel,
        runs: Default::default(),
    };
    let programs = (0..CPUS)
        .map(|_| -> Program<'_> {
            let mut operation = || (CHOICE[numbers.below(CHOICE.len())], numbers.below(2) == 0);
            let operations: Vec<(Op, bool)> = (0..6).map(|_| operation()).collect();
            let (world, schedule) = (&world, &schedule);
            Box::new(move || {
                world.switch_in(0);
                world.kernel.shootdown.join();
                for (operation, quietly) in operations {
                    schedule.set_interrupts(!quietly);
                    world.perform(operation);
                    schedule.set_interrupts(true);
                }
            })
        })
        .collect();
    let serve = || {
        for space in world.spaces.iter().chain([&world.kernel]) {
            space.shootdown.serve();
        }
    };
    schedule.run(programs, &serve, decide, &|| 0)
}

impl World<'_> {
    fn perform(&self, operation: Op) {
        let me = self.schedule.running();
        let here = self.runs[me].get();
        let space = &self.spaces[here];
        match operation {
            Op::Switch => self.switch(here, 1 - here),
            Op::Unmap => self.unmap(space, self.page(me, 0), true),
            Op::Purge => self.purge(space),
            Op::UnmapElsewhere => self.unmap(&self.spaces[1 - here], self.page(me, 1), false),
            Op::UnmapKernel => self.unmap(&self.kernel, kernel_page(me), true),
            Op::Borrow => {
                self.machine.set_use(me, Use::WalksOnly);
                space.shootdown.enter_lazy();
                self.schedule.pause();
                space.shootdown.leave_lazy();
                self.machine.set_use(me, Use::Everything);
                must(self.machine.check());
            }
        }
    }

    /// A page of one CPU: in another table for each, so that tables can come and go.
    fn page(&self, cpu: usize, index: u64) -> VirtRange {
        VirtRange::new(VirtAddr::new(((cpu as u64 + 1) << 30) + index * K4), K4)
    }

    fn switch(&self, from: usize, to: usize) {
        let taken = self.schedule.takes_interrupts();
        self.schedule.set_interrupts(false);
        self.switch_in(to);
        self.spaces[from]
            .shootdown
            .switch_out(self.machine.features().contexts);
        self.schedule.set_interrupts(taken);
        self.schedule.pause();
        must(self.machine.check());
    }

    fn switch_in(&self, to: usize) {
        let me = self.schedule.running();
        let space = &self.spaces[to];
        // While it loads the root, a CPU uses nothing of the space.
        self.machine.set_use(me, Use::Nothing);
        space.shootdown.switch_in(|load| {
            let keep = load == Load::Keep && self.machine.features().contexts;
            let root = space.editor.root();
            self.machine.load_root(me, root, space.context, keep);
        });
        self.runs[me].set(to);
        self.machine.set_use(me, Use::Everything);
        must(self.machine.check());
    }

    fn map(&self, space: &Space<'_>, page: VirtRange) -> PhysAddr {
        let frame = self.frames.allocate().expect("there is room");
        self.schedule.note(&frame);
        let protection = if page.start().as_u64() < KERNEL {
            PAGE
        } else {
            Protection::KERNEL_DATA
        };
        let mapped = space.editor.map(page, frame, protection, PageSize::Size4K);
        mapped.expect("the page is free");
        self.schedule.pause();
        self.everybody_looks();
        frame
    }

    fn unmap(&self, space: &Space<'_>, page: VirtRange, here: bool) {
        let frame = self.map(space, page);
        if here {
            let intent = Intent::kernel(Operation::Write);
            let me = self.schedule.running();
            let access = self
                .machine
                .access(me, page.start(), intent, Controls::NONE);
            for possible in must(access).pages {
                assert_eq!(
                    possible.translate(page.start()),
                    frame,
                    "{page} leads elsewhere"
                );
            }
        }
        let token = space.editor.unmap(page).expect("it is mapped").with(frame);
        let frame = token.flush(&space.shootdown, self.memory, self.frames);
        self.frames.release(frame);
        must(self.machine.check());
    }

    fn purge(&self, space: &Space<'_>) {
        let page = self.page(self.schedule.running(), 0);
        let frame = self.map(space, page);
        let mut token = space.editor.unmap(page).expect("it is mapped");
        let table = VirtRange::new(page.start(), 2 << 20);
        let purged = space.editor.purge(table).expect("it is a range");
        token.absorb(purged, self.memory);
        token.flush(&space.shootdown, self.memory, self.frames);
        self.frames.release(frame);
        must(self.machine.check());
    }

    /// Every CPU takes in all that its own space has.
    fn everybody_looks(&self) {
        for cpu in 0..CPUS {
            for index in 0..2 {
                self.machine.speculate_at(self.page(cpu, index).start());
            }
            self.machine.speculate_at(kernel_page(cpu).start());
        }
    }
}

#[test]
fn cpus_that_come_and_go_never_reach_what_was_freed() {
    random_runs(None, 0..400).unwrap_or_else(|failure| panic!("{failure}"));
}
