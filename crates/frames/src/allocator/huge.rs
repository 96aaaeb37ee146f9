//! One counter for each huge frame, two of them in one word of memory, so that a block of order 10 is taken in one step.
//!
//! ```text
//!   31          16 15           0        each half:  0          all free
//!   |  odd huge    |  even huge  |                   1..=511    so many frames used or reserved
//!                                                    512        none free
//!                                                    WHOLE      handed out as one block of order 9 (or half of an order 10)
//!                                                    RESERVED   no memory that may be used
//! ```
//!
//! **Protocol.** To take frames of a huge frame: first raise its counter by so many (*reserve*), then claim that many bits.
//! To give back: first clear the bits, then lower the counter. So the counter is never below the number of set bits, there
//! are always enough clear bits for all reservations, and a counter of 0 means that nobody uses, claims or is about to
//! claim any of the 512: whoever changes it from 0 to `WHOLE` in one step owns all of them. The bits stay 0 meanwhile.
//!
//! Every change is one read-modify-write, so old and new value are known exactly; what it means for the tree's counts is
//! in [`Change`].

use super::index::{HUGE_FRAMES, HugeId, Order};
use super::sync::{AcqRel, Acquire, AtomicU32, Relaxed, Release};

const FULL: u32 = HUGE_FRAMES as u32;
const WHOLE: u32 = 0x8000;
const RESERVED: u32 = 0xc000;
const HALF: u32 = 0xffff;

/// The counters of two neighbouring huge frames.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct HugePair(AtomicU32);

/// What a huge frame is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    /// All 512 frames are free.
    Free,
    /// So many frames are free, 1 to 511.
    Partial(usize),
    /// None is free.
    Full,
    /// In use as one block.
    Whole,
    /// No usable memory.
    Reserved,
}

/// How many more huge frames of a tree are wholly free, and partly free, after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Change {
    pub(super) whole: i16,
    pub(super) partial: i16,
}

impl Change {
    /// Nothing changed.
    pub(super) const NONE: Self = Self {
        whole: 0,
        partial: 0,
    };

    #[inline]
    fn between(old: u32, new: u32) -> Self {
        Self {
            whole: i16::from(new == 0) - i16::from(old == 0),
            partial: i16::from(is_partial(new)) - i16::from(is_partial(old)),
        }
    }

    /// Both, one after the other.
    #[inline]
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            whole: self.whole + other.whole,
            partial: self.partial + other.partial,
        }
    }
}

#[inline]
fn is_partial(half: u32) -> bool {
    half.wrapping_sub(1) < FULL - 1
}

#[inline]
fn fill(half: u32) -> Fill {
    match half {
        0 => Fill::Free,
        FULL => Fill::Full,
        RESERVED => Fill::Reserved,
        used if used < FULL => Fill::Partial((FULL - used) as usize),
        _ => Fill::Whole,
    }
}

/// One huge frame's half of its pair.
#[derive(Clone, Copy)]
pub(super) struct Counter<'a> {
    pair: &'a HugePair,
    shift: u32,
}

