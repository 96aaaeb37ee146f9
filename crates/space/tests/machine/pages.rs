//! A source of frames and of pages of 2 MiB that counts, and fails on demand.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use kspace::PageSource;
use kspace_layout::{PageSize, Pfn, PhysAddr};
use kspace_paging::FrameSource;
use kspace_sim::{SimFrames, SimMemory};

use super::GIB;

/// Frames of the machine, and large pages from 5 GiB up.
pub struct SimPages<'m> {
    memory: &'m SimMemory,
    pub frames: SimFrames<'m>,
    /// How many large pages were handed out, ever.
    large: AtomicU64,
    pub large_in_use: AtomicUsize,
    /// Allocations of either kind until failure.
    budget: AtomicUsize,
}

impl<'m> SimPages<'m> {
    pub fn new(memory: &'m SimMemory, frames: SimFrames<'m>) -> Self {
        Self {
            memory,
            frames,
            large: AtomicU64::new(0),
            large_in_use: AtomicUsize::new(0),
            budget: AtomicUsize::new(usize::MAX),
        }
    }

    pub fn set_budget(&self, count: usize) {
        self.budget.store(count, Relaxed);
    }

    pub fn in_use(&self) -> (usize, usize) {
        (self.frames.in_use(), self.large_in_use.load(Relaxed))
    }

    fn pay(&self) -> Option<()> {
        let left = self.budget.load(Relaxed).checked_sub(1)?;
        self.budget.store(left, Relaxed);
        Some(())
    }
}

// SAFETY: the frames are those of `SimFrames`.
unsafe impl FrameSource for SimPages<'_> {
    fn allocate(&self) -> Option<PhysAddr> {
        self.pay()?;
        self.frames.allocate()
    }

    fn release(&self, frame: PhysAddr) {
        self.frames.release(frame);
    }
}

// SAFETY: each page is handed out once, aligned, and added to the memory as zeros.
unsafe impl PageSource for SimPages<'_> {
    fn allocate_large(&self) -> Option<PhysAddr> {
        self.pay()?;
        let number = self.large.fetch_add(1, Relaxed);
        let start = PhysAddr::new(5 * GIB + number * PageSize::Size2M.bytes());
        let first = start.pfn().as_u64();
        (first..first + 512).for_each(|frame| self.memory.add(Pfn::new(frame)));
        self.large_in_use.fetch_add(1, Relaxed);
        Some(start)
    }

    fn release_large(&self, _: PhysAddr) {
        self.large_in_use.fetch_sub(1, Relaxed);
    }
}
