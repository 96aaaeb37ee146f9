//! The atomics of the lock-free parts, in one place: their models replace this file by one of loom's.

pub(super) use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// A constructor: `const`, because what it makes may lie in a static.
macro_rules! constructor {
    ($(#[$attribute:meta])* $visibility:vis fn $($rest:tt)*) => {
        $(#[$attribute])* $visibility const fn $($rest)*
    };
}
