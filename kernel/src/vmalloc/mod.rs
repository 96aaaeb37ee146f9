//! The vmalloc area at work: [`kspace::vmalloc`] over this machine's zones, tables and CPUs.
//!
//! ```text
//!   workloads/      what is done with areas to try and to measure them
//!        |
//!   AREAS           here: one for all CPUs, over area vmalloc of the layout
//!    |   |   \
//!    |   |    frames: the zones (AreaZones), zeros through the direct map
//!    |   the kernel's own tables; root entries of the area are there from boot on, so that every address space has them
//!    the kernel's shootdown
//! ```
//!
//! When the zones are short of memory they ask here first ([`reclaim`]): freed areas that wait for their purge have frames.

mod bring_up;
pub mod workloads;

use kspace::fault::AreaSpot;
use kspace::vmalloc::{AreaZones, Kernel, Vmalloc};
use kspace_frames::zone::{Hooks, Shortage};
use kspace_layout::{FRAME_SIZE, Pfn, PhysRange, VirtAddr};
use spin::Once;

use crate::acpi::MAX_CPUS;
use crate::arch::{Machine, PageFormat, ShootdownProbe, Window};

pub use bring_up::bring_up;

/// What this kernel's areas are built on.
#[derive(Debug)]
pub struct ThisKernel;

impl Kernel for ThisKernel {
    type Platform = Machine;
    type Memory = Window;
    type Format = PageFormat;
    type Frames = Frames;
    type Probe = ShootdownProbe;
}

/// Where frames of areas come from.
pub type Frames = AreaZones<'static, Machine, Zeros>;

/// This kernel's areas.
pub type Areas = Vmalloc<'static, ThisKernel, MAX_CPUS>;

/// Writes zeros to frames, at once, through the direct map.
#[derive(Debug)]
pub struct Zeros {
    window: &'static Window,
}

impl Hooks for Zeros {
    fn reclaim(&self, _: &Shortage) -> u64 {
        0
    }

    fn zero(&self, first: Pfn, frames: u64) {
        let range = PhysRange::new(first.start(), frames * FRAME_SIZE);
        // SAFETY: the frames are RAM, and whoever asked has them alone.
        let zeroed = unsafe { self.window.kmap().zero(range) };
        zeroed.expect("the direct map has all RAM of the zones");
    }
}

static AREAS: Once<Areas> = Once::new();

/// The areas, once they were [brought up](bring_up).
#[inline]
pub fn get() -> Option<&'static Areas> {
    AREAS.get()
}

/// Gives back the frames of areas that were freed; how many. Where nobody may wait, none.
pub fn reclaim(shortage: &Shortage) -> u64 {
    get().map_or(0, |areas| areas.reclaim(shortage))
}

/// What the areas know of an address.
pub fn spot(address: VirtAddr) -> Option<AreaSpot> {
    AreaSpot::of(get()?, address)
}
