//! The units the allocator counts in, each a type of its own, so that a huge frame's number cannot be taken for a
//! frame's.
//!
//! ```text
//!   TreeId    |               0               |               1   ...     32 huge frames, 64 MiB
//!   HugeId    |   0   |   1   |  ...  |  31   |  32   |           ...     512 frames, 2 MiB
//!   FrameId   |0 1 ...|512 ...|                                   ...     4 KiB
//! ```
//!
//! All count from the allocator's base, which is aligned to [`Order::MAX`]: a number aligned to an order is a physical
//! address aligned to that order.

use core::fmt;

/// Frames in a huge frame: what one entry of the second-lowest level maps (2 MiB; Intel SDM vol. 3, section 5.5).
pub const HUGE_FRAMES: usize = 1 << Order::HUGE.0;

/// Huge frames in a tree: their counters fill one cache line of 64 bytes.
pub const TREE_HUGES: usize = 32;

/// Frames in a tree.
pub const TREE_FRAMES: usize = TREE_HUGES * HUGE_FRAMES;

/// A power of two of frames: order 0 is one frame, order 9 is 2 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Order(u8);

impl Order {
    /// One frame.
    pub const FRAME: Self = Self(0);
    /// 512 frames, 2 MiB.
    pub const HUGE: Self = Self(9);
    /// The largest that is handed out: 1024 frames, 4 MiB (Linux: `MAX_PAGE_ORDER`, include/linux/mmzone.h).
    pub const MAX: Self = Self(10);
    /// How many orders there are.
    pub const COUNT: usize = Self::MAX.0 as usize + 1;

    /// As [`try_new`](Self::try_new), for constants.
    ///
    /// # Panics
    ///
    /// When `order` is above 10; in a `const` that is a compile error.
    #[must_use]
    pub const fn new(order: u8) -> Self {
        assert!(order <= Self::MAX.0, "order is above 10");
        Self(order)
    }

    /// Checks that there is such an order.
    ///
    /// # Errors
    ///
    /// [`OrderTooLarge`].
    pub const fn try_new(order: u32) -> Result<Self, OrderTooLarge> {
        if order <= Self::MAX.0 as u32 {
            Ok(Self(order as u8))
        } else {
            Err(OrderTooLarge { order })
        }
    }

    /// The largest order of which `frames` frames hold a block; `None` for no frames.
    #[must_use]
    pub const fn largest_in(frames: usize) -> Option<Self> {
        match frames.checked_ilog2() {
            Some(log) if log < Self::MAX.0 as u32 => Some(Self(log as u8)),
            Some(_) => Some(Self::MAX),
            None => None,
        }
    }

    /// The next smaller order.
    #[must_use]
    pub const fn smaller(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(order) => Some(Self(order)),
            None => None,
        }
    }

    /// The number itself.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// How many frames a block of this order has.
    #[inline]
    #[must_use]
    pub const fn frames(self) -> usize {
        1 << self.0
    }
}

impl fmt::Display for Order {
    /// `order 9 (2 MiB)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = 4_u32 << self.0;
        if kib < 1024 {
            write!(f, "order {} ({kib} KiB)", self.0)
        } else {
            write!(f, "order {} ({} MiB)", self.0, kib / 1024)
        }
    }
}

/// An order above [`Order::MAX`] was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderTooLarge {
    order: u32,
}

impl fmt::Display for OrderTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "frames: order {}: the largest is {}; ask for a contiguous range",
            self.order,
            Order::MAX
        )
    }
}

impl core::error::Error for OrderTooLarge {}

/// A frame, counted from the allocator's base. Only a number: whether there is such a frame, the allocator says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId(usize);

/// A huge frame (2 MiB), counted from the allocator's base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HugeId(usize);

/// A tree (64 MiB), counted from the allocator's base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId(usize);

macro_rules! numbers {
    ($($id:ident, $what:literal;)*) => {$(
        impl $id {
            #[doc = concat!("The ", $what, " with this number.")]
            #[inline]
            #[must_use]
            pub const fn new(number: usize) -> Self {
                Self(number)
            }

            /// The number itself.
            #[inline]
            #[must_use]
            pub const fn get(self) -> usize {
                self.0
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($what, " {}"), self.0)
            }
        }
    )*};
}

numbers! {
    FrameId, "frame";
    HugeId, "huge frame";
    TreeId, "tree";
}

impl FrameId {
    /// The huge frame it lies in.
    #[inline]
    #[must_use]
    pub const fn huge(self) -> HugeId {
        HugeId(self.0 / HUGE_FRAMES)
    }

    /// The tree it lies in.
    #[inline]
    #[must_use]
    pub const fn tree(self) -> TreeId {
        TreeId(self.0 / TREE_FRAMES)
    }

    /// Its place in its huge frame, 0 to 511.
    #[inline]
    #[must_use]
    pub const fn in_huge(self) -> usize {
        self.0 % HUGE_FRAMES
    }

    /// Whether a block of `order` can begin here.
    #[inline]
    #[must_use]
    pub const fn is_aligned(self, order: Order) -> bool {
        self.0 & (order.frames() - 1) == 0
    }

    /// The first frame of the block of `order` that it would lie in.
    #[inline]
    #[must_use]
    pub const fn align_down(self, order: Order) -> Self {
        Self(self.0 & !(order.frames() - 1))
    }

    /// The largest order of a block that can begin here and has at most `frames` frames (at least 1).
    #[must_use]
    pub(super) fn largest_block(self, frames: usize) -> Order {
        let fits = Order::largest_in(frames).unwrap_or(Order::FRAME);
        let aligned = Order::try_new(self.0.trailing_zeros()).unwrap_or(Order::MAX);
        fits.min(aligned)
    }

    /// The frame `count` further on.
    #[inline]
    #[must_use]
    pub(super) const fn plus(self, count: usize) -> Self {
        Self(self.0 + count)
    }
}

impl HugeId {
    /// Its first frame.
    #[inline]
    #[must_use]
    pub const fn first_frame(self) -> FrameId {
        FrameId(self.0 * HUGE_FRAMES)
    }

    /// The tree it lies in.
    #[inline]
    #[must_use]
    pub const fn tree(self) -> TreeId {
        TreeId(self.0 / TREE_HUGES)
    }
}

impl TreeId {
    /// Its first huge frame.
    #[inline]
    #[must_use]
    pub const fn first_huge(self) -> HugeId {
        HugeId(self.0 * TREE_HUGES)
    }

    /// Its first frame.
    #[inline]
    #[must_use]
    pub const fn first_frame(self) -> FrameId {
        FrameId(self.0 * TREE_FRAMES)
    }
}
