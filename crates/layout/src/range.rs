//! Ranges of addresses: never empty, never wrapping, both ends inside one half of the address space.
//!
//! A range keeps its first and its *last* address, not its end: the last page of a 64-bit address space ends at 2^64, which no
//! address can name. Messages print ranges the same way, `ffffc90000000000-ffffe8ffffffffff`.

use core::fmt;

use crate::{AddressError, FRAME_SIZE, PhysAddr, VirtAddr};

macro_rules! address_range {
    ($(#[$doc:meta])* $range:ident of $addr:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $range {
            start: $addr,
            last: $addr,
        }

        impl $range {
            /// The range of `size` bytes at `start`.
            ///
            /// # Errors
            ///
            /// [`AddressError`] when `size` is zero, or when the last address is not one that `start` can reach.
            #[inline]
            pub const fn try_new(start: $addr, size: u64) -> Result<Self, AddressError> {
                if size == 0 {
                    return Err(AddressError::EmptyRange(start.as_u64()));
                }
                match start.checked_add(size - 1) {
                    Ok(last) => Ok(Self { start, last }),
                    Err(error) => Err(error),
                }
            }

            /// As [`try_new`](Self::try_new), for constants.
            ///
            /// # Panics
            ///
            /// When `try_new` would return an error; in a `const` that is a compile error.
            #[inline]
            #[must_use]
            pub const fn new(start: $addr, size: u64) -> Self {
                match Self::try_new(start, size) {
                    Ok(range) => range,
                    Err(_) => panic!("range is empty or leaves the address space"),
                }
            }

            /// The range from `start` to `last`, both included.
            ///
            /// # Errors
            ///
            /// [`AddressError::ReversedRange`] when `last` is below `start`; [`AddressError::VirtOverflow`] when the
            /// canonical hole lies between them.
            #[inline]
            pub const fn try_from_bounds(start: $addr, last: $addr) -> Result<Self, AddressError> {
                if last.as_u64() < start.as_u64() {
                    return Err(AddressError::ReversedRange {
                        start: start.as_u64(),
                        last: last.as_u64(),
                    });
                }
                match start.checked_add(last.as_u64() - start.as_u64()) {
                    Ok(last) => Ok(Self { start, last }),
                    Err(error) => Err(error),
                }
            }

            /// The first address.
            #[inline]
            #[must_use]
            pub const fn start(self) -> $addr {
                self.start
            }

            /// The last address, itself part of the range.
            #[inline]
            #[must_use]
            pub const fn last(self) -> $addr {
                self.last
            }

            /// The first address after the range, as a number: it may be 2^52, in the canonical hole, or (for a range that
            /// reaches the last address of a 64-bit space) 0.
            #[inline]
            #[must_use]
            pub const fn end_u64(self) -> u64 {
                self.last.as_u64().wrapping_add(1)
            }

            /// The size in bytes, at least 1.
            #[inline]
            #[must_use]
            pub const fn size(self) -> u64 {
                self.last.as_u64() - self.start.as_u64() + 1
            }

            /// Whether `address` lies in the range.
            #[inline]
            #[must_use]
            pub const fn contains(self, address: $addr) -> bool {
                self.start.as_u64() <= address.as_u64() && address.as_u64() <= self.last.as_u64()
            }

            /// Whether every address of `other` lies in the range.
            #[inline]
            #[must_use]
            pub const fn contains_range(self, other: Self) -> bool {
                self.contains(other.start) && self.contains(other.last)
            }

            /// Whether the two ranges share an address.
            #[inline]
            #[must_use]
            pub const fn overlaps(self, other: Self) -> bool {
                self.start.as_u64() <= other.last.as_u64()
                    && other.start.as_u64() <= self.last.as_u64()
            }

            /// The addresses that both ranges hold.
            #[inline]
            #[must_use]
            pub const fn intersection(self, other: Self) -> Option<Self> {
                if !self.overlaps(other) {
                    return None;
                }
                let start =
                    if self.start.as_u64() > other.start.as_u64() { self.start } else { other.start };
                let last =
                    if self.last.as_u64() < other.last.as_u64() { self.last } else { other.last };
                Some(Self { start, last })
            }

            /// Whether start and size are multiples of `align`, a power of two.
            ///
            /// # Panics
            ///
            /// When `align` is not a power of two.
            #[inline]
            #[must_use]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.start.is_aligned(align) && self.size() & (align - 1) == 0
            }

            /// The whole 4 KiB pages inside the range; `None` when it holds none.
            #[inline]
            #[must_use]
            pub const fn whole_pages(self) -> Option<Self> {
                let Ok(start) = self.start.align_up(FRAME_SIZE) else { return None };
                let end = self.end_u64();
                let cut = end & (FRAME_SIZE - 1);
                // `cut` bytes at the end are part of a page that is not whole.
                if self.last.as_u64() - self.start.as_u64() < cut {
                    return None;
                }
                let last = self.last.as_u64() - cut;
                if last < start.as_u64() {
                    return None;
                }
                match Self::try_new(start, last - start.as_u64() + 1) {
                    Ok(range) => Some(range),
                    Err(_) => None,
                }
            }
        }

        impl fmt::Display for $range {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}-{}", self.start, self.last)
            }
        }

        impl fmt::Debug for $range {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($range), "({}-{})"), self.start, self.last)
            }
        }
    };
}

address_range! {
    /// A range of virtual addresses in one half of the address space.
    ///
    /// # Invariants
    ///
    /// At least one byte; the canonical hole does not lie inside.
    VirtRange of VirtAddr
}

address_range! {
    /// A range of physical addresses.
    ///
    /// # Invariants
    ///
    /// At least one byte.
    PhysRange of PhysAddr
}
