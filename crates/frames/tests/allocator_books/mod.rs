//! Books for allocators under test: zeroed memory, which the host fills in as it is touched.

use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc};

use kspace_frames::{FrameAllocator, Metadata, MetadataSize};
use kspace_layout::Pfn;

/// Zeroed memory for the books of one allocator.
pub struct Books {
    pub start: Pfn,
    pub frames: usize,
    size: MetadataSize,
    memory: NonNull<u8>,
}

impl Books {
    pub fn new(start: u64, frames: usize, cpus: usize) -> Self {
        let start = Pfn::new(start);
        let size = MetadataSize::new(start, frames, cpus);
        // SAFETY: the size is not zero.
        let memory = NonNull::new(unsafe { alloc_zeroed(Self::layout(size)) }).unwrap();
        Self {
            start,
            frames,
            size,
            memory,
        }
    }

    fn layout(size: MetadataSize) -> Layout {
        Layout::from_size_align(size.bytes(), MetadataSize::ALIGN).unwrap()
    }

    /// The arrays. For one allocator only.
    #[cfg(not(feature = "loom"))]
    pub fn metadata(&self) -> Metadata<'_> {
        // SAFETY: zeroed, aligned, of that size, and alive as long as `self`.
        unsafe { Metadata::from_zeroed(self.memory, self.size) }
    }

    /// With loom's atomics, which are no zeros, only the models run; the rest of the tests need not be left out of the build.
    #[cfg(feature = "loom")]
    pub fn metadata(&self) -> Metadata<'_> {
        panic!(
            "run with `loom_`: {} bytes at {:?}",
            self.size.bytes(),
            self.memory
        )
    }

    /// The allocator, with no memory yet.
    pub fn allocator(&self) -> FrameAllocator<'_> {
        FrameAllocator::new(self.start, self.frames, self.metadata()).unwrap()
    }
}

impl Drop for Books {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.memory.as_ptr(), Self::layout(self.size)) };
    }
}
