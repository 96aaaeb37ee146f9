//! A machine with one CPU, frames in buddy blocks, and areas on it.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use kspace::cache_types::CacheTypes;
use kspace::platform::{
    CacheLines, Complaint, Cpu, CpuId, CpuMask, Interrupts, LocalFlush, Tlb, TlbFeatures,
};
use kspace::shootdown::{Shootdown, Unprobed};
use kspace::vmalloc::{AreaFrames, Arenas, Debug, Kernel, Settings, Vmalloc, Want};
use kspace_frames::Order;
use kspace_layout::{PageSize, PagingMode, Pfn, PhysAddr, PhysRange, VirtAddr, VirtRange};
use kspace_paging::{Editor, End, EntryFormat, FrameSource, Limits, LongMode, Page, Walker};
use kspace_sim::SimMemory;

pub const K4: u64 = 4 << 10;
pub const M2: u64 = 2 << 20;
pub const M4: u64 = 4 << 20;
/// A part of Linux's vmalloc area.
pub const AREA: VirtRange = VirtRange::new(VirtAddr::new(0xffff_c900_0000_0000), 1 << 40);

/// One CPU, which keeps count of what it is told.
pub struct OneCpu {
    mode: PagingMode,
    pub atomic: Cell<bool>,
    pub flushes: Cell<u64>,
    /// What was complained of, if that is expected.
    pub complaints: RefCell<Option<Vec<Complaint>>>,
}

// SAFETY: there is one CPU.
unsafe impl Cpu for &OneCpu {
    type Pin = ();

    fn id(&self) -> CpuId {
        CpuId::new(0)
    }

    fn pin(&self) {}

    fn is_atomic(&self) -> bool {
        self.atomic.get()
    }

    fn report(&self, complaint: &Complaint) {
        match &mut *self.complaints.borrow_mut() {
            Some(complaints) => complaints.push(*complaint),
            None => panic!("{complaint}"),
        }
    }
}

// SAFETY: there is one CPU, which has no interrupts.
unsafe impl Interrupts for &OneCpu {
    type Off = ();

    fn interrupts_off(&self) {}
}

// SAFETY: the CPU has no caches.
unsafe impl CacheLines for &OneCpu {
    fn write_back_and_invalidate(&self, _: PhysRange) {}
}

// SAFETY: the CPU has no TLB.
unsafe impl Tlb for &OneCpu {
    fn features(&self) -> TlbFeatures {
        TlbFeatures::plain(self.mode).with_global_pages()
    }

    fn perform(&self, _: LocalFlush) {
        self.flushes.set(self.flushes.get() + 1);
    }

    fn interrupt(&self, targets: &CpuMask) {
        panic!("there is no CPU {targets}");
    }
}

/// Frames in buddy blocks, as a list of the free ones: nothing but the rules.
pub struct Buddies<'m> {
    memory: &'m SimMemory,
    ram: PhysRange,
    /// The first frames of the free blocks, by order.
    free: RefCell<[BTreeSet<u64>; Order::COUNT]>,
    taken: RefCell<BTreeMap<u64, u8>>,
    /// Frames for tables and books.
    singles: RefCell<BTreeSet<u64>>,
    /// How many more requests are served; `None`: all.
    pub budget: Cell<Option<u64>>,
    /// Requests served or not since the last time this was set to 0.
    pub requests: Cell<u64>,
    /// Whether blocks can be cut.
    pub can_cut: Cell<bool>,
}

impl<'m> Buddies<'m> {
    fn new(memory: &'m SimMemory, ram: PhysRange) -> Self {
        let blocks = (ram.start().as_u64()..=ram.last().as_u64()).step_by(M4 as usize);
        let mut free: [BTreeSet<u64>; Order::COUNT] = Default::default();
        free[Order::MAX.get() as usize].extend(blocks.map(|start| start / K4));
        Self {
            memory,
            ram,
            free: RefCell::new(free),
            taken: RefCell::default(),
            singles: RefCell::default(),
            budget: Cell::new(None),
            requests: Cell::new(0),
            can_cut: Cell::new(true),
        }
    }

