//! The front: each CPU's stacks of single frames and of huge frames.
//!
//! ```text
//!   slots   [ oldest ............ newest |       |       ]
//!           0                          len     limit     capacity     taken from the top, put on the top
//! ```
//!
//! **Protocol.** Only the CPU itself touches its stacks, and only with a [`PinnedCpu`], so plain loads and stores do; no
//! locked instruction but the one that proves the free (`record`). Others may *request* that they be emptied, by lowering
//! every `limit` to 0: the CPU's own next free fails the comparison it makes anyway and comes to the slow path, and so does
//! its next allocation once the stack is empty, and the slow path empties all stacks and puts the limits back. Whoever needs
//! it done now sends an interrupt to that CPU, which calls [`FrameAllocator::drain_if_requested`]. A stopped CPU's stacks
//! are emptied by who holds its `PinnedCpu`.
//!
//! Frames in a stack are in use for the levels below (bits set, counters raised), and free in their record.

use core::marker::PhantomData;

use super::FrameAllocator;
use super::index::{FrameId, HugeId, Order};
use super::pause::Pause;
use super::record::FreedBy;
use super::sync::{AtomicUsize, Relaxed};

/// Single frames that a CPU keeps at most, 952 KiB: a little less than what Linux's CPUs may keep at least, four batches of 63
/// (mm/page_alloc.c, `zone_highsize`, `zone_batchsize`). As many as make a [`CpuSlot`] 2048 bytes: finding one is a shift.
pub(super) const SMALL: usize = if cfg!(feature = "loom") { 4 } else { 238 };

/// Huge frames that a CPU keeps at most, 16 MiB.
pub(super) const HUGE: usize = if cfg!(feature = "loom") { 2 } else { 8 };

/// Proof that the code that has it runs on this CPU, will go on running there, and is not interrupted by other code that
/// uses the allocator, as long as this value lives.
#[derive(Debug)]
pub struct PinnedCpu {
    cpu: u16,
    pub(super) freed_by: FreedBy,
    /// The proof is about this CPU: it must not move to another.
    here: PhantomData<*mut ()>,
}

impl PinnedCpu {
    /// The proof for the CPU with this number (counted from 0, as the allocator's [`CpuSlot`]s are).
    ///
    /// # Safety
    ///
    /// As long as the value lives, no other one for the same CPU is used: the caller has interrupts (or at least preemption
    /// and all handlers that allocate) off on that CPU, or has stopped it. What the last one did happened before this.
    #[inline]
    #[must_use]
    #[allow(unsafe_code)] // An unsafe constructor is how a promise is asked for.
    pub const unsafe fn new(cpu: u16) -> Self {
        Self {
            cpu,
            freed_by: FreedBy::cpu(cpu),
            here: PhantomData,
        }
    }

    /// The CPU's number.
    #[inline]
    #[must_use]
    pub const fn cpu(&self) -> u16 {
        self.cpu
    }
}

/// A stack of at most `N` numbers. All zero: empty, and its first use takes the slow path, which sets `limit`.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Stack<const N: usize> {
    len: AtomicUsize,
    /// Not to be put on at or above. 0: not used yet, or to be emptied.
    limit: AtomicUsize,
    slots: [AtomicUsize; N],
}

impl<const N: usize> Default for Stack<N> {
    fn default() -> Self {
        Self {
            len: AtomicUsize::new(0),
            limit: AtomicUsize::new(0),
            slots: core::array::from_fn(|_| AtomicUsize::new(0)),
        }
    }
}

impl<const N: usize> Stack<N> {
    #[inline]
    pub(super) fn pop(&self) -> Option<usize> {
        let top = self.len.load(Relaxed).wrapping_sub(1);
        // An empty stack's top is far outside.
        let slot = self.slots.get(top)?;
        self.len.store(top, Relaxed);
        Some(slot.load(Relaxed))
    }

    /// Takes off up to `most` numbers, the newest first.
    #[inline(always)]
    pub(super) fn pop_some(&self, most: usize) -> impl Iterator<Item = usize> {
        let len = self.len.load(Relaxed);
        let left = len.saturating_sub(most);
        self.len.store(left, Relaxed);
        let taken = self.slots.get(left..len).unwrap_or_default();
        taken.iter().rev().map(|slot| slot.load(Relaxed))
    }

    #[inline]
    pub(super) fn push(&self, number: usize) -> bool {
        let len = self.len.load(Relaxed);
        if len >= self.limit.load(Relaxed) {
            return false;
        }
        // No limit is above N.
        let Some(slot) = self.slots.get(len) else {
            return false;
        };
        slot.store(number, Relaxed);
        self.len.store(len + 1, Relaxed);
        true
    }

