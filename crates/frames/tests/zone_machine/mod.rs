//! A machine with two nodes whose zones are plain buddies under a lock, and a kernel that notes what is asked of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use kspace_frames::zone::{
    Affinity, Hooks, NodeId, Nodes, Request, Shortage, Tuning, Zone, ZoneFrames, ZoneKind,
    ZoneLimits, ZoneSpan, Zones,
};
use kspace_frames::{FirmwareEntry, MemoryMap, Order, Owner};
use kspace_layout::{Pfn, PhysAddr, PhysRange};

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// Free blocks by order and first frame. Blocks are halved as needed and never joined again.
#[derive(Debug)]
pub struct Buddy {
    managed: u64,
    pub free: Mutex<[BTreeSet<u64>; 11]>,
    /// Whether a frame comes back whenever somebody looks, as if other CPUs were freeing.
    pub is_gaining: AtomicBool,
}

impl Buddy {
    pub fn new(span: &ZoneSpan) -> Self {
        let mut free: [BTreeSet<u64>; 11] = Default::default();
        let mut at = span.start();
        while at < span.end() {
            let order = at.trailing_zeros().min((span.end() - at).ilog2()).min(10);
            free[order as usize].insert(at);
            at += 1 << order;
        }
        Self {
            managed: span.spanned(),
            free: Mutex::new(free),
            is_gaining: AtomicBool::new(false),
        }
    }

    /// Takes everything but `left` single frames, of which no two are neighbours.
    pub fn leave(&self, left: u64) {
        let mut free = self.free.lock().expect("no panic");
        let first = *free.iter().flatten().min().expect("free memory");
        *free = Default::default();
        free[0] = (0..left).map(|number| first + 2 * number).collect();
    }
}

impl ZoneFrames for Buddy {
    type Cpu = ();
    type Block<'a> = (Pfn, Order, Owner);

    fn managed_frames(&self) -> u64 {
        self.managed
    }

    fn free_frames(&self) -> u64 {
        self.free_frames_exact()
    }

    fn free_frames_exact(&self) -> u64 {
        let mut free = self.free.lock().expect("no panic");
        if self.is_gaining.load(Relaxed) {
            let next = free[0].last().map_or(2, |last| last + 2);
            free[0].insert(next);
        }
        free.iter()
            .enumerate()
            .map(|(order, blocks)| (blocks.len() as u64) << order)
            .sum()
    }

    fn drift(&self) -> u64 {
        0
    }

    fn free_blocks(&self) -> [u64; Order::COUNT] {
        let free = self.free.lock().expect("no panic");
        std::array::from_fn(|order| free[order].len() as u64)
    }

    fn allocate(
        &self,
        (): &(),
        order: Order,
        owner: Owner,
        last: Option<Pfn>,
    ) -> Option<Self::Block<'_>> {
        let mut free = self.free.lock().expect("no panic");
        let wanted = usize::from(order.get());
        let last = last.map_or(u64::MAX, Pfn::as_u64);
        let fits = |start: &&u64| **start + (1 << wanted) - 1 <= last;
        let (from, start) =
            (wanted..11).find_map(|order| Some((order, *free[order].iter().find(fits)?)))?;
        free[from].remove(&start);
        for half in wanted..from {
            free[half].insert(start + (1 << half));
        }
        Some((Pfn::new(start), order, owner))
    }

    fn first(block: &Self::Block<'_>) -> Pfn {
        block.0
    }
}

/// Notes what is asked of it.
#[derive(Default)]
pub struct Kernel {
    pub shortages: RefCell<Vec<Shortage>>,
    pub zeroed: Cell<Option<(Pfn, u64)>>,
}

impl Hooks for Kernel {
    fn reclaim(&self, shortage: &Shortage) -> u64 {
        self.shortages.borrow_mut().push(*shortage);
        0
    }

    fn zero(&self, first: Pfn, frames: u64) {
        self.zeroed.set(Some((first, frames)));
    }
}

/// Two nodes: 1 GiB with DMA and DMA32, and 2 GiB of Normal.
pub fn two_nodes() -> Vec<Zone<Buddy>> {
    let ram = |start, end| FirmwareEntry {
        start,
        size: end - start,
        kind: 1,
    };
    let map = [ram(MIB, GIB), ram(4 * GIB, 6 * GIB)];
    let map = MemoryMap::from_firmware(map, 52, |_| ()).expect("a usable map");
    let near = |node, start, size| Affinity {
        node,
        range: PhysRange::new(PhysAddr::new(start), size),
        hot_pluggable: false,
    };
    let affinities = [near(0, 0, GIB), near(1, 4 * GIB, 2 * GIB)];
    let nodes = Nodes::new(&map, &affinities, |repair| panic!("{repair}")).expect("two nodes");
    nodes
        .zones(&ZoneLimits::x86_64())
        .filter(ZoneSpan::is_populated)
        .map(|span| Zone::new(span, Buddy::new(&span)))
        .collect()
}

pub fn zones_of(zones: &[Zone<Buddy>]) -> Zones<'_, Buddy> {
    let distance = |one, other| if one == other { 10 } else { 20 };
    let zones = Zones::new(zones, ZoneLimits::x86_64(), distance).expect("zones");
    zones.set_reserves(&Tuning::new()).expect("possible");
    zones
}

pub fn node(number: u32) -> NodeId {
    NodeId::try_new(number).expect("a node")
}

pub fn zone<'z>(zones: &Zones<'z, Buddy>, number: u32, kind: ZoneKind) -> &'z Zone<Buddy> {
    zones.get(node(number), kind).expect("a zone with memory")
}

/// The zone that serves, or the refusal.
pub fn served(zones: &Zones<'_, Buddy>, home: u32, request: &Request) -> String {
    match zones.allocate(&(), node(home), request, &Kernel::default()) {
        Ok((first, order, _)) => {
            let zone = zones.spanning(first).next().expect("a zone");
            format!("{} {} {order}", zone.node(), zone.kind())
        }
        Err(error) => error.to_string(),
    }
}
