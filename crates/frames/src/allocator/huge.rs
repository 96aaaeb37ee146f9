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
//!
//! **Searches in vain.** Bits 10 to 13 of a half remember the smallest order of which a search found no run there; 0: no search was in
//! vain. The next search for such a run passes by. Whoever gives frames back forgets it, in the same step, so a half whose frames are
//! all free is 0. It is noted only where the counter is as it was when the search began; frames given back and others taken meanwhile can make
//! that so by chance, and then a run is overlooked until the next frame comes back: searches that would fail look again without it.

use super::index::{HUGE_FRAMES, HugeId, Order};
use super::sync::{AcqRel, Acquire, AtomicU32, Relaxed, Release};

const FULL: u32 = HUGE_FRAMES as u32;
const WHOLE: u32 = 0x8000;
const RESERVED: u32 = 0xc000;
const HALF: u32 = 0xffff;
const VAIN_SHIFT: u32 = 10;
const VAIN: u32 = 0b1111 << VAIN_SHIFT;

/// A half without what it remembers of searches.
#[inline]
const fn count_of(half: u32) -> u32 {
    half & !VAIN
}

/// Whether a half remembers that there is no run of this order.
#[inline]
const fn has_none(half: u32, order: u32) -> bool {
    // Nothing remembered wraps around to more than any order.
    ((half & VAIN) >> VAIN_SHIFT).wrapping_sub(1) < order
}

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
        let (old, new) = (count_of(old), count_of(new));
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
    match count_of(half) {
        0 => Fill::Free,
        FULL => Fill::Full,
        RESERVED => Fill::Reserved,
        used if used < FULL => Fill::Partial((FULL - used) as usize),
        _ => Fill::Whole,
    }
}

/// A half as it was at some time.
#[derive(Clone, Copy)]
pub(super) struct Seen(u32);

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

    /// How many frames are free in the even and the odd one, if that is not all, but as many as a run of `order` has, and no search for
    /// such a run was in vain; else 0.
    #[inline]
    pub(super) fn free_in_partial(&self, order: Order) -> [usize; 2] {
        let bits = self.0.load(Relaxed);
        let least = order.frames() as u32;
        [bits & HALF, bits >> 16].map(|half| {
            // Whatever is no count of used frames wraps around to more than all.
            let free = FULL.wrapping_sub(count_of(half));
            let is_so = free.wrapping_sub(least) < FULL - least;
            if is_so && !has_none(half, order.get().into()) {
                free as usize
            } else {
                0
            }
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
            let half = count_of((old >> self.shift) & HALF);
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
        let count = (count as u32) << self.shift;
        let mut old = self.pair.0.load(Relaxed);
        loop {
            let new = (old - count) & !(VAIN << self.shift);
            match self.pair.0.compare_exchange_weak(old, new, AcqRel, Relaxed) {
                Ok(_) => {
                    return Change::between((old >> self.shift) & HALF, (new >> self.shift) & HALF);
                }
                Err(now) => old = now,
            }
        }
    }

    /// What the half says now, for [`note_vain`](Self::note_vain), and how many frames are free, if that is as many as a run of `order` has and not
    /// all, and no search for such a run was in vain.
    #[inline]
    pub(super) fn partly_free(self, order: Order) -> Option<Seen> {
        let half = (self.pair.0.load(Acquire) >> self.shift) & HALF;
        let least = order.frames() as u32;
        let free = FULL.wrapping_sub(count_of(half));
        let is_so = free.wrapping_sub(least) < FULL - least;
        (is_so && !has_none(half, order.get().into())).then_some(Seen(half))
    }

    /// Remembers that a search for runs of `order` was in vain, which began when the half was as it was seen; not if it is another one now.
    #[cold]
    pub(super) fn note_vain(self, seen: Seen, order: Order) {
        let old = self.pair.0.load(Relaxed);
        if (old >> self.shift) & HALF == seen.0 {
            let half = count_of(seen.0) | u32::from(order.get()) << VAIN_SHIFT;
            let new = old & !(HALF << self.shift) | half << self.shift;
            // It is only a hint: whoever comes between has changed the other half, or this one.
            let _ = self.pair.0.compare_exchange(old, new, AcqRel, Relaxed);
        }
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
