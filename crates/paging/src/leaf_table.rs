//! One table of 4 KiB pages, and single pages in it changed in a few instructions.
//!
//! An [`Editor`](crate::Editor) walks from the root for every edit. Who changes pages of the same few tables all the time (areas mapped on
//! demand) keeps the handle instead, or only the table's address, and goes to the slots at once:
//!
//! ```text
//!   Editor::leaf_table(address) ──▶ LeafTable ──▶ table(): PhysAddr, kept in the caller's books
//!                                       ▲                     │
//!                                       └───── LeafTable::at ─┘
//!
//!   slot    0       1       2       3       4              511 (two-level: 1023)
//!         | empty | page  | page  | parked| empty |  ...  |       |
//!            fill ──▶   park ──▶     │
//!            ▲                       │ flushed: collect, which tells the frames
//!            └───────────────────────┘
//! ```
//!
//! # What the caller answers for
//!
//! The same as with an editor: it holds the pages whose slots it changes. And while handles of a table are in use, no editor edits
//! *all* of its span: such an edit may take the table out, or note how full it is (see the protocol of [`editor`](crate::editor)).
//!
//! That pages are filled only where there is none, and parked only where there is one, is part of holding them. A mistake is told
//! at once when the *first* slot of the call shows it, as it does when an area is mapped or freed twice. Debug builds look at every
//! slot; release builds take the caller's word for the others, since looking would double the work.

use core::fmt;
use core::marker::PhantomData;

use kspace_layout::{Pfn, PhysAddr};

use crate::entry::{PARKED, PRESENT};
use crate::hidden::is_hidden;
use crate::parked::{collect, is_parked};
use crate::{EntryFormat, Limits, PhysMemory, Protection, RawEntry};

/// The atomics that a table of this format is made of.
type Slot<F> = <<F as EntryFormat>::Raw as RawEntry>::Atomic;

/// What a 4 KiB leaf says apart from its frame, made once for many pages.
pub struct LeafBits<F> {
    raw: u64,
    format: PhantomData<F>,
}

impl<F: EntryFormat> LeafBits<F> {
    /// The bits for `protection` on a machine with these limits.
    #[must_use]
    pub fn new(protection: Protection, limits: Limits) -> Self {
        Self {
            raw: F::FORMAT.leaf_bits(1, protection, limits),
            format: PhantomData,
        }
    }
}

impl<F> Clone for LeafBits<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for LeafBits<F> {}

impl<F> fmt::Debug for LeafBits<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeafBits({:x})", self.raw)
    }
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafSlot {
    /// No page.
    Empty,
    /// A page in this frame.
    Page(Pfn),
    /// No page, but this frame waits for its flush.
    Parked(Pfn),
    /// A page in this frame that no access reaches: an editor has hidden it.
    Hidden(Pfn),
}

/// A handle on a level-1 table. See the [module](self).
pub struct LeafTable<'a, F: EntryFormat> {
    table: PhysAddr,
    slots: &'a [Slot<F>],
    /// The bits of an entry that are its frame's address.
    address: u64,
}

impl<F: EntryFormat> Clone for LeafTable<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: EntryFormat> Copy for LeafTable<'_, F> {}

impl<F: EntryFormat> fmt::Debug for LeafTable<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LeafTable").field(&self.table).finish()
    }
}

impl<'a, F: EntryFormat> LeafTable<'a, F> {
    /// How many pages a table has: 512, in two-level paging 1024.
    pub const SLOTS: usize = F::FORMAT.entries(1);

    /// The handle of a table whose address is known from [`table`](Self::table); `None` when `memory` cannot reach it.
    ///
    /// # Safety
    ///
    /// `table` is of a handle that an editor gave, one with this `memory` and these `limits`, and no `purge` or `merge` has taken it out
    /// since. The caller answers for what it does with the handle as the [module](self) says.
    #[inline(always)]
    #[must_use]
    pub unsafe fn at<M: PhysMemory>(
        table: PhysAddr,
        memory: &'a M,
        limits: Limits,
    ) -> Option<Self> {
        let slots = memory.entries::<F::Raw>(table, Self::SLOTS)?;
        Some(Self {
            table,
            slots,
            address: F::FORMAT.address_mask() & !limits.encryption_mask(),
        })
    }

