//! A machine whose CPUs map, use, unmap and reuse pages of the kernel's half, and everything that must never be seen there.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};

use kspace::platform::{CpuId, TlbFeatures};
use kspace::shootdown::{Due, Quarantine, Rule, Shootdown};
use kspace_layout::{PageSize, PagingMode, Pfn, PhysAddr, PhysRange, VirtAddr, VirtRange};
use kspace_paging::{
    Controls, Editor, Flush, FrameSource, Intent, Invalidation, Limits, LongMode, Operation,
    Protection,
};
use kspace_sim::explore::{Decide, Random};
use kspace_sim::{
    Grain, Outcome, Program, Schedule, SimFrames, SimMachine, SimMemory, SimPlatform, Use,
    Violation,
};

pub const K4: u64 = 4 << 10;
const M2: u64 = 2 << 20;
/// Frames for tables and pages alike.
pub const RAM: PhysRange = PhysRange::new(PhysAddr::new(16 << 20), 1 << 20);
/// In the middle of nowhere in the vmalloc area.
const BASE: u64 = 0xffff_c900_0000_0000;
/// Each CPU has two large pages' spans: one whose table stays, one whose table comes and goes.
const REGION: u64 = 2 * M2;

/// The pages of each region that are ever mapped, but for the one that keeps the first table.
const USED_PAGES: [u64; 5] = [0, 1, 2, FAR_PAGE, OWN_TABLE_PAGE];
/// A page far from the first ones.
const FAR_PAGE: u64 = 100;
/// Where the pages begin that are each mapped once.
const DEFERRED_PAGES: u64 = 200;
/// The first page of the second table.
const OWN_TABLE_PAGE: u64 = 512;

/// What one CPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Maps a page, uses it, unmaps it, flushes, and frees the frame.
    Unmap,
    /// The same with interrupts off.
    UnmapQuietly,
    /// The same with two pages far apart, and one flush.
    UnmapTwo,
    /// Maps a page, uses it, unmaps it, and leaves flush and frame to a quarantine.
    Defer,
    /// Maps a page and makes it read-only.
    Protect,
    /// Maps a page in a table of its own, unmaps it, takes the table out, flushes, and frees it.
    Purge,
    /// Reads all other CPUs' pages, if they are there.
    Touch,
    /// Goes lazy, comes back, and reads.
    Idle,
    /// Leaves, is started again, joins, and reads.
    Absent,
    /// Keeps interrupts off for a while.
    Quiet,
    /// Loads the other PCID, with what is kept under it.
    Switch,
}

/// What a world is made of.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub cpus: usize,
    pub features: TlbFeatures,
    /// Pages are mapped global.
    pub global: bool,
    pub page_limit: u32,
    /// Where other CPUs come in between.
    pub grain: Grain,
    /// A rule that is broken.
    pub omitted: Option<Rule>,
}

impl Setup {
    pub const fn new(cpus: usize) -> Self {
        Self {
            cpus,
            features: TlbFeatures::plain(PagingMode::FourLevel).with_global_pages(),
            global: true,
            page_limit: 33,
            grain: Grain::Fine,
            omitted: None,
        }
    }
}

type Protocol<'r, const SLOTS: usize> = Shootdown<SimPlatform<'r>, 8, SLOTS, SimPlatform<'r>>;

struct World<'r, const SLOTS: usize> {
    setup: Setup,
    memory: &'r SimMemory,
    frames: &'r SimFrames<'r>,
    schedule: &'r Schedule,
    machine: &'r SimMachine<'r>,
    editor: Editor<'r, LongMode, SimMemory, SimFrames<'r>>,
    shootdown: &'r Protocol<'r, SLOTS>,
    contexts: Vec<Cell<u16>>,
    quarantine: Quarantine<PhysAddr, 3>,
}

/// Memory for any number of runs, one after the other.
pub fn memory() -> SimMemory {
    SimMemory::arena(RAM)
}