    /// Blocks that areas have: first frame and order.
    pub fn blocks(&self) -> BTreeMap<u64, u8> {
        self.taken.borrow().clone()
    }

    /// How many frames tables and books have.
    pub fn tables(&self) -> usize {
        self.singles.borrow().len()
    }

    /// Free frames.
    pub fn free_frames(&self) -> u64 {
        let free = self.free.borrow();
        (0..)
            .zip(&*free)
            .map(|(order, blocks)| (blocks.len() as u64) << order)
            .sum()
    }

    /// The order of the largest free block.
    pub fn largest_order(&self) -> Option<u8> {
        let free = self.free.borrow();
        (0..)
            .zip(&*free)
            .filter(|(_, blocks)| !blocks.is_empty())
            .map(|(order, _)| order)
            .last()
    }

    /// Takes one frame of each 2^`order` for good, so that no block of that order is left.
    pub fn fragment(&self, order: u8) {
        let mut free = self.free.borrow_mut();
        for large in order..=Order::MAX.get() {
            for first in std::mem::take(&mut free[large as usize]) {
                for start in (first..first + (1 << large)).step_by(1 << order) {
                    // The first frame goes; the rest are one block of each smaller order.
                    for below in 0..order {
                        free[below as usize].insert(start + (1 << below));
                    }
                }
            }
        }
    }

    /// Takes all blocks of 2 MiB and more, but leaves two of them in pieces of 1 MiB.
    pub fn take_large(&self) -> Vec<(u64, u8)> {
        let mut free = self.free.borrow_mut();
        let mut taken = Vec::new();
        for order in Order::HUGE.get()..=Order::MAX.get() {
            let blocks = std::mem::take(&mut free[order as usize]);
            taken.extend(blocks.into_iter().map(|first| (first, order)));
        }
        for (first, order) in taken.drain(..2) {
            free[8].extend((first..first + (1 << order)).step_by(1 << 8));
        }
        taken
    }

    /// Takes a block of 4 MiB out of every `frames` frames but the first `spared` ones.
    pub fn take_in_each(&self, frames: u64, spared: usize) -> Vec<(u64, u8)> {
        let mut free = self.free.borrow_mut();
        let blocks = &mut free[Order::MAX.get() as usize];
        let firsts: Vec<u64> = { blocks.iter() }
            .copied()
            .filter(|first| first % frames == 0)
            .skip(spared)
            .collect();
        firsts.iter().for_each(|first| {
            blocks.remove(first);
        });
        { firsts.into_iter() }
            .map(|first| (first, Order::MAX.get()))
            .collect()
    }

    /// Gives back what was taken so.
    pub fn give_all(&self, blocks: Vec<(u64, u8)>) {
        blocks
            .into_iter()
            .for_each(|(first, order)| self.put(first, order));
    }

    fn get(&self, order: u8) -> Option<u64> {
        self.requests.set(self.requests.get() + 1);
        match self.budget.get() {
            Some(0) => return None,
            budget => self.budget.set(budget.map(|left| left - 1)),
        }
        let mut free = self.free.borrow_mut();
        let size = (order..=Order::MAX.get()).find(|&size| !free[size as usize].is_empty())?;
        let start = free[size as usize].pop_first()?;
        for half in order..size {
            free[half as usize].insert(start + (1 << half));
        }
        Some(start)
    }

    fn put(&self, start: u64, order: u8) {
        let (mut start, mut order) = (start, order);
        let mut free = self.free.borrow_mut();
        while order < Order::MAX.get() && free[order as usize].remove(&(start ^ 1 << order)) {
            start &= !(1 << order);
            order += 1;
        }
        assert!(
            free[order as usize].insert(start),
            "frame {start:x} is freed twice"
        );
    }
}