    /// Puts on as many of `numbers` as it has room for, and asks for no more; how many.
    #[inline(always)]
    pub(super) fn push_some(&self, numbers: impl Iterator<Item = usize>) -> usize {
        let len = self.len.load(Relaxed);
        let room = self.slots.get(len..self.limit.load(Relaxed));
        let mut count = 0;
        for (slot, number) in room.unwrap_or_default().iter().zip(numbers) {
            slot.store(number, Relaxed);
            count += 1;
        }
        self.len.store(len + count, Relaxed);
        count
    }

    /// Takes in up to `most` numbers, whatever the limit says, as `fill` puts them in: the first is the next to be taken. There must be room.
    pub(super) fn put_all(&self, most: usize, fill: impl FnOnce(&mut Places<'_>)) {
        let len = self.len.load(Relaxed);
        let all = &self.slots[len..len + most];
        let mut places = Places(all);
        fill(&mut places);
        let unused = places.0.len();
        if unused > 0 {
            for (to, from) in all.iter().zip(&all[unused..]) {
                to.store(from.load(Relaxed), Relaxed);
            }
        }
        self.len.store(len + most - unused, Relaxed);
    }

    /// As [`push`](Self::push), whatever the limit says: for a stack that was just found empty.
    pub(super) fn put(&self, number: usize) {
        let len = self.len.load(Relaxed);
        self.slots[len].store(number, Relaxed);
        self.len.store(len + 1, Relaxed);
    }

    /// How many it holds; from another CPU, how many it held a moment ago.
    pub(super) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    /// Whether it holds `number`; from another CPU, a moment ago.
    pub(super) fn holds(&self, number: usize) -> bool {
        let used = &self.slots[..self.len().min(N)];
        used.iter().any(|slot| slot.load(Relaxed) == number)
    }

    /// Asks for it to be emptied.
    fn request(&self) {
        self.limit.store(0, Relaxed);
    }

    /// Lets it be filled up to `limit`. Returns whether it was to be emptied.
    fn settle(&self, limit: usize) -> bool {
        let requested = self.limit.load(Relaxed) == 0;
        if requested {
            // A request that comes right now is met by what follows this one.
            self.limit.store(limit, Relaxed);
        }
        requested
    }

    /// The `count` oldest, or all.
    fn oldest(&self, count: usize) -> impl Iterator<Item = usize> {
        let count = count.min(self.len());
        self.slots[..count].iter().map(|slot| slot.load(Relaxed))
    }

    /// Forgets the `count` oldest, or all.
    fn forget_oldest(&self, count: usize) {
        let len = self.len();
        let count = count.min(len);
        for (to, from) in self.slots.iter().zip(&self.slots[count..len]) {
            to.store(from.load(Relaxed), Relaxed);
        }
        self.len.store(len - count, Relaxed);
    }
}

/// Places of a stack that are filled in from the last to be taken to the first.
pub(super) struct Places<'s>(&'s [AtomicUsize]);

impl Places<'_> {
    /// Fills in the numbers from `first` on whose bits are set, the lowest to be taken first.
    #[inline]
    pub(super) fn put_bits(&mut self, first: usize, mut bits: u64) {
        while bits != 0 {
            // A row of set bits at a time: often all there are.
            let low = bits.trailing_zeros();
            let row = (bits >> low).trailing_ones();
            let (rest, places) = self.0.split_at(self.0.len() - row as usize);
            for (number, place) in (first + low as usize..).zip(places.iter().rev()) {
                place.store(number, Relaxed);
            }
            self.0 = rest;
            bits &= u64::MAX.checked_shl(low + row).unwrap_or(0);
        }
    }
}

/// What one CPU has of its own.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct CpuSlot {
    pub(super) homes: Homes,
    /// Single frames.
    pub(super) small: Stack<SMALL>,
    /// Huge frames, by their first frames.
    pub(super) huge: Stack<HUGE>,
}

#[cfg(all(target_pointer_width = "64", not(feature = "loom")))]
const _: () = assert!(size_of::<CpuSlot>() == 2048);

impl CpuSlot {
    /// How many frames it keeps.
    fn kept(&self) -> usize {
        self.small.len() + self.huge.len() * Order::HUGE.frames()
    }
}

/// Where a CPU takes from. The trees it has reserved are there plus one, and so is the huge frame; 0 for none. And its part of the count of
/// free frames.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Homes {
    pub(super) small: AtomicUsize,
    pub(super) huge: AtomicUsize,
    /// The huge frame that its last run came from.
    pub(super) runs: AtomicUsize,
    /// When its own tree is looked at for what fits: single frames, short runs, long ones.
    pub(super) own_fits: [Pause; 3],
    /// When other trees are.
    pub(super) nearby: Pause,
    /// A change of the count of free frames that is not in the common count yet, modulo 2^bits.
    pub(super) free: AtomicUsize,
}