/// Runs one program of operations on each CPU.
pub fn run<const SLOTS: usize>(
    setup: Setup,
    memory: &SimMemory,
    operations: &[Vec<Op>],
    decide: &mut dyn Decide,
) -> Outcome {
    let frames = SimFrames::new(memory, RAM);
    let root = frames.allocate().expect("there is room");
    let mode = setup.features.mode;
    let limits = Limits::WIDEST;
    let machine = SimMachine::new(memory, &frames, mode, limits, root, setup.cpus)
        .with_features(setup.features);
    // SAFETY: the memory is simulated, and only the programs below edit these tables, each its own region.
    let editor = unsafe { Editor::new(mode, root, limits, memory, &frames) };
    let schedule = Schedule::new(setup.cpus);
    let platform = SimPlatform::new(&schedule, &machine)
        .omitting(setup.omitted)
        .with_grain(setup.grain);
    let shootdown = Shootdown::probed(platform, platform).with_page_limit(setup.page_limit);
    let world = World::<SLOTS> {
        setup,
        memory,
        frames: &frames,
        schedule: &schedule,
        machine: &machine,
        editor: editor.expect("the root suits the mode"),
        shootdown: &shootdown,
        contexts: (0..setup.cpus).map(|_| Cell::new(0)).collect(),
        quarantine: Quarantine::new(3),
    };
    world.prepare();
    let programs = operations
        .iter()
        .map(|operations| -> Program<'_> {
            Box::new(|| {
                for (round, &operation) in operations.iter().enumerate() {
                    world.perform(operation, round);
                }
            })
        })
        .collect();
    let fingerprint = || world.fingerprint();
    schedule.run(programs, &|| shootdown.serve(), decide, &fingerprint)
}

/// So many operations of `choice` for each CPU, at random.
pub fn any_operations(
    random: &mut Random,
    cpus: usize,
    count: usize,
    choice: &[Op],
) -> Vec<Vec<Op>> {
    let mut one = || choice[random.below(choice.len())];
    (0..cpus)
        .map(|_| (0..count).map(|_| one()).collect())
        .collect()
}

