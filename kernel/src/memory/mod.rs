//! Physical memory at work: the machine's zones, whoever takes frames from them, and the heap on top.
//!
//! ```text
//!   Vec, Box                      heap.rs        talc, on blocks of the zones; large pieces are blocks themselves
//!   page tables   others          tables.rs
//!        \         |    /
//!         Memory::allocate        here           this CPU pinned, its home node, the hooks
//!                |                hooks.rs       zeros through the direct map; shortage: every CPU gives back what it keeps
//!              Zones              kspace-frames  marks, fallback, an allocator for each zone
//!                |
//!   EarlyFrames                   bring_up.rs    once, in place: no heap before there is a heap
//!   MemoryMap, Topology           ground.rs      what will be, as plain values
//! ```
//!
//! Nothing here knows an architecture: what a CPU must do is asked of [`arch`](crate::arch).

mod boot_pages;
mod bring_up;
mod ground;
mod heap;
mod hooks;
mod report;
pub mod stress;
mod tables;

use kspace_frames::zone::{Nodes, Request, Zone, ZoneError, Zones};
use kspace_frames::{AddError, Block, FrameAllocator, FreeError, FreeProblem, Order};
use kspace_layout::{FRAME_SIZE, Pfn, PhysRange};
use spin::Once;

use crate::arch::{self, Window};
use hooks::KernelHooks;

pub use bring_up::{Site, bring_up};
pub use ground::{Ground, GroundError};
pub use report::available;
pub use tables::ZoneTables;

/// All zones of the machine.
pub type FrameZones = Zones<'static, FrameAllocator<'static>>;

/// One zone of the machine.
pub type FrameZone = Zone<FrameAllocator<'static>>;

/// The machine's physical memory.
#[derive(Debug)]
pub struct Memory {
    nodes: &'static Nodes,
    zones: FrameZones,
    window: Window,
    /// Frames that were in use before there were zones: tables, stacks, the books on all frames.
    taken_by_boot: u64,
}

static MEMORY: Once<&'static Memory> = Once::new();

/// Physical memory, once it was [brought up](bring_up).
#[inline]
pub fn get() -> Option<&'static Memory> {
    MEMORY.get().copied()
}

/// Gives back what this CPU was asked to give back; see [`arch::drain_others`].
pub fn drain_here() {
    let Some(memory) = get() else { return };
    arch::pinned(|pin| {
        for zone in memory.zones.as_slice() {
            zone.frames().drain_if_requested(pin);
        }
    });
}

impl Memory {
    /// The zones that have memory.
    #[must_use]
    pub fn zones(&self) -> &FrameZones {
        &self.zones
    }

    /// RAM as it is mapped: through the direct map.
    #[must_use]
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// A block of frames, as near to this CPU as can be. May wait for other CPUs to give back what they keep, unless the request
    /// is atomic or the caller must not wait. Zeros are written with interrupts as they were: 4 MiB take a while.
    ///
    /// # Errors
    ///
    /// [`ZoneError`].
    #[inline(always)]
    pub fn allocate(&'static self, request: &Request) -> Result<Block<'static>, ZoneError> {
        let kept = arch::pinned(|pin| self.zones.allocate_kept(pin, arch::home_node(), request));
        let Some(block) = kept else {
            return self.allocate_any(request);
        };
        if request.is_zeroed() {
            self.zero(block.pfn(), block.order().frames() as u64);
        }
        Ok(block)
    }

    #[inline(never)]
    fn allocate_any(&'static self, request: &Request) -> Result<Block<'static>, ZoneError> {
        let hooks = KernelHooks::new(self);
        let block =
            arch::pinned(|pin| self.zones.allocate(pin, arch::home_node(), request, &hooks))?;
        hooks.write_zeros();
        Ok(block)
    }

    /// Fills frames with zeros, which are the caller's alone.
    fn zero(&self, first: Pfn, frames: u64) {
        let range = PhysRange::new(first.start(), frames * FRAME_SIZE);
        // SAFETY: the frames are RAM, and the caller's alone.
        let zeroed = unsafe { self.window.kmap().zero(range) };
        zeroed.expect("the direct map has all RAM of the zones");
    }

    /// Gives a block back by way of this CPU's own stacks; dropping it does so without.
    ///
    /// # Panics
    ///
    /// When somebody else has freed it, through a bare number: from then on nobody knows whose the frames are.
    #[inline(always)]
    pub fn free(&self, block: Block<'_>) {
        if let Err(error) = arch::pinned(|pin| block.free(pin)) {
            panic!("{error}");
        }
    }

    /// Gives back a block whose value was given up ([`Block::into_raw`]).
    ///
    /// # Errors
    ///
    /// [`FreeError`]: nothing in use begins there, or not of that order, or it is mapped or shared.
    ///
    /// # Safety
    ///
    /// The block is the caller's, and nobody uses it any more.
    pub unsafe fn free_raw(&self, first: Pfn, order: Order) -> Result<(), FreeError> {
        let frames = self.zone_of(first).frames();
        // SAFETY: the caller's contract.
        arch::pinned(|pin| unsafe { frames.free(pin, first, order) })
    }

    /// Gives back a page table's frame. One that boot took is in no zone yet: it comes to its zone now.
    ///
    /// # Safety
    ///
    /// The frame is the caller's, from [`ZoneTables`] or from boot's frames, and no table uses it any more.
    unsafe fn free_table(&self, frame: Pfn) -> Result<(), FreeError> {
        // SAFETY: the caller's contract.
        let freed = unsafe { self.free_raw(frame, Order::FRAME) };
        match freed {
            Err(error) if error.problem() == FreeProblem::Reserved => {
                self.take_in(frame).map_err(|_| error)
            }
            freed => freed,
        }
    }

    /// Makes a frame its zone's that was reserved until now.
    fn take_in(&self, frame: Pfn) -> Result<(), AddError> {
        loop {
            match self.zone_of(frame).frames().add(frame, 1) {
                Err(AddError::Busy) => core::hint::spin_loop(),
                added => return added,
            }
        }
    }

    /// The zone that has a frame of RAM; for any other frame, one that will refuse it.
    fn zone_of(&self, frame: Pfn) -> &'static FrameZone {
        match self.zones.sole(arch::home_node(), frame) {
            Some(zone) => zone,
            // Nodes that interleave span each other's frames.
            None => self
                .nodes
                .zone_of(self.zones.limits(), frame)
                .and_then(|(node, kind)| self.zones.get(node, kind))
                .unwrap_or(&self.zones.as_slice()[0]),
        }
    }
}