    /// The handle of a table that is at hand already: as [`at`](Self::at), without asking the memory where it is.
    ///
    /// # Safety
    ///
    /// As for [`at`](Self::at); and `slots` is what [`as_slots`](Self::as_slots) returned of the handle on `table`, whose memory lives
    /// as long as `'a`.
    #[inline(always)]
    #[must_use]
    pub unsafe fn from_slots(table: PhysAddr, slots: *const (), limits: Limits) -> Self {
        Self {
            table,
            // SAFETY: the caller's promise: it was made of such a slice.
            slots: unsafe { core::slice::from_raw_parts(slots.cast(), Self::SLOTS) },
            address: F::FORMAT.address_mask() & !limits.encryption_mask(),
        }
    }

    /// Where its slots are, for [`from_slots`](Self::from_slots).
    #[inline]
    #[must_use]
    pub const fn as_slots(&self) -> *const () {
        self.slots.as_ptr().cast()
    }

    /// The table's physical address.
    #[inline(always)]
    #[must_use]
    pub const fn table(&self) -> PhysAddr {
        self.table
    }

    /// Maps `count` empty slots from `index` on to consecutive frames, which the machine's entries can name (checked in debug builds).
    ///
    /// Needs no flush: the CPU caches nothing about entries that are not present.
    ///
    /// # Panics
    ///
    /// When the slots are not all in the table, or the first (debug builds: any) is not empty.
    #[inline(always)]
    pub fn fill(&self, index: usize, count: usize, first: Pfn, bits: LeafBits<F>) {
        let mut raw = first.start().as_u64() | bits.raw;
        // The first by itself: most calls are about one page, and are spared the preparations of an unrolled loop.
        if let Some((slot, rest)) = self.run(index, count).split_first() {
            debug_assert!(self.names(first, count));
            self.expect(index, slot, rest, |raw| raw == 0);
            F::Raw::store(slot, raw);
            let step = 1 << F::FORMAT.shift(1);
            // Eight at a time: what a loop costs is as much as what it does.
            let (eights, rest) = rest.as_chunks::<8>();
            for eight in eights {
                for (slot, count) in eight.iter().zip(1..) {
                    F::Raw::store(slot, raw + count * step);
                }
                raw += 8 * step;
            }
            for slot in rest {
                raw += step;
                F::Raw::store(slot, raw);
            }
        }
    }

    /// Takes away the pages of `count` slots from `index` on; their entries remember the frames.
    ///
    /// Until CPUs are flushed they may still use the pages. The frames are to be had again from [`collect`](Self::collect) only, and
    /// until then the slots cannot be filled.
    ///
    /// # Panics
    ///
    /// When the slots are not all in the table, or the first (debug builds: any) has no page, or one with bit 11 set, which no editor does.
    #[inline(always)]
    pub fn park(&self, index: usize, count: usize) {
        // One instruction, not locked: the only other writer is a CPU that sets accessed or dirty, and it no longer matters.
        let park = |slot| F::Raw::store(slot, F::Raw::load(slot) ^ F::FORMAT.parked_flip());
        // The first by itself, as in `fill`.
        if let Some((slot, rest)) = self.run(index, count).split_first() {
            self.expect(index, slot, rest, |raw| raw & (PRESENT | PARKED) == PRESENT);
            park(slot);
            rest.iter().for_each(park);
        }
    }

    /// Clears the parked slots among `count` from `index` on, and tells `each` their frames in ascending order of slots: the first of each
    /// run of consecutive frames, and how many. Slots that are not parked stay as they are.
    ///
    /// Neighbours that had different rights are told as two runs.
    ///
    /// # Panics
    ///
    /// When the slots are not all in the table.
    ///
    /// # Safety
    ///
    /// No CPU holds a translation of these pages any more: all have flushed since they were parked.
    #[inline(always)]
    pub unsafe fn collect(&self, index: usize, count: usize, mut each: impl FnMut(Pfn, usize)) {
        collect::<F>(self.run(index, count), |raw, count| {
            each(self.frame(raw ^ F::FORMAT.parked_flip()), count);
        });
    }

    /// As [`collect`](Self::collect), but tells `each` every frame by itself.
    ///
    /// # Panics
    ///
    /// When the slots are not all in the table.
    ///
    /// # Safety
    ///
    /// As for [`collect`](Self::collect).
    #[inline(always)]
    pub unsafe fn collect_each(&self, index: usize, count: usize, mut each: impl FnMut(Pfn)) {
        for slot in self.run(index, count) {
            let raw = F::Raw::load(slot);
            if is_parked(raw) {
                F::Raw::store(slot, 0);
                each(self.frame(raw ^ F::FORMAT.parked_flip()));
            }
        }
    }

