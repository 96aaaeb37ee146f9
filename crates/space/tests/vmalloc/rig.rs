//! A simulated machine with areas on it: hostile TLBs, frames that are counted and run out on demand, CPUs under any schedule.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::collections::HashMap;
use std::sync::Mutex;

use kspace::platform::TlbFeatures;
use kspace::shootdown::{Rule, Shootdown};
use kspace::vmalloc::{AreaFrames, Arenas, Debug, Kernel, Settings, Vmalloc, Want};
use kspace_frames::Order;
use kspace_layout::{PageSize, PagingMode, Pfn, PhysAddr, PhysRange, VirtAddr, VirtRange};
use kspace_paging::{
    Controls, Editor, EntryFormat, FrameSource, Intent, Limits, LongMode, Operation, PhysMemory,
    RawEntry,
};
use kspace_sim::{
    Grain, Schedule, SimFrames, SimInterruptsOff, SimMachine, SimMemory, SimPlatform,
};

pub const K4: u64 = 4 << 10;
pub const M2: u64 = 2 << 20;
/// Frames for tables, books and pages alike.
pub const RAM: PhysRange = PhysRange::new(PhysAddr::new(16 << 20), 64 << 20);
/// A part of Linux's vmalloc area.
pub const AREA: VirtRange = VirtRange::new(VirtAddr::new(0xffff_c900_0000_0000), 1 << 40);
/// A bound that no test reaches.
pub const NEVER: u64 = 1 << 20;
/// CPUs that a rig has room for.
pub const CPUS: usize = 4;

/// Frames, blocks of them, and which were taken as one.
pub struct TestFrames<'r> {
    pub frames: &'r SimFrames<'r>,
    memory: &'r SimMemory,
    schedule: &'r Schedule,
    blocks: Mutex<HashMap<Pfn, Order>>,
    /// Others may run whenever frames are taken or given.
    pub pauses: bool,
}

impl TestFrames<'_> {
    fn pause(&self) {
        if self.pauses {
            self.schedule.pause();
        }
    }
}

// SAFETY: the frames are the simulated machine's.
unsafe impl FrameSource for TestFrames<'_> {
    fn allocate(&self) -> Option<PhysAddr> {
        self.pause();
        self.frames.allocate()
    }

    fn release(&self, frame: PhysAddr) {
        self.pause();
        self.frames.release(frame);
    }
}

// SAFETY: blocks are made of frames that nobody else has, and their orders are written down.
unsafe impl<'r> AreaFrames for TestFrames<'r> {
    type Guard = SimInterruptsOff<'r>;

    fn total(&self) -> u64 {
        RAM.size() / K4
    }

    fn take(&self, _: &SimInterruptsOff<'r>, order: Order, want: Want) -> Option<Pfn> {
        self.pause();
        let mut taken: Vec<Pfn> = Vec::new();
        for _ in 0..order.frames() {
            match self.frames.allocate() {
                Some(frame) => taken.push(frame.pfn()),
                None => break,
            }
        }
        let first = taken.first().copied();
        let together = taken
            .iter()
            .zip(first.map_or(0, Pfn::as_u64)..)
            .all(|(frame, expected)| frame.as_u64() == expected);
        let Some(first) = first.filter(|_| together && taken.len() == order.frames()) else {
            for frame in taken.iter().rev() {
                self.frames.release(frame.start());
            }
            return None;
        };
        if !want.zeroed {
            for frame in taken {
                for word in self.memory.words(frame) {
                    word.store(0xdead_beef_dead_beef, std::sync::atomic::Ordering::Relaxed);
                }
            }
        }
        self.blocks.lock().expect("lock").insert(first, order);
        Some(first)
    }

    fn cut(&self, _: &SimInterruptsOff<'r>, at: Pfn) -> bool {
        let mut blocks = self.blocks.lock().expect("lock");
        let holds = |first: &Pfn, order: &Order| {
            (first.as_u64()..first.as_u64() + order.frames() as u64).contains(&at.as_u64())
        };
        let block = blocks.iter().find(|(first, order)| holds(first, order));
        let Some((first, order)) = block.map(|(first, order)| (*first, *order)) else {
            return false;
        };
        for frame in 0..order.frames() as u64 {
            blocks.insert(Pfn::new(first.as_u64() + frame), Order::FRAME);
        }
        true
    }

    unsafe fn give(&self, _: &SimInterruptsOff<'r>, first: Pfn) -> Option<Order> {
        self.pause();
        let order = self.blocks.lock().expect("lock").remove(&first)?;
        for frame in 0..order.frames() as u64 {
            self.frames
                .release(Pfn::new(first.as_u64() + frame).start());
        }
        Some(order)
    }
}

/// The simulated memory; others may run whenever a CPU is about to look into a table or into books.
pub struct TestMemory<'r> {
    memory: &'r SimMemory,
    schedule: &'r Schedule,
    pub pauses: bool,
}

// SAFETY: the calls go to a value that upholds the contract.
unsafe impl PhysMemory for TestMemory<'_> {
    fn entries<E: RawEntry>(&self, table: PhysAddr, count: usize) -> Option<&[E::Atomic]> {
        if self.pauses {
            self.schedule.pause();
        }
        self.memory.entries::<E>(table, count)
    }
}

