//! Memory for what is kept at addresses of its own: frames, and pages of 2 MiB.

use kspace_layout::PhysAddr;
use kspace_paging::FrameSource;

/// Frames as any [`FrameSource`] gives them, and pages of 2 MiB.
///
/// # Safety
///
/// A page from `allocate_large` is 2 MiB of memory, at a multiple of 2 MiB, that nothing else uses until it is released, and that
/// reads as zeros.
pub unsafe trait PageSource: FrameSource {
    /// 2 MiB of zeros; `None` when there are no more in a row.
    fn allocate_large(&self) -> Option<PhysAddr>;

    /// Takes back what `allocate_large` returned. What is in it is anybody's guess.
    fn release_large(&self, page: PhysAddr);
}

// SAFETY: the calls go to a value that upholds the contract.
unsafe impl<S: PageSource + ?Sized> PageSource for &S {
    fn allocate_large(&self) -> Option<PhysAddr> {
        (**self).allocate_large()
    }

    fn release_large(&self, page: PhysAddr) {
        (**self).release_large(page);
    }
}

/// The large pages of a source, as if they were frames: what takes frames aside can take these.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LargePages<'a, S>(pub(crate) &'a S);

// SAFETY: a page of 2 MiB is a frame and more, by the contract of `PageSource` nobody else's, and zero.
unsafe impl<S: PageSource> FrameSource for LargePages<'_, S> {
    fn allocate(&self) -> Option<PhysAddr> {
        self.0.allocate_large()
    }

    fn release(&self, frame: PhysAddr) {
        self.0.release_large(frame);
    }
}
