//! A machine for the models: pages that are mapped or not, frames that are read and reused, and a TLB for each CPU.

use std::cell::Cell;

use kspace_layout::{PageSize, PagingMode, VirtAddr, VirtRange};
use kspace_paging::{Invalidation, Stale};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};

use super::{Probe, Rule, Shootdown};
use crate::platform::{Complaint, Cpu, CpuId, CpuMask, LocalFlush, Tlb, TlbFeatures};

/// Enough for every model.
pub(super) const CPUS: usize = 3;
pub(super) const PAGES: usize = 2;
const BASE: u64 = 0xffff_c900_0000_0000;

loom::thread_local! {
    /// Which CPU a thread is.
    static ME: Cell<usize> = Cell::new(0);
}

/// The protocol on the machine.
pub(super) type Protocol<const SLOTS: usize> = Shootdown<Platform, CPUS, SLOTS, Omission>;

/// Memory, tables and TLBs.
pub(super) struct Machine {
    mapped: [AtomicBool; PAGES],
    frames: [UnsafeCell<()>; PAGES],
    /// What each CPU holds; only that CPU looks.
    tlbs: [Tlbs; CPUS],
}

#[derive(Default)]
struct Tlbs([Cell<bool>; PAGES]);

// SAFETY: all of loom's threads run on one of the host's, and each uses its own CPU's TLB only.
unsafe impl Sync for Machine {}
// SAFETY: as above.
unsafe impl Send for Machine {}

impl Machine {
    /// All pages are mapped, and all CPUs hold all translations.
    pub(super) fn new() -> Arc<Self> {
        let machine = Self {
            mapped: [(); PAGES].map(|()| AtomicBool::new(true)),
            frames: [(); PAGES].map(|()| UnsafeCell::new(())),
            tlbs: Default::default(),
        };
        for page in machine.tlbs.iter().flat_map(|tlb| &tlb.0) {
            page.set(true);
        }
        Arc::new(machine)
    }

    /// The calling thread is this CPU from now on.
    pub(super) fn be(&self, cpu: usize) {
        ME.with(|me| me.set(cpu));
    }

    /// Reads a page, if it is there: through the TLB, or else through the tables.
    pub(super) fn read(&self, page: usize) {
        let held = &self.tlbs[me()].0[page];
        // A walk orders nothing by itself.
        if held.get() || self.mapped[page].load(Ordering::Relaxed) {
            held.set(true);
            self.frames[page].with(|_| ());
        }
    }

    /// Takes a page out of the tables.
    pub(super) fn unmap(&self, page: usize) {
        self.mapped[page].store(false, Ordering::Release);
    }

    /// Uses a frame for something else.
    pub(super) fn reuse(&self, page: usize) {
        self.frames[page].with_mut(|_| ());
    }
}

fn me() -> usize {
    ME.with(Cell::get)
}

/// A request to forget one page.
pub(super) fn forget(page: usize) -> Invalidation {
    let start = VirtAddr::new(BASE + (page as u64) * 0x1000);
    Invalidation::Range(Stale {
        range: VirtRange::new(start, 0x1000),
        page: PageSize::Size4K,
        global: false,
        tables: false,
        root: false,
    })
}

/// The machine as a platform.
#[derive(Clone)]
pub(super) struct Platform(pub(super) Arc<Machine>);

// SAFETY: each thread is one CPU, and stays it.
unsafe impl Cpu for Platform {
    type Pin = ();

    fn id(&self) -> CpuId {
        CpuId::new(me())
    }

    fn pin(&self) {}

    fn is_atomic(&self) -> bool {
        false
    }

    fn relax(&self) {
        loom::thread::yield_now();
    }

    fn report(&self, complaint: &Complaint) {
        panic!("{complaint}");
    }
}

// SAFETY: a modelled TLB forgets as told. Nobody is interrupted: the models serve at places of their own, or leave.
unsafe impl Tlb for Platform {
    fn features(&self) -> TlbFeatures {
        TlbFeatures::plain(PagingMode::FourLevel)
    }

    fn perform(&self, flush: LocalFlush) {
        let tlb = &self.0.tlbs[me()].0;
        match flush {
            LocalFlush::Page(address) => {
                let page = (address.as_u64() - BASE) / 0x1000;
                tlb[page as usize].set(false);
            }
            _ => tlb.iter().for_each(|page| page.set(false)),
        }
    }

    fn interrupt(&self, _: &CpuMask) {}
}

/// A rule that a model leaves out.
#[derive(Clone, Copy)]
pub(super) struct Omission(pub(super) Option<Rule>);

// SAFETY: what is at stake is modelled.
unsafe impl Probe for Omission {
    fn omits(&self, rule: Rule) -> bool {
        self.0 == Some(rule)
    }
}
