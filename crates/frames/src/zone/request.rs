//! What is asked for: how much, from where, and how urgently.

use kspace_layout::PhysAddr;

use super::ZoneKind;
use crate::Owner;

/// A request for one block of frames.
///
/// ```
/// use kspace_frames::zone::{Request, Urgency, ZoneKind};
///
/// let page_for_a_table = Request::order(0).zeroed();
/// let buffer = Request::pages(5).up_to(ZoneKind::Dma32).urgency(Urgency::Atomic);
/// assert_eq!(buffer.wanted_order(), 3);
/// # let _ = page_for_a_table;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub(super) size: Size,
    pub(super) highest: Option<ZoneKind>,
    pub(super) last: Option<PhysAddr>,
    pub(super) urgency: Urgency,
    pub(super) fallback: Fallback,
    pub(super) zeroed: bool,
    pub(super) owner: Owner,
}

/// How much is asked for, as the caller said it: perhaps more than there can be, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Order(u32),
    Pages(u64),
}

/// How far into the reserves a request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Urgency {
    /// Down to the low mark, and after reclaim down to min. May wait.
    #[default]
    Usual,
    /// Down to half of min. May wait. (Linux: `__GFP_HIGH`.)
    High,
    /// Down to three eighths of min. May not wait. (Linux: `GFP_ATOMIC`.)
    Atomic,
}

impl Urgency {
    /// What of a zone's min mark holds for such a request.
    #[inline]
    #[must_use]
    pub const fn min(self, min: u64) -> u64 {
        match self {
            Self::Usual => min,
            Self::High => min - min / 2,
            Self::Atomic => {
                let half = min - min / 2;
                half - half / 4
            }
        }
    }

    /// Whether the request may wait for memory to be reclaimed.
    #[must_use]
    pub const fn may_wait(self) -> bool {
        !matches!(self, Self::Atomic)
    }
}

/// Where else memory may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fallback {
    /// Lower zones, then other nodes.
    #[default]
    All,
    /// Lower zones of the same node. (Linux: `__GFP_THISNODE`.)
    Node,
    /// Nowhere: from the one zone that was named.
    None,
}

impl Request {
    /// A block of 2^order frames, from any zone.
    #[must_use]
    pub const fn order(order: u32) -> Self {
        Self::of(Size::Order(order))
    }

    /// The smallest block with at least so many frames, from any zone.
    #[must_use]
    pub const fn pages(pages: u64) -> Self {
        Self::of(Size::Pages(pages))
    }

    const fn of(size: Size) -> Self {
        Self {
            size,
            highest: None,
            last: None,
            urgency: Urgency::Usual,
            fallback: Fallback::All,
            zeroed: false,
            owner: Owner::KERNEL,
        }
    }

    /// From this kind of zone or a lower one. Otherwise it is Normal, which the kernel always has mapped.
    #[must_use]
    pub const fn up_to(self, kind: ZoneKind) -> Self {
        Self {
            highest: Some(kind),
            ..self
        }
    }

    /// With no byte above `last`: what a device can reach.
    #[must_use]
    pub const fn below(self, last: PhysAddr) -> Self {
        Self {
            last: Some(last),
            ..self
        }
    }

    /// How far into the reserves it may go.
    #[must_use]
    pub const fn urgency(self, urgency: Urgency) -> Self {
        Self { urgency, ..self }
    }

    /// Where else memory may come from.
    #[must_use]
    pub const fn fallback(self, fallback: Fallback) -> Self {
        Self { fallback, ..self }
    }

    /// All bytes zero.
    #[must_use]
    pub const fn zeroed(self) -> Self {
        Self {
            zeroed: true,
            ..self
        }
    }

    /// Whether all bytes are to be zero.
    #[inline]
    #[must_use]
    pub const fn is_zeroed(&self) -> bool {
        self.zeroed
    }

    /// What it will be used for.
    #[must_use]
    pub const fn owner(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    /// The order that it comes to. It may be more than there is; a request for no pages comes to order 0, and is refused.
    #[must_use]
    pub const fn wanted_order(&self) -> u32 {
        match self.size {
            Size::Order(order) => order,
            Size::Pages(0) => 0,
            // 2^63 and more pages come to order 64, which no zone has.
            Size::Pages(pages) => u64::BITS - (pages - 1).leading_zeros(),
        }
    }
}
