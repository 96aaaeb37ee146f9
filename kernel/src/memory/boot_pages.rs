//! Boot's frames as zeroed pages, reached through the direct map.

use core::ptr::NonNull;

use kspace::PageSource;
use kspace_frames::EarlyFrames;
use kspace_layout::{FRAME_SIZE, PageSize, PhysAddr};
use kspace_paging::FrameSource;

use crate::arch::Window;

/// Frames in a page of 2 MiB.
const LARGE: u64 = PageSize::Size2M.bytes() / FRAME_SIZE;

/// Zeroed frames and pages of 2 MiB from boot's frames. (`kspace::TableFrames` is the same for any memory, entry by entry; this
/// fills with one instruction.)
pub(super) struct BootPages<'a> {
    pub(super) frames: &'a EarlyFrames,
    pub(super) window: Window,
}

/// So many frames in a row, zeroed: where they are, and as memory.
pub(super) fn zeroed(
    frames: &EarlyFrames,
    window: &Window,
    count: u64,
    align: u64,
) -> Option<(PhysAddr, NonNull<u8>)> {
    let first = frames.allocate_run(count, align)?.start();
    let start = NonNull::new(window.pointer(first, count * FRAME_SIZE)?)?;
    // SAFETY: fresh frames of RAM, in reach of the window.
    unsafe { start.write_bytes(0, (count * FRAME_SIZE) as usize) };
    Some((first, start))
}

impl BootPages<'_> {
    fn allocate_run(&self, count: u64) -> Option<PhysAddr> {
        zeroed(self.frames, &self.window, count, count).map(|(first, _)| first)
    }

    fn release_run(&self, first: PhysAddr, count: u64) {
        if let Err(error) = self.frames.release_run(first.pfn(), count) {
            panic!("{error}");
        }
    }
}

// SAFETY: boot's frames are handed out once until they are released, are RAM that nothing else uses by the contract of
// `bring_up`, and are zeroed here.
unsafe impl FrameSource for BootPages<'_> {
    fn allocate(&self) -> Option<PhysAddr> {
        self.allocate_run(1)
    }

    fn release(&self, frame: PhysAddr) {
        self.release_run(frame, 1);
    }
}

// SAFETY: as above, so many frames in a row, aligned to their number.
unsafe impl PageSource for BootPages<'_> {
    fn allocate_large(&self) -> Option<PhysAddr> {
        self.allocate_run(LARGE)
    }

    fn release_large(&self, page: PhysAddr) {
        self.release_run(page, LARGE);
    }
}