    /// As [`collect`](Self::collect) for one slot, whose frame it returns; `None` when it is not parked.
    ///
    /// # Panics
    ///
    /// When the table has no such slot.
    ///
    /// # Safety
    ///
    /// As for [`collect`](Self::collect).
    #[inline(always)]
    pub unsafe fn collect_one(&self, index: usize) -> Option<Pfn> {
        let slot = &self.run(index, 1)[0];
        let raw = F::Raw::load(slot);
        if !is_parked(raw) {
            return None;
        }
        F::Raw::store(slot, 0);
        Some(self.frame(raw ^ F::FORMAT.parked_flip()))
    }

    /// Takes away the pages of `count` slots from `index` on and forgets them: the frames are known elsewhere.
    ///
    /// # Panics
    ///
    /// When the slots are not all in the table.
    ///
    /// # Safety
    ///
    /// No slot is parked. Until all CPUs have flushed, the slots are not filled and the frames that they mapped not reused.
    #[inline(always)]
    pub unsafe fn clear(&self, index: usize, count: usize) {
        let run = self.run(index, count);
        debug_assert!(run.iter().all(|slot| !is_parked(F::Raw::load(slot))));
        for slot in run {
            F::Raw::store(slot, 0);
        }
    }

    /// What the slot at `index` holds.
    ///
    /// # Panics
    ///
    /// When the table has no such slot.
    #[must_use]
    pub fn load(&self, index: usize) -> LeafSlot {
        let raw = F::Raw::load(&self.run(index, 1)[0]);
        if is_parked(raw) {
            LeafSlot::Parked(self.frame(raw ^ F::FORMAT.parked_flip()))
        } else if is_hidden(raw) {
            LeafSlot::Hidden(self.frame(F::FORMAT.shown(raw)))
        } else if raw & PRESENT != 0 {
            LeafSlot::Page(self.frame(raw))
        } else {
            LeafSlot::Empty
        }
    }

    /// The frame that a leaf maps.
    #[inline(always)]
    const fn frame(&self, leaf: u64) -> Pfn {
        PhysAddr::new(leaf & F::FORMAT.address_mask() & self.address).pfn()
    }

    #[inline(always)]
    fn run(&self, index: usize, count: usize) -> &'a [Slot<F>] {
        // A sum that wraps ends below its start, and there is no such run.
        match self.slots.get(index..index.wrapping_add(count)) {
            Some(run) => run,
            None => no_such_slots(self.table, Self::SLOTS, index, count),
        }
    }

    /// Whether entries can name these frames.
    fn names(&self, first: Pfn, count: usize) -> bool {
        let end = first.as_u64() + count as u64;
        (first.as_u64()..end).all(|frame| (frame << F::FORMAT.shift(1)) & !self.address == 0)
    }

    /// Panics unless `first`, the slot at `index`, is as it must be; in debug builds `rest`, those behind it, too.
    #[inline(always)]
    fn expect(
        &self,
        index: usize,
        first: &Slot<F>,
        rest: &[Slot<F>],
        is_right: impl Fn(u64) -> bool,
    ) {
        let check = |slot, index| {
            let raw = F::Raw::load(slot);
            if !is_right(raw) {
                wrong_slot(self.table, index, raw);
            }
        };
        check(first, index);
        if cfg!(debug_assertions) {
            rest.iter()
                .zip(index + 1..)
                .for_each(|(slot, index)| check(slot, index));
        }
    }
}

// By value: a handle whose address is taken would have to be in memory.
#[cold]
#[inline(never)]
fn no_such_slots(table: PhysAddr, slots: usize, index: usize, count: usize) -> ! {
    panic!(
        "leaf table at {table}: {count} slots from {index} on were asked for, and it has {slots}; keep to one table"
    );
}

#[cold]
#[inline(never)]
fn wrong_slot(table: PhysAddr, index: usize, raw: u64) -> ! {
    let holds = match raw {
        0 => "nothing",
        raw if is_parked(raw) => "a parked page",
        raw if is_hidden(raw) => "a hidden page",
        raw if raw & PRESENT != 0 => "a page",
        _ => "no entry of ours",
    };
    panic!(
        "leaf table at {table}: slot {index} holds {holds} ({raw:x}); fill empty slots only, and park each page once"
    );
}