impl FrameAllocator<'_> {
    /// What the slow path begins with: follows a request to empty, and opens a stack not used yet.
    pub(super) fn settle(&self, slot: &CpuSlot) {
        let small = slot.small.settle(self.small_limit);
        // Where CPUs keep no huge frames the limit is always 0, and asks for nothing.
        let huge = slot.huge.settle(self.huge_limit) && self.huge_limit > 0;
        if small || huge {
            self.empty(slot);
        }
    }

    /// Puts a single frame on its CPU's full stack, after the older half has been given back.
    #[cold]
    #[inline(never)]
    pub(super) fn push_small_slow(&self, slot: &CpuSlot, frame: FrameId) {
        self.settle(slot);
        if slot.small.push(frame.get()) {
            return;
        }
        self.empty_small(slot, self.cache_batch());
        if !slot.small.push(frame.get()) {
            self.give_small(Some(slot), core::iter::once(frame.get()));
        }
    }

    /// As [`push_small_slow`](Self::push_small_slow), for a huge frame, by its first frame.
    #[cold]
    #[inline(never)]
    pub(super) fn push_huge_slow(&self, slot: &CpuSlot, first: FrameId) {
        self.settle(slot);
        if slot.huge.push(first.get()) {
            return;
        }
        self.empty_huge(slot, self.huge_limit.div_ceil(2));
        if !slot.huge.push(first.get()) {
            self.give_wholes(Some(slot), core::iter::once(first.get()));
        }
    }

    /// Takes a single frame for an empty stack, and fills it.
    #[cold]
    pub(super) fn pop_small_slow(&self, pin: &PinnedCpu, slot: &CpuSlot) -> Option<FrameId> {
        self.settle(slot);
        if let Some(frame) = slot.small.pop() {
            return Some(FrameId::new(frame));
        }
        self.refill_small(pin, slot)
    }

    /// Takes a huge frame for an empty stack, and fills it.
    #[cold]
    pub(super) fn pop_huge_slow(&self, pin: &PinnedCpu, slot: &CpuSlot) -> Option<FrameId> {
        self.settle(slot);
        if let Some(first) = slot.huge.pop() {
            return Some(FrameId::new(first));
        }
        self.refill_huge(pin, slot).map(HugeId::first_frame)
    }

    /// Gives the oldest of a CPU's stack of single frames back.
    fn empty_small(&self, slot: &CpuSlot, count: usize) {
        self.give_small(Some(slot), slot.small.oldest(count));
        slot.small.forget_oldest(count);
    }

    fn empty_huge(&self, slot: &CpuSlot, count: usize) {
        self.give_wholes(Some(slot), slot.huge.oldest(count));
        slot.huge.forget_oldest(count);
    }

    /// Gives all of a CPU's stacks back.
    fn empty(&self, slot: &CpuSlot) {
        self.empty_small(slot, SMALL);
        self.empty_huge(slot, HUGE);
    }

    /// Gives all that this CPU keeps back, and the trees it has reserved: before it stops, or when memory is short.
    pub fn drain(&self, pin: &PinnedCpu) {
        let Some(slot) = self.slot(pin) else { return };
        self.settle(slot);
        self.empty(slot);
        self.leave_homes(pin, slot);
        self.flush_free(slot);
    }

    /// Asks every CPU to give back what it keeps: each does at its next slow path, or in
    /// [`drain_if_requested`](Self::drain_if_requested).
    pub fn request_drain(&self) {
        for slot in self.meta.cpus {
            if slot.small.len() + slot.huge.len() > 0 {
                slot.small.request();
                slot.huge.request();
            }
        }
    }

    /// Does what [`request_drain`](Self::request_drain) asked of this CPU: for idle loops and interrupts.
    pub fn drain_if_requested(&self, pin: &PinnedCpu) {
        if let Some(slot) = self.slot(pin) {
            self.settle(slot);
        }
    }

    /// How many frames one CPU keeps at most.
    #[must_use]
    pub const fn cache_limit(&self) -> usize {
        self.small_limit + self.huge_limit * Order::HUGE.frames()
    }

    /// How many single frames one CPU gives back at once when it has too many.
    #[must_use]
    pub const fn cache_batch(&self) -> usize {
        self.small_limit.div_ceil(2)
    }

    /// How many frames all CPUs keep, about.
    #[must_use]
    pub fn cached_frames(&self) -> usize {
        self.meta.cpus.iter().map(CpuSlot::kept).sum()
    }

    /// How many frames the CPU with this number keeps, about; none when there is no such CPU.
    #[must_use]
    pub fn cached_frames_on(&self, cpu: u16) -> usize {
        let slot = self.meta.cpus.get(usize::from(cpu));
        slot.map_or(0, CpuSlot::kept)
    }
}

#[cfg(test)]
mod fits {
    /// What a record remembers of a CPU has to be its number.
    const _: () = assert!(super::super::record::MAX_REFERENCES > u16::MAX as u32);
}
