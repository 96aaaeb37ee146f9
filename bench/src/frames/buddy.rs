//! `buddy_system_allocator`, behind its own lock.

use buddy_system_allocator::LockedFrameAllocator;

use super::loads::Contender;

/// The peer's frame allocator as it comes.
pub(super) struct Buddy(LockedFrameAllocator<33>);

impl Buddy {
    pub(super) fn new(frames: usize) -> Self {
        let buddy = LockedFrameAllocator::new();
        buddy.lock().add_frame(0, frames);
        Self(buddy)
    }
}

impl Contender for Buddy {
    type Cpu = ();

    fn cpu(&self, _number: usize) {}

    #[inline]
    fn allocate(&self, _cpu: &(), order: usize) -> Option<usize> {
        self.0.lock().alloc(1 << order)
    }

    #[inline]
    fn free(&self, _cpu: &(), frame: usize, order: usize) {
        self.0.lock().dealloc(frame, 1 << order);
    }

    fn drain(&self, _cpu: &()) {}
}
