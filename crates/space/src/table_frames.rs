//! Frames for page tables before there is an allocator.

use kspace_frames::{EarlyFrames, ReleaseError};
use kspace_layout::PhysAddr;
use kspace_paging::{FrameSource, PhysMemory, RawEntry};

/// 8-byte entries in a frame.
const WORDS: usize = 512;

/// [`EarlyFrames`] as an editor's source of tables: clears each frame, through the memory that the tables are used
/// with.
#[derive(Debug)]
pub struct TableFrames<'a, M> {
    frames: &'a EarlyFrames,
    memory: &'a M,
}

impl<'a, M: PhysMemory> TableFrames<'a, M> {
    /// Frames of `frames`, cleared through `memory`. `frames` should have no frame that `memory` cannot reach: such a
    /// one counts as none left.
    ///
    /// # Safety
    ///
    /// The frames that `frames` hands out are RAM that nothing else uses: the memory map that it was made of is true,
    /// and everything in use was reserved in it.
    #[must_use]
    pub const unsafe fn new(frames: &'a EarlyFrames, memory: &'a M) -> Self {
        Self { frames, memory }
    }
}

// SAFETY: `EarlyFrames` hands out whole frames, each to one user until it is released; by the contract of `new` nobody
// else uses them; and they are cleared here.
unsafe impl<M: PhysMemory> FrameSource for TableFrames<'_, M> {
    fn allocate(&self) -> Option<PhysAddr> {
        let frame = self.frames.allocate()?;
        let Some(words) = self.memory.entries::<u64>(frame.start(), WORDS) else {
            self.release(frame.start());
            return None;
        };
        for word in words {
            <u64 as RawEntry>::store(word, 0);
        }
        Some(frame.start())
    }

    fn release(&self, frame: PhysAddr) {
        match self.frames.release(frame.pfn()) {
            // A lost frame is in the source's counts.
            Ok(()) | Err(ReleaseError::ListFull(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
