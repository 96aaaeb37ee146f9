//! Frames for page tables, the same for every contender: physical addresses are host addresses, so that reaching a table costs
//! nobody anything; and the host maps them with huge pages if it can, as a kernel's direct map does.

use std::alloc::{Layout, alloc, handle_alloc_error};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Enough for the tables of 1 GiB in 4 KiB pages.
const FRAMES: u64 = 1024;
const FRAME: u64 = 4096;

/// Frames handed out in order, and taken back all at once. One contender's own.
pub(super) struct Pool {
    start: AtomicU64,
    next: AtomicU64,
}

impl Pool {
    pub(super) const fn new() -> Self {
        Self {
            start: AtomicU64::new(0),
            next: AtomicU64::new(0),
        }
    }

    /// Takes all frames back, with what is in them.
    pub(super) fn reset(&self) {
        if self.start.load(Relaxed) == 0 {
            let layout =
                Layout::from_size_align((FRAMES * FRAME) as usize, 2 << 20).expect("sound");
            // SAFETY: the layout is not empty.
            let host = unsafe { alloc(layout) };
            if host.is_null() {
                handle_alloc_error(layout);
            }
            // SAFETY: advice about memory that was just allocated, before its first use; if it is not taken, no harm is done.
            unsafe { libc::madvise(host.cast(), layout.size(), libc::MADV_HUGEPAGE) };
            // SAFETY: all of the allocation, which nobody uses yet.
            unsafe { core::ptr::write_bytes(host, 0, layout.size()) };
            self.start.store(host as u64, Relaxed);
        }
        self.next.store(self.start.load(Relaxed), Relaxed);
    }

    /// The next frame, 4 KiB of this pool's own that nobody else has, not cleared.
    pub(super) fn allocate(&self) -> Option<u64> {
        // One thread: no locked addition, which would only slow everybody down alike.
        let frame = self.next.load(Relaxed);
        if frame == self.start.load(Relaxed) + FRAMES * FRAME {
            return None;
        }
        self.next.store(frame + FRAME, Relaxed);
        Some(frame)
    }
}
