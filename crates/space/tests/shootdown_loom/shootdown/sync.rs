//! Loom's atomics, which cannot be made in constants.

pub(super) use loom::cell::UnsafeCell;
pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A constructor.
macro_rules! constructor {
    ($(#[$attribute:meta])* $visibility:vis fn $($rest:tt)*) => {
        $(#[$attribute])* $visibility fn $($rest)*
    };
}

/// An array of equal values that cannot be copied.
macro_rules! array_of {
    ($value:expr; $count:expr) => {{
        let array: [_; $count] = core::array::from_fn(|_| $value);
        array
    }};
}

/// Calls `$use` with a pointer to what an [`UnsafeCell`] holds; loom sees to it that nobody else does meanwhile.
macro_rules! with_cell {
    ($cell:expr, $pointer:ident => $use:expr) => {
        $cell.with_mut(|$pointer| $use)
    };
}
