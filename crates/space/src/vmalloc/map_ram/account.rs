//! What a block has to wait for: one word, to which everybody adds.
//!
//! ```text
//!   63          40 39           16 15            0
//!   |  mappings   |     pages     |     done      |        all zero: no block
//!    '-- unmapped since the last -'    unmapped with their guards, or never placed; and one when the block is closed
//!                 flush
//! ```
//!
//! An addition is followed by a look at the chunk's mark, as in `lazy`, and for the same reason none is missed: additions and the purger's
//! `take` change one word in one order for all. Either the purger takes what was added, or the addition came after it, and so sees that
//! the mark is off.

use super::super::sync::{AtomicU64, Ordering};

/// Pages of a block: those of a chunk.
pub(in super::super) const BLOCK_PAGES: u64 = 512;

const PAGES_SHIFT: u32 = 16;
const MAPPINGS_SHIFT: u32 = 40;
const DONE: u64 = (1 << PAGES_SHIFT) - 1;
const PAGES: u64 = (1 << (MAPPINGS_SHIFT - PAGES_SHIFT)) - 1;
/// Every page, and the close.
const ALL_DONE: u64 = BLOCK_PAGES + 1;

/// An entry in a block's account, or a sum of some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Account(u64);

impl Account {
    /// A mapping of so many pages is unmapped.
    #[inline]
    pub(in super::super) const fn unmapped(pages: u64) -> Self {
        Self((pages + 1) | pages << PAGES_SHIFT | 1 << MAPPINGS_SHIFT)
    }

    /// No mapping will be placed from page `next` on.
    pub(in super::super) const fn closed(next: u64) -> Self {
        Self(BLOCK_PAGES - next + 1)
    }

    /// As `raw` has written it.
    pub(in super::super) const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub(in super::super) const fn raw(self) -> u64 {
        self.0
    }

    /// Enters it. Whether the chunk must be put on the stack of dirty ones, by the caller.
    #[inline]
    #[must_use]
    pub(in super::super) fn enter(self, account: &AtomicU64, mark: &AtomicU64) -> bool {
        // Release: who takes it sees the entries. Acquire: who comes after the purger sees that the mark is off.
        account.fetch_add(self.0, Ordering::AcqRel);
        mark.load(Ordering::Relaxed) == 0 && mark.swap(1, Ordering::AcqRel) == 0
    }

    /// All that was entered, and since the last time as far as it waits for a flush. Only the purger calls this, after it took the mark off.
    pub(in super::super) fn take(account: &AtomicU64) -> Self {
        Self(account.fetch_and(DONE, Ordering::AcqRel))
    }

    /// Whether it is one of a block, into which something was entered.
    pub(in super::super) const fn is_some(self) -> bool {
        self.0 != 0
    }

    /// Whether nobody has anything of the block any more.
    pub(in super::super) const fn is_done(self) -> bool {
        self.0 & DONE == ALL_DONE
    }

    /// Pages that were unmapped, guards not counted.
    pub(in super::super) const fn pages(self) -> u64 {
        self.0 >> PAGES_SHIFT & PAGES
    }

    /// Mappings that were unmapped.
    pub(in super::super) const fn mappings(self) -> u64 {
        self.0 >> MAPPINGS_SHIFT
    }
}
