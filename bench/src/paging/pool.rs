//! Frames for page tables, the same for every contender: physical addresses are host addresses, so that reaching a table costs
//! nobody anything.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
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
            let host = unsafe { alloc_zeroed(layout) };
            if host.is_null() {
                handle_alloc_error(layout);
            }
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