// SAFETY: a free frame is nobody's, and is cleared.
unsafe impl FrameSource for Buddies<'_> {
    fn allocate(&self) -> Option<PhysAddr> {
        let frame = self.get(0)?;
        self.memory.clear(Pfn::new(frame));
        self.singles.borrow_mut().insert(frame);
        Some(Pfn::new(frame).start())
    }

    fn release(&self, frame: PhysAddr) {
        let frame = frame.pfn().as_u64();
        assert!(
            self.singles.borrow_mut().remove(&frame),
            "{frame:x} is no table"
        );
        self.put(frame, 0);
    }
}

// SAFETY: a free block is nobody's.
unsafe impl AreaFrames for Buddies<'_> {
    type Guard = ();

    fn total(&self) -> u64 {
        self.ram.size() / K4
    }

    fn take(&self, _: &(), order: Order, want: Want) -> Option<Pfn> {
        let first = self.get(order.get())?;
        if want.zeroed {
            for frame in first..first + order.frames() as u64 {
                self.memory.clear(Pfn::new(frame));
            }
        }
        self.taken.borrow_mut().insert(first, order.get());
        Some(Pfn::new(first))
    }

    fn take_aligned(&self, _: &(), frames: u64, _: Want) -> Option<Pfn> {
        self.requests.set(self.requests.get() + 1);
        let mut free = self.free.borrow_mut();
        let blocks = &mut free[Order::MAX.get() as usize];
        let step = 1 << Order::MAX.get();
        let row = |first: &u64| (*first..*first + frames).step_by(step);
        let is_free = |first: &u64| row(first).all(|block| blocks.contains(&block));
        let first = { blocks.iter() }.find(|first| *first % frames == 0 && is_free(first));
        let first = *first?;
        for block in row(&first) {
            blocks.remove(&block);
            self.taken.borrow_mut().insert(block, Order::MAX.get());
        }
        Some(Pfn::new(first))
    }

    fn clear_aligned(&self, first: Pfn, frames: u64) {
        (0..frames).for_each(|frame| self.memory.clear(Pfn::new(first.as_u64() + frame)));
    }

    fn cut(&self, _: &(), at: Pfn) -> bool {
        if !self.can_cut.get() {
            return false;
        }
        let (at, mut taken) = (at.as_u64(), self.taken.borrow_mut());
        let block = taken.range(..=at).next_back();
        let Some((first, order)) = block.map(|(first, order)| (*first, *order)) else {
            return false;
        };
        // Halves, until one begins there.
        let (mut first, mut order) = (first, order);
        while first != at {
            order -= 1;
            taken.insert(first, order);
            taken.insert(first + (1 << order), order);
            if at >= first + (1 << order) {
                first += 1 << order;
            }
        }
        true
    }

    unsafe fn give(&self, _: &(), first: Pfn) -> Option<Order> {
        let order = self.taken.borrow_mut().remove(&first.as_u64())?;
        self.put(first.as_u64(), order);
        Some(Order::new(order))
    }
}

/// The machine as a kernel.
pub struct SimKernel<'r, E>(std::marker::PhantomData<(&'r (), E)>);

impl<'r, E: EntryFormat> Kernel for SimKernel<'r, E> {
    type Platform = &'r OneCpu;
    type Memory = SimMemory;
    type Format = E;
    type Probe = Unprobed;
    type Frames = Buddies<'r>;
}

pub type Areas<'r, E = LongMode> = Vmalloc<'r, SimKernel<'r, E>, 1>;

/// What a rig is made of.
#[derive(Clone, Copy)]
pub struct Setup {
    pub mode: PagingMode,
    pub area: VirtRange,
    pub ram: u64,
    pub limits: Limits,
    pub bound: u64,
    pub debug: Debug,
}

impl Setup {
    /// 64 MiB of RAM; nothing is purged by itself.
    pub const fn new() -> Self {
        Self {
            mode: PagingMode::FourLevel,
            area: AREA,
            ram: 64 << 20,
            limits: Limits::WIDEST,
            bound: 1 << 40,
            debug: Debug::OFF,
        }
    }
}

/// A machine with areas.
pub struct Rig<'a, 'r, E: EntryFormat = LongMode> {
    pub setup: Setup,
    pub memory: &'r SimMemory,
    pub frames: &'r Buddies<'r>,
    pub cpu: &'r OneCpu,
    pub areas: &'a Areas<'r, E>,
    pub types: &'a CacheTypes<'r, SimKernel<'r, E>>,
}

