//! Loom's atomics, which cannot be made in constants.

pub(super) use loom::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// A constructor.
macro_rules! constructor {
    ($(#[$attribute:meta])* $visibility:vis fn $($rest:tt)*) => {
        $(#[$attribute])* $visibility fn $($rest)*
    };
}
