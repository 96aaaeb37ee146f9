//! Values that CPUs write, apart from those that all of them read.
//!
//! ```text
//!   | area, tables, batch, ... read by every call | lazy |      | dirty |      | pool        |     one column: a cache line
//! ```
//!
//! A write takes the line away from all other CPUs. What they read at every call should not go with it.

use core::ops::Deref;

/// A value on cache lines of its own.
#[repr(align(64))]
pub(super) struct Apart<T>(pub(super) T);

impl<T> Deref for Apart<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}
