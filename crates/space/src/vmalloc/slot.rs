//! What is remembered of an area: one word, and the states that it goes through.
//!
//! ```text
//!   63                      32   31    30    22 21    15 14   11 10     3    2     1    0
//!   |  caller, as a distance  | changed |  lead  | node+1 | kind  | pages  | odd |  state  |
//!
//!           publish (placed here)         free (anybody, once)           release (the purger, after the flush)
//!   Free ------------------------> Live ----------------------> Lazy -----------------------------------> Free
//!                                   '--- abandon: straight to Lazy, when its frames ran out ---^
//!   Free ------------------------> Mapped --------------------> Lazy: the same for short mappings in a block (`map_ram`)
//!                                           unmap (once)
//! ```
//!
//! Areas have a guard page, so they are two pages long at least, and no two of a chunk begin in the same pair of pages: the pair's
//! number is the word's, and `odd` says with which page of the pair the area begins. `lead` pages before it were passed over for its alignment,
//! and are free again when it is purged. While pages of it are `changed` (by `permissions`), nobody can free it.
//!
//! The promise: of all who free an area, exactly one succeeds, and the others learn who that was.

use super::sync::{AtomicU64, Ordering};

const STATE: u64 = 0b11;
const ODD_SHIFT: u32 = 2;
const PAGES_SHIFT: u32 = 3;
const PAGES_MASK: u64 = 0xff;
const KIND_SHIFT: u32 = 11;
const KIND_MASK: u64 = 0xf;
const NODE_SHIFT: u32 = 15;
const NODE_MASK: u64 = 0x7f;
const LEAD_SHIFT: u32 = 22;
const LEAD_MASK: u64 = 0x1ff;
const CHANGED: u64 = 1 << 31;
const CALLER_SHIFT: u32 = 32;

const FREE: u64 = 0;
const LIVE: u64 = 1;
const LAZY: u64 = 2;
const MAPPED: u64 = 3;

/// The most pages that an area in a chunk can have, without its guard.
pub(super) const SMALL_PAGES: u64 = PAGES_MASK;

/// What an area's word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AreaWord(u64);

impl AreaWord {
    /// The word of a live area. `kind` is below 16, `node` below 128: the number plus one, or zero.
    #[inline]
    pub(super) const fn live(first: u64, pages: u64, kind: u64, node: u64, caller: u32) -> Self {
        Self(
            LIVE | (first & 1) << ODD_SHIFT
                | pages << PAGES_SHIFT
                | kind << KIND_SHIFT
                | node << NODE_SHIFT
                | (caller as u64) << CALLER_SHIFT,
        )
    }

    /// With so many pages passed over before it, less than a chunk's.
    #[inline(always)]
    pub(super) const fn with_lead(self, lead: u64) -> Self {
        Self(self.0 | lead << LEAD_SHIFT)
    }

    /// The word of a short mapping in a block.
    #[inline]
    pub(super) const fn mapped(first: u64, pages: u64, kind: u64, caller: u32) -> Self {
        // Both of the state's bits are set in it.
        Self(Self::live(first, pages, kind, 0, caller).0 | MAPPED)
    }

    /// Whether it is an area that is freed by `free`.
    #[inline]
    pub(super) const fn is_live(self) -> bool {
        self.0 & STATE == LIVE
    }

    /// Whether it is a live area that begins at `first`, which lies in the word's pair of pages, and has its pages as they were made.
    #[inline(always)]
    const fn is_live_at(self, first: u64) -> bool {
        self.0 & (STATE | 1 << ODD_SHIFT | CHANGED) == LIVE | (first & 1) << ODD_SHIFT
    }

    /// Whether pages of it are changed.
    #[inline]
    pub(super) const fn is_changed(self) -> bool {
        self.0 & CHANGED != 0
    }

    #[inline]
    pub(super) const fn is_lazy(self) -> bool {
        self.0 & STATE == LAZY
    }

    /// Whether it is a short mapping, which is freed by `unmap`.
    #[inline]
    pub(super) const fn is_mapped(self) -> bool {
        self.0 & STATE == MAPPED
    }

    /// Whether there is an area, in use or waiting for the purge.
    #[inline]
    pub(super) const fn is_known(self) -> bool {
        self.0 & STATE != FREE
    }

    /// Whether an area begins, or began last, at `first`, which lies in the word's pair of pages.
    #[inline]
    pub(super) const fn begins_at(self, first: u64) -> bool {
        self.0 >> ODD_SHIFT & 1 == first & 1 && self.pages() != 0
    }

    /// The first page of the area in slot `slot`.
    #[inline]
    pub(super) const fn first(self, slot: u64) -> u64 {
        2 * slot + (self.0 >> ODD_SHIFT & 1)
    }