/// The simulated machine as a kernel with entries of one format.
pub struct SimKernel<'r, E>(std::marker::PhantomData<(&'r (), E)>);

impl<'r, E: EntryFormat> Kernel for SimKernel<'r, E> {
    type Platform = SimPlatform<'r>;
    type Memory = TestMemory<'r>;
    type Format = E;
    type Probe = SimPlatform<'r>;
    type Frames = TestFrames<'r>;
}

pub type Areas<'r, E = LongMode> = Vmalloc<'r, SimKernel<'r, E>, CPUS>;

/// What a rig is made of.
#[derive(Clone, Copy)]
pub struct Setup {
    pub mode: PagingMode,
    pub area: VirtRange,
    pub cpus: usize,
    pub bound: u64,
    pub debug: Debug,
    /// Other CPUs may run at every access to tables, books and frames.
    pub pauses: bool,
    /// A rule of the shootdown that is broken.
    pub omitted: Option<Rule>,
}

impl Setup {
    pub const fn new() -> Self {
        Self {
            mode: PagingMode::FourLevel,
            area: AREA,
            cpus: 1,
            bound: NEVER,
            debug: Debug::OFF,
            pauses: false,
            omitted: None,
        }
    }
}

/// A machine with areas.
pub struct Rig<'a, 'r, E: EntryFormat = LongMode> {
    pub setup: Setup,
    pub memory: &'r SimMemory,
    pub frames: &'r TestFrames<'r>,
    pub machine: &'r SimMachine<'r>,
    pub schedule: &'r Schedule,
    pub areas: &'a Areas<'r, E>,
}

/// Runs `test` on a new machine.
pub fn with_rig<E: EntryFormat>(setup: Setup, test: impl FnOnce(&Rig<'_, '_, E>)) {
    let memory = SimMemory::arena(RAM);
    let sim_frames = SimFrames::new(&memory, RAM);
    let root = sim_frames.allocate().expect("there is room");
    let schedule = Schedule::new(setup.cpus);
    let limits = Limits::WIDEST;
    let machine = SimMachine::new(&memory, &sim_frames, setup.mode, limits, root, setup.cpus)
        .with_features(TlbFeatures::plain(setup.mode).with_global_pages());
    let frames = TestFrames {
        frames: &sim_frames,
        memory: &memory,
        schedule: &schedule,
        blocks: Mutex::default(),
        pauses: setup.pauses,
    };
    let tables = TestMemory {
        memory: &memory,
        schedule: &schedule,
        pauses: setup.pauses,
    };
    // SAFETY: the memory is simulated, and only the areas edit these tables.
    let editor = unsafe { Editor::<E, _, _>::new(setup.mode, root, limits, &tables, &frames) };
    let editor = editor
        .expect("the root suits the mode")
        .keep_root_entries(setup.area);
    let populated = editor.populate(setup.area).expect("there is room");
    // SAFETY: no CPU has loaded the root yet, but the one that does below.
    unsafe { populated.discharged(&tables, &frames) };
    machine.load_root(0, root, 0, false);
    let platform = SimPlatform::new(&schedule, &machine)
        .omitting(setup.omitted)
        .with_grain(Grain::Coarse);
    let shootdown = Shootdown::probed(platform, platform);
    let arenas = Arenas::new();
    let settings = Settings::new(setup.bound).debug(setup.debug);
    // SAFETY: the area is used by nobody else, and all CPUs join the shootdown.
    let areas = unsafe { Vmalloc::new(setup.area, editor, &shootdown, &arenas, settings) };
    let areas = areas.expect("there are frames").for_cpus(setup.cpus);
    if setup.cpus == 1 {
        shootdown.join();
    }
    test(&Rig {
        setup,
        memory: &memory,
        frames: &frames,
        machine: &machine,
        schedule: &schedule,
        areas: &areas,
    });
}

impl<E: EntryFormat> Rig<'_, '_, E> {
    /// The frame that this CPU reaches at `address`, and it alone, by any translation that it may use; `None` when an access faults for certain.
    pub fn frame_at(&self, address: VirtAddr) -> Option<Pfn> {
        let intent = Intent::kernel(Operation::Write);
        let cpu = self.schedule.running();
        let seen = self.machine.access(cpu, address, intent, Controls::KERNEL);
        let seen = seen.unwrap_or_else(|violation| panic!("{violation}"));
        let mut frames = seen.pages.iter().map(|page| page.translate(address).pfn());
        let frame = frames.next()?;
        assert!(
            frames.all(|other| other == frame),
            "{address} leads to several frames"
        );
        Some(frame)
    }

    /// What the tables say now, whatever TLBs hold.
    pub fn walk(&self, address: VirtAddr) -> Option<Pfn> {
        let page = self
            .machine
            .walk(address, Intent::kernel(Operation::Read))
            .ok()?;
        assert_eq!(page.size, PageSize::Size4K);
        Some(page.phys.pfn())
    }
}

/// The pages of a range.
pub fn pages(range: VirtRange) -> impl Iterator<Item = VirtAddr> {
    (0..range.size() / K4).map(move |page| {
        range
            .start()
            .checked_add(page * K4)
            .expect("inside the range")
    })
}
