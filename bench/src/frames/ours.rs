//! Our allocator, on zeroed memory from the host.

use std::ptr::NonNull;

use kspace_frames::{FrameAllocator, FreeError, Metadata, MetadataSize, Order, Owner, PinnedCpu};
use kspace_layout::Pfn;

use super::loads::Contender;

/// Our allocator, with its books, which stay until the process ends.
pub(super) struct Ours(pub(super) FrameAllocator<'static>);

impl Ours {
    /// All of `frames` frames from number 0 are usable.
    pub(super) fn new(frames: usize, cpus: usize) -> Option<Self> {
        let start = Pfn::new(0);
        let size = MetadataSize::new(start, frames, cpus);
        let memory = zeroed(size.bytes())?;
        // SAFETY: zeroed, page-aligned, of that size, never unmapped, and used by nothing else.
        let metadata = unsafe { Metadata::from_zeroed(memory, size) };
        let allocator = FrameAllocator::new(start, frames, metadata).ok()?;
        allocator.add(start, frames).ok()?;
        Some(Self(allocator))
    }
}

#[cold]
fn wrong(error: &FreeError) -> ! {
    panic!("{error}")
}

/// Zero pages that exist once they are touched.
fn zeroed(bytes: usize) -> Option<NonNull<u8>> {
    // SAFETY: a new private mapping changes nothing that is there.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    (memory != libc::MAP_FAILED)
        .then(|| NonNull::new(memory.cast()))
        .flatten()
}

impl Contender for Ours {
    type Cpu = PinnedCpu;

    fn cpu(&self, number: usize) -> PinnedCpu {
        // SAFETY: each thread of a load has a number of its own.
        unsafe { PinnedCpu::new(number as u16) }
    }

    #[inline(always)]
    fn allocate(&self, cpu: &PinnedCpu, order: usize) -> Option<usize> {
        let order = Order::try_new(order as u32).ok()?;
        let block = self.0.allocate(cpu, order, Owner::USER).ok()?;
        Some(block.into_raw().0.as_u64() as usize)
    }

    #[inline(always)]
    fn free(&self, cpu: &PinnedCpu, frame: usize, order: usize) {
        let (Ok(pfn), Ok(order)) = (Pfn::try_new(frame as u64), Order::try_new(order as u32))
        else {
            return;
        };
        // SAFETY: the loads free what they were given, once.
        let freed = unsafe { self.0.free(cpu, pfn, order) };
        if let Err(error) = freed {
            wrong(&error);
        }
    }

    /// By the owned value: it needs no check that a number could be one of a block.
    #[inline(always)]
    fn pair(&self, cpu: &PinnedCpu, order: usize) -> bool {
        let Ok(order) = Order::try_new(order as u32) else {
            return false;
        };
        let Ok(block) = self.0.allocate(cpu, order, Owner::USER) else {
            return false;
        };
        if let Err(error) = block.free(cpu) {
            wrong(&error);
        }
        true
    }

    fn drain(&self, cpu: &PinnedCpu) {
        self.0.drain(cpu);
    }
}
