//! Frames for page tables before there is an allocator.

use kspace_frames::{EarlyFrames, ReleaseError};
use kspace_layout::{FRAME_SIZE, PageSize, Pfn, PhysAddr};
use kspace_paging::{FrameSource, PhysMemory, RawEntry};

use crate::PageSource;

/// 8-byte entries in a frame.
const WORDS: usize = 512;

/// Frames in a page of 2 MiB.
const LARGE_FRAMES: u64 = PageSize::Size2M.bytes() / FRAME_SIZE;

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

impl<M: PhysMemory> TableFrames<'_, M> {
    /// `frames` frames of zeros in a row, aligned to so many.
    fn allocate_run(&self, frames: u64) -> Option<PhysAddr> {
        let first = self.frames.allocate_run(frames, frames)?;
        let mut all = (first.as_u64()..).take(frames as usize);
        let cleared = all.all(|frame| Pfn::try_new(frame).is_ok_and(|frame| self.clear(frame)));
        if !cleared {
            self.release_run(first.start(), frames);
            return None;
        }
        Some(first.start())
    }

    /// Whether the frame could be reached and is zero now.
    fn clear(&self, frame: Pfn) -> bool {
        let words = self.memory.entries::<u64>(frame.start(), WORDS);
        words.is_some_and(|words| {
            words
                .iter()
                .for_each(|word| <u64 as RawEntry>::store(word, 0));
            true
        })
    }

    fn release_run(&self, first: PhysAddr, frames: u64) {
        match self.frames.release_run(first.pfn(), frames) {
            // Lost frames are in the source's counts.
            Ok(()) | Err(ReleaseError::ListFull { .. } | ReleaseError::HandedOver { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

// SAFETY: `EarlyFrames` hands out whole frames, each to one user until it is released; by the contract of `new` nobody
// else uses them; and they are cleared here.
unsafe impl<M: PhysMemory> FrameSource for TableFrames<'_, M> {
    fn allocate(&self) -> Option<PhysAddr> {
        self.allocate_run(1)
    }

    fn release(&self, frame: PhysAddr) {
        self.release_run(frame, 1);
    }
}

// SAFETY: as above, with so many frames in a row, aligned to their number.
unsafe impl<M: PhysMemory> PageSource for TableFrames<'_, M> {
    fn allocate_large(&self) -> Option<PhysAddr> {
        self.allocate_run(LARGE_FRAMES)
    }

    fn release_large(&self, page: PhysAddr) {
        self.release_run(page, LARGE_FRAMES);
    }
}