/// Runs `test` on a new machine in long mode.
pub fn with_rig(setup: Setup, test: impl FnOnce(&Rig<'_, '_>)) {
    with_rig_of::<LongMode>(setup, test);
}

/// Runs `test` on a new machine.
pub fn with_rig_of<E: EntryFormat>(setup: Setup, test: impl FnOnce(&Rig<'_, '_, E>)) {
    let ram = PhysRange::new(PhysAddr::new(16 << 20), setup.ram);
    let memory = SimMemory::arena(ram);
    let frames = Buddies::new(&memory, ram);
    let cpu = OneCpu {
        mode: setup.mode,
        atomic: Cell::new(false),
        flushes: Cell::new(0),
        complaints: RefCell::new(None),
    };
    let root = frames.allocate().expect("there is room");
    // SAFETY: the memory is simulated, and only the areas edit these tables.
    let editor =
        unsafe { Editor::<E, _, _>::new(setup.mode, root, setup.limits, &memory, &frames) };
    let editor = editor
        .expect("the root suits the mode")
        .keep_root_entries(setup.area);
    let populated = editor.populate(setup.area).expect("there is room");
    // SAFETY: no CPU has loaded the root yet.
    unsafe { populated.discharged(&memory, &frames) };
    let shootdown = Shootdown::new(&cpu);
    shootdown.join();
    let arenas = Arenas::new();
    let settings = Settings::new(setup.bound).debug(setup.debug);
    // SAFETY: the area is used by nobody else, and the CPU has joined the shootdown.
    let areas = unsafe { Vmalloc::new(setup.area, editor, &shootdown, &arenas, settings) };
    let types = CacheTypes::new(shootdown.platform(), &memory, &frames);
    test(&Rig {
        setup,
        memory: &memory,
        frames: &frames,
        cpu: &cpu,
        areas: &areas.expect("there are frames"),
        types: &types,
    });
}

/// All that can be lost: free frames, table and book frames, blocks, free addresses, areas.
pub type Everything = (u64, usize, BTreeMap<u64, u8>, u64, u64);

impl<E: EntryFormat> Rig<'_, '_, E> {
    /// The page that the tables have at an address.
    pub fn page(&self, address: VirtAddr) -> Option<Page> {
        let tables = self.areas.tables();
        let walker = Walker::new(self.setup.mode, tables.root(), self.memory);
        match walker.with_limits(self.setup.limits).walk(address).end() {
            End::Page(page) => Some(page),
            _ => None,
        }
    }

    /// The pages of a range by their sizes: how many of 4 KiB, 2 MiB, 4 MiB, 1 GiB. Checks that every page is there.
    pub fn sizes(&self, range: VirtRange) -> BTreeMap<PageSize, u64> {
        let mut sizes = BTreeMap::new();
        let mut next = Some(range.start());
        while let Some(address) = next.filter(|&address| range.contains(address)) {
            let page = self.page(address);
            let size = page
                .unwrap_or_else(|| panic!("{address} is not mapped"))
                .size;
            *sizes.entry(size).or_default() += 1;
            next = address
                .align_down(size.bytes())
                .checked_add(size.bytes())
                .ok();
        }
        sizes
    }

    /// The frames of a range, page by page.
    pub fn frames_of(&self, range: VirtRange) -> Vec<u64> {
        pages(range)
            .map(|address| {
                let page = self.page(address);
                let page = page.unwrap_or_else(|| panic!("{address} is not mapped"));
                page.phys.pfn().as_u64()
            })
            .collect()
    }

    /// All that can be lost.
    pub fn everything(&self) -> Everything {
        let totals = self.areas.totals();
        (
            self.frames.free_frames(),
            self.frames.tables(),
            self.frames.blocks(),
            totals.largest,
            totals.areas,
        )
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

/// The page behind a range.
pub fn guard(range: VirtRange) -> VirtAddr {
    range.last().checked_add(1).expect("inside the area")
}