    /// Its pages, without the guard.
    #[inline]
    pub(super) const fn pages(self) -> u64 {
        self.0 >> PAGES_SHIFT & PAGES_MASK
    }

    /// Whether it has one page of ordinary memory, and none before it.
    #[inline(always)]
    pub(super) const fn is_one_page(self) -> bool {
        let all = PAGES_MASK << PAGES_SHIFT | KIND_MASK << KIND_SHIFT | LEAD_MASK << LEAD_SHIFT;
        // The kind of memory is zero.
        self.0 & all == 1 << PAGES_SHIFT
    }

    /// How many pages before it go with it.
    #[inline]
    pub(super) const fn lead(self) -> u64 {
        self.0 >> LEAD_SHIFT & LEAD_MASK
    }

    #[inline]
    pub(super) const fn kind(self) -> u64 {
        self.0 >> KIND_SHIFT & KIND_MASK
    }

    #[inline]
    pub(super) const fn node(self) -> u64 {
        self.0 >> NODE_SHIFT & NODE_MASK
    }

    /// Who allocated it, or once it is not live any more, who freed it.
    #[inline]
    pub(super) const fn caller(self) -> u32 {
        // What is left of 64 bits after the shift are 32.
        (self.0 >> CALLER_SHIFT) as u32
    }

    #[inline]
    const fn with(self, state: u64, caller: u32) -> Self {
        let kept = self.0 & !STATE & ((1 << CALLER_SHIFT) - 1);
        Self(kept | state | (caller as u64) << CALLER_SHIFT)
    }

    /// The word of the same area with so many pages.
    pub(super) const fn resized(self, pages: u64) -> Self {
        Self(self.0 & !(PAGES_MASK << PAGES_SHIFT) | pages << PAGES_SHIFT)
    }

    #[inline]
    pub(super) fn load(slot: &AtomicU64) -> Self {
        Self(slot.load(Ordering::Acquire))
    }

    /// Makes a placed area known. Its entries are filled.
    #[inline]
    pub(super) fn publish(self, slot: &AtomicU64) {
        slot.store(self.0, Ordering::Release);
    }

    /// Makes known that what was placed is to be purged, without ever having been an area.
    pub(super) fn abandon(self, slot: &AtomicU64) {
        slot.store(self.with(LAZY, self.caller()).0, Ordering::Release);
    }

    /// Takes the area at `first` away from all others. `Err`: what is there instead of a live area.
    #[inline(always)]
    pub(super) fn free(slot: &AtomicU64, first: u64, caller: u32) -> Result<Self, Self> {
        let mut found = Self::load(slot);
        loop {
            if !found.is_live_at(first) {
                return Err(found);
            }
            let freed = found.with(LAZY, caller);
            // Acquire: the entries are as who published it left them. Release: who finds it freed learns by whom.
            match slot.compare_exchange(found.0, freed.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(found),
                Err(other) => found = Self(other),
            }
        }
    }

    /// Notes of the area in use at `first` whether pages of it are changed. False: there is no such area.
    pub(super) fn mark(slot: &AtomicU64, first: u64, changed: bool) -> bool {
        let mut found = Self::load(slot);
        loop {
            let in_use = found.is_live() || found.is_mapped();
            if !in_use || !found.begins_at(first) {
                return false;
            }
            let kept = found.0 & !CHANGED;
            let marked = if changed { kept | CHANGED } else { kept };
            match slot.compare_exchange(found.0, marked, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(other) => found = Self(other),
            }
        }
    }

    /// Takes the short mapping of `pages` pages at `first` away from all others. `Err`: what is there instead.
    #[inline]
    pub(super) fn unmap(
        slot: &AtomicU64,
        first: u64,
        pages: u64,
        caller: u32,
    ) -> Result<Self, Self> {
        let expected = Self::mapped(first, pages & PAGES_MASK, 0, 0).0;
        let mut found = Self::load(slot);
        loop {
            let compared = STATE | 1 << ODD_SHIFT | PAGES_MASK << PAGES_SHIFT | CHANGED;
            if found.0 & compared != expected || pages > PAGES_MASK {
                return Err(found);
            }
            let lazy = found.with(LAZY, caller);
            // As in `free`.
            match slot.compare_exchange(found.0, lazy.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(found),
                Err(other) => found = Self(other),
            }
        }
    }

    /// Gives up what was lazy, after the flush. Who freed it stays readable, until another area begins in these two pages.
    pub(super) fn release(self, slot: &AtomicU64) {
        slot.store(self.with(FREE, self.caller()).0, Ordering::Release);
    }
}