impl HugePair {
    /// The half that belongs to `huge`.
    #[inline]
    pub(super) fn half(&self, huge: HugeId) -> Counter<'_> {
        Counter {
            pair: self,
            shift: (huge.get() as u32 & 1) * 16,
        }
    }

    /// What the even and the odd one are, in one look.
    #[inline]
    pub(super) fn fills(&self) -> [Fill; 2] {
        let bits = self.0.load(Relaxed);
        [fill(bits & HALF), fill(bits >> 16)]
    }

    /// Whether all frames of the even and the odd one are free.
    #[inline]
    pub(super) fn free_halves(&self) -> [bool; 2] {
        let bits = self.0.load(Relaxed);
        [bits & HALF == 0, bits >> 16 == 0]
    }

    /// How many frames are free in the even and the odd one, if that is at least `least` (1 or more) but not all; else 0.
    #[inline]
    pub(super) fn free_in_partial(&self, least: usize) -> [usize; 2] {
        let bits = self.0.load(Relaxed);
        [bits & HALF, bits >> 16].map(|half| {
            // Whatever is no count of used frames wraps around to more than all.
            let free = FULL.wrapping_sub(half);
            let is_so = free.wrapping_sub(least as u32) < FULL - least as u32;
            if is_so { free as usize } else { 0 }
        })
    }

    /// Takes both, as one block of order 10 or as two of order 9, if both are free.
    pub(super) fn take_both(&self) -> Option<Change> {
        self.0
            .compare_exchange(0, WHOLE << 16 | WHOLE, AcqRel, Relaxed)
            .ok()
            .map(|_| Change {
                whole: -2,
                partial: 0,
            })
    }

    /// Gives both back, which were taken as one.
    pub(super) fn give_both(&self) -> Change {
        self.0.fetch_and(0, Release);
        Change {
            whole: 2,
            partial: 0,
        }
    }
}

impl Counter<'_> {
    /// What the huge frame is now.
    #[inline]
    pub(super) fn fill(self) -> Fill {
        fill((self.pair.0.load(Acquire) >> self.shift) & HALF)
    }

    /// Reserves between `least` and `most` frames, as many as are free.
    #[inline]
    pub(super) fn reserve(self, least: usize, most: usize) -> Option<(usize, Change)> {
        let mut old = self.pair.0.load(Relaxed);
        loop {
            let half = (old >> self.shift) & HALF;
            if half >= FULL {
                return None;
            }
            let count = ((FULL - half) as usize).min(most);
            if count < least {
                return None;
            }
            let new = old + ((count as u32) << self.shift);
            match self.pair.0.compare_exchange_weak(old, new, AcqRel, Relaxed) {
                Ok(_) => return Some((count, Change::between(half, half + count as u32))),
                Err(now) => old = now,
            }
        }
    }

    /// Gives `count` frames back, whose bits are clear already.
    #[inline]
    pub(super) fn give(self, count: usize) -> Change {
        let count = count as u32;
        let old = self.pair.0.fetch_sub(count << self.shift, AcqRel);
        let half = (old >> self.shift) & HALF;
        Change::between(half, half - count)
    }

    /// Takes all 512 frames as one, if all are free.
    #[inline]
    pub(super) fn take_whole(self) -> Option<Change> {
        self.swap_half(0, WHOLE)
    }

    /// Gives back what was taken as one.
    #[inline]
    pub(super) fn give_whole(self) -> Change {
        self.pair.0.fetch_and(!(HALF << self.shift), Release);
        Change::between(WHOLE, 0)
    }

    /// From one block of order 9 to smaller ones, none of them free; their bits are set already.
    pub(super) fn break_whole(self) -> Change {
        self.swap_half(WHOLE, FULL).unwrap_or(Change::NONE)
    }

    /// Marks a huge frame that nobody looks at yet as no memory.
    pub(super) fn set_reserved(self) {
        let clear = !(HALF << self.shift);
        let _ = self.pair.0.fetch_update(AcqRel, Relaxed, |old| {
            Some(old & clear | (RESERVED << self.shift))
        });
    }

    /// Turns a reserved huge frame into one with `used` frames used. The bits are right already.
    pub(super) fn open(self, used: usize) -> Change {
        self.swap_half(RESERVED, used as u32)
            .unwrap_or(Change::NONE)
    }

    fn swap_half(self, from: u32, to: u32) -> Option<Change> {
        self.pair
            .0
            .fetch_update(AcqRel, Relaxed, |old| {
                ((old >> self.shift) & HALF == from)
                    .then_some(old & !(HALF << self.shift) | (to << self.shift))
            })
            .ok()
            .map(|_| Change::between(from, to))
    }
}

/// Whether a block of `order` takes both halves of a pair.
pub(super) const fn is_pair(order: Order) -> bool {
    order.get() > Order::HUGE.get()
}
