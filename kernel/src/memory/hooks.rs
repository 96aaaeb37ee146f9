//! What the kernel does for the zones: zeros, and memory given back when it is short.

use core::cell::Cell;

use kspace_frames::FrameAllocator;
use kspace_frames::zone::{Hooks, Shortage};
use kspace_layout::Pfn;

use super::{FrameZone, Memory};
use crate::{arch, vmalloc};

/// The hooks of this machine's memory, for one request.
pub(super) struct KernelHooks {
    memory: &'static Memory,
    /// The frames that are to be filled with zeros: the first, and how many.
    to_zero: Cell<Option<(Pfn, u64)>>,
}

impl KernelHooks {
    pub(super) fn new(memory: &'static Memory) -> Self {
        Self {
            memory,
            to_zero: Cell::new(None),
        }
    }

    fn zones(&self) -> &'static [FrameZone] {
        self.memory.zones.as_slice()
    }

    /// Writes the zeros that the request asked for.
    #[inline]
    pub(super) fn write_zeros(&self) {
        if let Some((first, frames)) = self.to_zero.get() {
            self.memory.zero(first, frames);
        }
    }

    fn kept_by_cpus(&self) -> u64 {
        let kept = |zone: &FrameZone| FrameAllocator::cached_frames(zone.frames()) as u64;
        self.zones().iter().map(kept).sum()
    }
}

impl Hooks for KernelHooks {
    /// First what freed areas still have, then the frames in the CPUs' stacks. Every CPU is asked; this one gives at once, the others
    /// when they next free, or now, by interrupt, when that was not enough and this one may wait for them.
    fn reclaim(&self, shortage: &Shortage) -> u64 {
        let purged = vmalloc::reclaim(shortage);
        let before = self.kept_by_cpus();
        if before == 0 {
            return purged;
        }
        for zone in self.zones() {
            zone.frames().request_drain();
        }
        super::drain_here();
        if shortage.may_wait && shortage.urgent {
            arch::drain_others();
        }
        purged + before.saturating_sub(self.kept_by_cpus())
    }

    /// Takes note only: [`write_zeros`](Self::write_zeros) does it when interrupts may come again.
    fn zero(&self, first: Pfn, frames: u64) {
        self.to_zero.set(Some((first, frames)));
    }
}