impl<const SLOTS: usize> World<'_, SLOTS> {
    /// All CPUs have joined, and every region has its table.
    fn prepare(&self) {
        for cpu in 0..self.setup.cpus {
            let stays = self.page(cpu, 511);
            // The last page of the first table stays mapped, so that the table does.
            let frame = self.frames.allocate().expect("there is room");
            self.map(stays, frame);
        }
        let joins = |_| -> Program<'_> { Box::new(|| self.shootdown.join()) };
        let programs = (0..self.setup.cpus).map(joins).collect();
        let outcome = self.schedule.run(programs, &|| {}, &mut InTurn, &|| 0);
        assert_eq!(outcome, Outcome::Done);
    }

    /// Does one operation, the `round`th of this CPU.
    fn perform(&self, operation: Op, round: usize) {
        let page = self.page(self.me(), round as u64 % 3);
        match operation {
            Op::Unmap => self.unmap(&[page]),
            Op::UnmapQuietly => {
                self.schedule.set_interrupts(false);
                self.unmap(&[page]);
                self.schedule.set_interrupts(true);
            }
            Op::UnmapTwo => self.unmap(&[page, self.page(self.me(), FAR_PAGE)]),
            // A page that is not mapped again, since nobody says when it is free.
            Op::Defer => self.defer(self.page(self.me(), DEFERRED_PAGES + round as u64)),
            Op::Protect => self.protect(page),
            Op::Purge => self.purge(),
            Op::Touch => self.touch(),
            Op::Idle => self.idle(),
            Op::Absent => self.be_absent(),
            Op::Quiet => {
                self.schedule.set_interrupts(false);
                self.schedule.pause();
                self.touch();
                self.schedule.set_interrupts(true);
            }
            Op::Switch => self.switch(),
        }
    }

    fn unmap(&self, pages: &[VirtRange]) {
        for &page in pages {
            let frame = self.frames.allocate().expect("there is room");
            self.schedule.note(&frame);
            self.map(page, frame);
            self.reaches(page, frame.pfn());
        }
        self.everybody_looks();
        // The tokens stay apart, so that each keeps its own range; they are discharged together.
        let tokens = pages
            .iter()
            .map(|&page| {
                let mut unmapped = None;
                let token = self
                    .editor
                    .unmap_each(page, |page| unmapped = Some(page.phys));
                let frame = unmapped.expect("it was mapped");
                token.expect("it is mapped").with(frame)
            })
            .collect::<Vec<Flush<PhysAddr>>>();
        let owed: Vec<Invalidation> = tokens
            .iter()
            .filter_map(|token| token.invalidation().copied())
            .collect();
        self.shootdown.invalidate_all(owed.iter().copied());
        for token in tokens {
            // SAFETY: all that they name has just been invalidated, or a test leaves that out with simulated memory at stake.
            let frame = unsafe { token.discharged(self.memory, self.frames) };
            self.frames.release(frame);
        }
        self.check();
        for page in pages {
            let seen = self.access(page.start(), Operation::Read);
            assert!(
                seen.pages.is_empty(),
                "{page} is unmapped and flushed, and still there"
            );
        }
    }

    fn defer(&self, page: VirtRange) {
        let frame = self.frames.allocate().expect("there is room");
        self.map(page, frame);
        self.reaches(page, frame.pfn());
        for cpu in 0..self.setup.cpus {
            if self.machine.uses(cpu) != Use::Nothing {
                self.machine.speculate_at(page.start());
            }
        }
        let token = self.editor.unmap(page).expect("it is mapped");
        let mut put = self.quarantine.put(token.with(frame), 1);
        self.schedule.pause();
        while !matches!(put, Ok(Due::Later)) {
            self.quarantine
                .purge(self.shootdown, self.memory, self.frames, |frame| {
                    self.frames.release(frame);
                    self.check();
                });
            put = match put {
                Ok(_) => Ok(Due::Later),
                Err(refused) => {
                    // Other CPUs have taken all of it out: they have to get their turn.
                    self.schedule.pause();
                    self.quarantine.put(refused.0, 1)
                }
            };
        }
    }

    fn protect(&self, page: VirtRange) {
        let frame = self.frames.allocate().expect("there is room");
        self.schedule.note(&frame);
        self.map(page, frame);
        self.reaches(page, frame.pfn());
        self.everybody_looks();
        let protection = Protection {
            global: self.setup.global,
            ..Protection::KERNEL_RODATA
        };
        let token = self.editor.protect(page, protection);
        self.end(token.expect("it is mapped"));
        for cpu in 0..self.setup.cpus {
            let writes = self.machine.uses(cpu) == Use::Everything
                && self.machine.may_write(cpu, page.start());
            assert!(!writes, "CPU {cpu} may write to {page}, which is read-only");
        }
        let token = self.editor.unmap(page);
        self.end(token.expect("it is mapped"));
        self.frames.release(frame);
        self.check();
    }

    fn purge(&self) {
        let start = self.region(self.me()).start().as_u64() + M2;
        let span = VirtRange::new(VirtAddr::new(start), M2);
        let page = VirtRange::new(span.start(), K4);
        let frame = self.frames.allocate().expect("there is room");
        self.schedule.note(&frame);
        self.map(page, frame);
        self.reaches(page, frame.pfn());
        self.everybody_looks();
        let mut token = self.editor.unmap(page).expect("it is mapped");
        let purged = self.editor.purge(span).expect("the range is one");
        assert_eq!(purged.tables(), 1);
        token.absorb(purged, self.memory);
        self.end(token);
        self.frames.release(frame);
        self.check();
    }

    fn touch(&self) {
        self.schedule.pause();
        for cpu in 0..self.setup.cpus {
            for index in USED_PAGES {
                self.access(self.page(cpu, index).start(), Operation::Read);
            }
        }
    }

    fn idle(&self) {
        let me = self.me();
        self.machine.set_use(me, Use::WalksOnly);
        self.shootdown.enter_lazy();
        self.schedule.pause();
        self.shootdown.leave_lazy();
        self.machine.set_use(me, Use::Everything);
        self.check();
        self.touch();
    }

    fn be_absent(&self) {
        let me = self.me();
        self.machine.set_use(me, Use::Nothing);
        self.shootdown.leave();
        self.schedule.pause();
        // What the CPU that starts this one does:
        self.shootdown.expect(CpuId::new(me));
        // It walks as soon as it has loaded the root, and still holds what was global when it left.
        self.contexts[me].set(0);
        self.machine.load_root(me, self.editor.root(), 0, false);
        self.machine.set_use(me, Use::WalksOnly);
        self.everybody_looks();
        self.schedule.pause();
        self.shootdown.join();
        self.machine.set_use(me, Use::Everything);
        self.check();
        self.touch();
    }

    fn switch(&self) {
        let context = &self.contexts[self.me()];
        context.set(1 - context.get());
        self.machine
            .load_root(self.me(), self.editor.root(), context.get(), true);
        self.check();
        self.touch();
    }

    /// Every CPU takes in all that it can, as it might at any time; so this is done whenever something is about to change.
    fn everybody_looks(&self) {
        for cpu in 0..self.setup.cpus {
            for index in USED_PAGES {
                self.machine.speculate_at(self.page(cpu, index).start());
            }
        }
    }

    fn map(&self, page: VirtRange, frame: PhysAddr) {
        let protection = Protection {
            global: self.setup.global,
            ..Protection::KERNEL_DATA
        };
        self.editor
            .map(page, frame, protection, PageSize::Size4K)
            .expect("the page is free");
    }

    fn end(&self, token: Flush) {
        token.flush(self.shootdown, self.memory, self.frames);
        self.check();
    }

    fn access(&self, address: VirtAddr, operation: Operation) -> kspace_sim::Seen {
        let intent = Intent::kernel(operation);
        must(
            self.machine
                .access(self.me(), address, intent, Controls::KERNEL),
        )
    }

    /// This CPU reaches this frame through the page, and no other.
    fn reaches(&self, page: VirtRange, frame: Pfn) {
        let seen = self.access(page.start(), Operation::Write);
        assert!(!seen.pages.is_empty(), "{page} is mapped and not there");
        for possible in seen.pages {
            let found = possible.translate(page.start()).pfn();
            assert_eq!(found, frame, "{page} leads to frame {found:x}");
        }
    }

    fn check(&self) {
        must(self.machine.check());
    }

    fn me(&self) -> usize {
        self.schedule.running()
    }

    fn region(&self, cpu: usize) -> VirtRange {
        VirtRange::new(VirtAddr::new(BASE + cpu as u64 * REGION), REGION)
    }

    fn page(&self, cpu: usize, index: u64) -> VirtRange {
        let start = self.region(cpu).start().as_u64() + index * K4;
        VirtRange::new(VirtAddr::new(start), K4)
    }

    /// All that is shared and can differ while the programs stand at the same places.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.machine.digest(), self.shootdown.generation()).hash(&mut hasher);
        self.frames.used().hash(&mut hasher);
        for cpu in (0..self.setup.cpus).map(CpuId::new) {
            (self.shootdown.holding(cpu), self.shootdown.seen(cpu)).hash(&mut hasher);
        }
        hasher.finish()
    }
}

pub fn must<T>(result: Result<T, Violation>) -> T {
    result.unwrap_or_else(|violation| panic!("{violation}"))
}

/// Always the first that can go on.
pub struct InTurn;

impl Decide for InTurn {
    fn decide(&mut self, _: usize, _: &dyn Fn() -> u64) -> Option<usize> {
        Some(0)
    }
}
