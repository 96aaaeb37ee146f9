//! What this crate needs of its surroundings: a way to reach page tables, and frames to make new ones of.
//!
//! Entries are loaded and stored whole, as atomics of their own width, never as bytes: a CPU may walk the table at any moment,
//! and PAE's 64-bit entries must not be torn on a 32-bit machine either.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kspace_layout::PhysAddr;

mod sealed {
    /// Keeps [`RawEntry`](super::RawEntry) to the two widths that x86 has.
    pub trait Sealed {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
}

/// The width of an entry: `u32` in two-level paging, `u64` in the other modes.
///
/// Values travel as `u64`, so that the code above need not care.
pub trait RawEntry: sealed::Sealed + Copy + 'static {
    /// The atomic of this width.
    type Atomic: Send + Sync + 'static;

    /// Loads an entry, with everything that was stored before it became visible.
    fn load(slot: &Self::Atomic) -> u64;
    /// Stores an entry, after everything stored before.
    fn store(slot: &Self::Atomic, value: u64);
    /// Replaces `current` by `new`, or returns what is there instead.
    ///
    /// # Errors
    ///
    /// The value found, when it is not `current`.
    fn compare_exchange(slot: &Self::Atomic, current: u64, new: u64) -> Result<u64, u64>;
}

macro_rules! raw_entry {
    ($($raw:ty, $atomic:ty;)*) => {$(
        impl RawEntry for $raw {
            type Atomic = $atomic;

            #[inline(always)]
            fn load(slot: &$atomic) -> u64 {
                u64::from(slot.load(Ordering::Acquire))
            }

            #[inline(always)]
            fn store(slot: &$atomic, value: u64) {
                slot.store(value as $raw, Ordering::Release);
            }

            #[inline(always)]
            fn compare_exchange(slot: &$atomic, current: u64, new: u64) -> Result<u64, u64> {
                slot.compare_exchange(
                    current as $raw,
                    new as $raw,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                )
                .map(u64::from)
                .map_err(u64::from)
            }
        }
    )*};
}

raw_entry! {
    u32, AtomicU32;
    u64, AtomicU64;
}

/// Reading entries, perhaps in vain: all that a walker needs. A memory dump implements this one and not [`PhysMemory`].
pub trait EntryRead {
    /// The 4-byte entry at `entry`, a multiple of 4; `None` when this memory does not hold it.
    fn read_u32(&self, entry: PhysAddr) -> Option<u32>;

    /// The 8-byte entry at `entry`, a multiple of 8; `None` when this memory does not hold it.
    fn read_u64(&self, entry: PhysAddr) -> Option<u64>;

    /// How many of the `count` 4-byte entries from `first` on, all in one frame, `go_on` accepts one after the other.
    ///
    /// Fewer are no error: whoever wants to know why it ended reads the next entry.
    fn count_u32s(
        &self,
        first: PhysAddr,
        count: usize,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> usize {
        let read = |at| self.read_u32(at).map(u64::from);
        counted(first, count, size_of::<u32>(), read, go_on)
    }

    /// The same for 8-byte entries.
    fn count_u64s(
        &self,
        first: PhysAddr,
        count: usize,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> usize {
        counted(
            first,
            count,
            size_of::<u64>(),
            |at| self.read_u64(at),
            go_on,
        )
    }
}

/// Entry by entry.
fn counted(
    first: PhysAddr,
    count: usize,
    bytes: usize,
    read: impl Fn(PhysAddr) -> Option<u64>,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> usize {
    (0..count)
        .map_while(|index| read(first.checked_add((index * bytes) as u64).ok()?))
        .take_while(|raw| go_on(*raw))
        .count()
}

/// In one look at the memory.
#[inline]
fn counted_in_place<E: RawEntry>(
    memory: &impl PhysMemory,
    first: PhysAddr,
    count: usize,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> usize {
    let slots = memory.entries::<E>(first, count).unwrap_or_default();
    slots.iter().take_while(|slot| go_on(E::load(slot))).count()
}

/// Memory whose page tables can be edited in place.
///
/// Every `PhysMemory` is an [`EntryRead`] too.
///
/// # Safety
///
/// Code that edits page tables relies on `entries` returning the very memory at that physical address: two calls with the same
/// address give the same atomics, two frames never share one, and a store is seen by later loads and by the CPUs' own walks.
pub unsafe trait PhysMemory {
    /// The `count` entries from physical address `table` on, all in one frame; `None` when this memory cannot reach them.
    ///
    /// `table` is a multiple of the entry's size.
    fn entries<E: RawEntry>(&self, table: PhysAddr, count: usize) -> Option<&[E::Atomic]>;
}

impl<M: PhysMemory> EntryRead for M {
    #[inline]
    fn read_u32(&self, entry: PhysAddr) -> Option<u32> {
        // The value was widened from 32 bits, so nothing is cut off.
        self.entries::<u32>(entry, 1)
            .map(|slots| <u32 as RawEntry>::load(&slots[0]) as u32)
    }

    #[inline]
    fn read_u64(&self, entry: PhysAddr) -> Option<u64> {
        self.entries::<u64>(entry, 1)
            .map(|slots| <u64 as RawEntry>::load(&slots[0]))
    }

    #[inline]
    fn count_u32s(
        &self,
        first: PhysAddr,
        count: usize,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> usize {
        counted_in_place::<u32>(self, first, count, go_on)
    }

    #[inline]
    fn count_u64s(
        &self,
        first: PhysAddr,
        count: usize,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> usize {
        counted_in_place::<u64>(self, first, count, go_on)
    }
}

/// Where frames for page tables come from and go back to.
///
/// # Safety
///
/// A frame from `allocate` is 4 KiB of memory, at a multiple of 4 KiB, that nothing else uses until it is released, and that
/// reads as zeros through the [`PhysMemory`] it is used with.
pub unsafe trait FrameSource {
    /// A frame of zeros; `None` when there are no more.
    fn allocate(&self) -> Option<PhysAddr>;

    /// Takes a frame back that `allocate` returned. What is in it is anybody's guess.
    fn release(&self, frame: PhysAddr);
}

// SAFETY: the calls go to a value that upholds the contract.
unsafe impl<S: FrameSource + ?Sized> FrameSource for &S {
    fn allocate(&self) -> Option<PhysAddr> {
        (**self).allocate()
    }

    fn release(&self, frame: PhysAddr) {
        (**self).release(frame);
    }
}
