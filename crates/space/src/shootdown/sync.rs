//! The atomics of the protocol, in one place: the models of its lock-free parts replace this file by one of loom's.

pub(super) use core::cell::UnsafeCell;
pub(super) use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A constructor: `const`, because what it makes lies in a static.
macro_rules! constructor {
    ($(#[$attribute:meta])* $visibility:vis fn $($rest:tt)*) => {
        $(#[$attribute])* $visibility const fn $($rest)*
    };
}

/// An array of equal values that cannot be copied.
macro_rules! array_of {
    ($value:expr; $count:expr) => {
        [const { $value }; $count]
    };
}

/// Calls `$use` with a pointer to what an [`UnsafeCell`] holds.
macro_rules! with_cell {
    ($cell:expr, $pointer:ident => $use:expr) => {{
        let $pointer = $cell.get();
        $use
    }};
}
