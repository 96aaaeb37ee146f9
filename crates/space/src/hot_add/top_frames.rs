//! The last frames of the new range: pages for its own books.

use core::cell::Cell;

use kspace_layout::{Pfn, PhysAddr, PhysRange};
use kspace_paging::{FrameSource, PhysMemory, RawEntry};

use super::frames_of;

/// 8-byte entries in a frame.
const WORDS: usize = 512;

/// Frames of a range that nobody knows yet, from its end downwards. They go back in the opposite order.
pub(super) struct TopFrames<'a, M> {
    range: PhysRange,
    memory: &'a M,
    taken: Cell<u64>,
}

impl<'a, M: PhysMemory> TopFrames<'a, M> {
    pub(super) const fn of(range: PhysRange, memory: &'a M) -> Self {
        Self {
            range,
            memory,
            taken: Cell::new(0),
        }
    }

    /// How many frames are in use.
    pub(super) fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// Whether so many frames can be had and reached.
    pub(super) fn reaches(&self, frames: u64) -> bool {
        let reached = |number| {
            let frame = self.frame(number);
            frame.is_some_and(|frame| self.memory.entries::<u64>(frame, WORDS).is_some())
        };
        (0..frames).all(reached)
    }

    /// The frame with this number, counted from the end.
    fn frame(&self, number: u64) -> Option<PhysAddr> {
        let above = number + 1;
        let last = self.range.last().pfn().as_u64();
        let frame = Pfn::try_new((last + 1).checked_sub(above)?).ok()?;
        (above <= frames_of(self.range)).then(|| frame.start())
    }
}

// SAFETY: the caller of `hot_add` says that the range is RAM that nobody uses; each frame of it is handed out once until it comes back,
// and cleared here.
unsafe impl<M: PhysMemory> FrameSource for TopFrames<'_, M> {
    fn allocate(&self) -> Option<PhysAddr> {
        let frame = self.frame(self.taken.get())?;
        for word in self.memory.entries::<u64>(frame, WORDS)? {
            <u64 as RawEntry>::store(word, 0);
        }
        self.taken.set(self.taken.get() + 1);
        Some(frame)
    }

    fn release(&self, frame: PhysAddr) {
        let newest = self.taken.get().checked_sub(1);
        assert_eq!(
            newest.and_then(|newest| self.frame(newest)),
            Some(frame),
            "frames go back in the opposite order"
        );
        self.taken.set(self.taken.get() - 1);
    }
}
