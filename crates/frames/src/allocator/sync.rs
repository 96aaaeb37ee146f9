//! The atomics of the allocator: the CPU's, or those of the `loom` model checker, which tries every order of the
//! accesses that the memory model allows. Nothing else differs between the two builds.

#[cfg(not(feature = "loom"))]
pub(super) use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};

#[cfg(feature = "loom")]
pub(super) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};

pub(super) use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// Waits a moment for another CPU that is between two steps.
#[inline]
pub(super) fn pause() {
    #[cfg(feature = "loom")]
    loom::thread::yield_now();
    #[cfg(not(feature = "loom"))]
    core::hint::spin_loop();
}
