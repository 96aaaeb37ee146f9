//! Editing page tables: map, unmap and protect ranges, and nothing half-way.
//!
//! # What every edit keeps to
//!
//! - **All or nothing.** An edit first *surveys* its range, read-only, and counts the tables it needs; then it *reserves* that many
//!   frames; then it *commits*, which cannot fail. A refusal leaves every table as it was.
//! - **Writable and executable never meet**, in one entry or in the TLBs: [`Protection`] cannot say it, and `protect` does not
//!   turn one into the other without a flush between.
//! - **What a CPU may still use is owned by the token** that the edit returns; see [`Flush`].
//! - Leaves decide: entries that lead to tables give every right.
//!
//! # Table lifetime and concurrency: the protocol
//!
//! Edits take `&self` and no lock. Whoever calls *holds* the range of the edit: from the call until its token is flushed nobody else
//! edits an overlapping range. (An allocator of address space hands out disjoint ranges; that is all it takes.) Then:
//!
//! ```text
//!                    entry whose whole span is held         entry shared with other holders
//!   not present      store a leaf, or install a table       install a table by compare-exchange; the loser's frame stays
//!                                                           in its reserve, and it goes on in the winner's table
//!   a table          purge and merge may take it out        stays: only a holder of its whole span takes a table out
//!   a large leaf     cleared, or given other rights         replaced by a table of the same translations, by compare-exchange
//! ```
//!
//! 1. *A table never vanishes under an edit*: to take one out one must hold its whole span, which an edit below it overlaps.
//! 2. *Fills of disjoint ranges need no lock*: they meet only in shared entries, and each of those changes once, from not
//!    present (or from a large leaf) to a table, by compare-exchange.
//! 3. *The survey's count holds at commit*: others can only add tables to shared entries, so fewer frames are needed, never
//!    more. What is left over goes back.
//! 4. *`map` and `unmap` free no table.* [`purge`](Editor::purge) takes out empty ones, [`merge`](Editor::merge) full ones; both hold
//!    what they take in the token. Only after that flush can `map` put a large leaf there.
//! 5. *Entries of the root are permanent* inside [`Editor::keep_root_entries`], because other address spaces have copies of them;
//!    PAE's four always are, because the CPU reads them only when CR3 is loaded.
//! 6. *Entries remember how full their table is*, in bits that the CPU ignores, so that edits of whole tables need not look:
//!    the rules are in the module `known`.
//! 7. *A parked entry is nobody's to fill* until it is collected (see the module `parked`): `map`, `unmap`, `protect` and `park` refuse it,
//!    `merge` passes it over, and `purge` keeps its table. The same holds for a hidden one (see the module `hidden`),
//!    which its holder can [`adjust`](Editor::adjust) and show again.
//! 8. A software walk beside an edit may stand in a table that has just been taken out. It must end before the flush does
//!    (the walker holds the range, or keeps its CPU from acknowledging the shootdown).
//!
//! # Accessed and dirty
//!
//! The CPU sets these two bits with a locked update of a *present* entry at any time (Intel SDM vol. 3, section 5.8), so:
//! `unmap` may store zero without looking again, since the CPU does not write to an entry that is not present, and nobody asks for
//! the bits any more ([`unmap_each`](Editor::unmap_each) is for those who do, and swaps). `protect` stores plainly only where no bit can
//! still change, and else compares and exchanges, so that no dirty bit is lost. A split copies both bits to every part; a
//! merge sets them as far as the page allows it.
//!
//! # Page sizes under a running CPU
//!
//! The CPU may hold a page in the TLB in both sizes when an entry changes from large leaf to table or back. That is harmless as
//! long as both say the same (Intel SDM vol. 3, section 5.10.2.4): so a split installs a table of identical translations, and only
//! then changes its entries one by one; and a merge replaces a table by a leaf that says the same.

mod adjust;
mod collect;
mod error;
mod known;
mod leaf_table;
mod map;
mod merge;
mod park;
mod protect;
mod purge;
mod reserve;
mod span;
mod split;
mod survey;
mod unmap;

use core::fmt;
use core::marker::PhantomData;

use kspace_layout::{FRAME_SIZE, PageSize, PagingMode, PhysAddr, VirtRange};

use crate::flush::Stale;
use crate::{EntryFormat, Flush, FrameSource, Limits, PhysMemory, Protection, RawEntry};

pub use adjust::Adjustment;
pub use error::{Edit, EditError, Reason, RootError};
pub use unmap::Unmapped;

use span::{Span, translates};

/// The atomics that a table of this format is made of.
type Slot<F> = <<F as EntryFormat>::Raw as RawEntry>::Atomic;

/// Changes the page tables under one root. See the [module](self).
///
/// Holding one is the authority over that address space: [`new`](Self::new) is where the promise is made.
pub struct Editor<'a, F, M, S> {
    mode: PagingMode,
    root: PhysAddr,
    limits: Limits,
    memory: &'a M,
    frames: &'a S,
    permanent: Option<VirtRange>,
    format: PhantomData<F>,
}

impl<F, M, S> fmt::Debug for Editor<'_, F, M, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Editor")
            .field("mode", &self.mode)
            .field("root", &self.root)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<F, M, S> Clone for Editor<'_, F, M, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F, M, S> Copy for Editor<'_, F, M, S> {}

impl<'a, F: EntryFormat, M: PhysMemory, S: FrameSource> Editor<'a, F, M, S> {
    /// An editor of the tables at `root`, which is a table of zeros or the root of well-formed tables of `mode`.
    ///
    /// # Errors
    ///
    /// [`RootError`] when `F` is not the format of `mode`, or `root` cannot be a root.
    ///
    /// # Safety
    ///
    /// The caller has authority over this address space and answers for what is mapped, unmapped and protected in it, as far as
    /// CPUs use it. In particular, for all editors of tables that share frames:
    /// - edits at the same time go to disjoint ranges, and a range is free for the next edit once its token is flushed;
    /// - bits 9 and 10 of entries that lead to tables are clear, and so are bits 9 and 11 of entries that are not present, unless an editor
    ///   has set them: it keeps notes there, and parks and hides pages;
    /// - all tables are in `memory`, nothing else writes to them except the CPUs' accessed and dirty bits, and every table that
    ///   `purge` or `merge` may find came from `frames` or may be released to it;
    /// - tokens are flushed with the same `memory` and `frames`.
    pub unsafe fn new(
        mode: PagingMode,
        root: PhysAddr,
        limits: Limits,
        memory: &'a M,
        frames: &'a S,
    ) -> Result<Self, RootError> {
        if crate::Format::of(mode) != F::FORMAT {
            return Err(RootError::WrongFormat {
                format: F::FORMAT,
                mode,
            });
        }
        // CR3 is a 32-bit register outside long mode; PAE's root is a part of a frame (Intel SDM vol. 3, table 5-7).
        let (align, limit) = match mode {
            PagingMode::TwoLevel => (FRAME_SIZE, 1 << 32),
            PagingMode::Pae => (32, 1 << 32),
            PagingMode::FourLevel | PagingMode::FiveLevel => {
                (FRAME_SIZE, F::FORMAT.table_limit(limits))
            }
        };
        if !root.is_aligned(align) || root.as_u64() >= limit {
            return Err(RootError::Misplaced { root, mode });
        }
        let editor = Self {
            mode,
            root,
            limits,
            memory,
            frames,
            permanent: None,
            format: PhantomData,
        };
        if editor.slots(root, mode.levels()).is_none() {
            return Err(RootError::Unreachable { root });
        }
        Ok(editor)
    }

    /// The same editor, but tables that root entries of `range` lead to are never freed: those entries are copied to other roots.
    #[must_use]
    pub const fn keep_root_entries(self, range: VirtRange) -> Self {
        Self {
            permanent: Some(range),
            ..self
        }
    }

    /// The paging mode.
    #[must_use]
    pub const fn mode(&self) -> PagingMode {
        self.mode
    }

    /// The physical address of the root table.
    #[must_use]
    pub const fn root(&self) -> PhysAddr {
        self.root
    }

    /// What the machine can do.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// The memory that the tables are in.
    #[must_use]
    pub const fn memory(&self) -> &'a M {
        self.memory
    }

    /// The source of table frames.
    #[must_use]
    pub const fn frames(&self) -> &'a S {
        self.frames
    }

    /// Maps `range` to consecutive physical memory from `phys` on, with the largest pages that fit both addresses, are not larger
    /// than `largest`, and that the machine has. Where a table of smaller pages exists already, it is filled instead.
    ///
    /// Needs no flush: the CPU caches nothing about entries that are not present (Intel SDM vol. 3, section 5.10.2.3).
    ///
    /// # Errors
    ///
    /// [`EditError`] when part of the range is mapped already, parked, or cannot be mapped, or frames run out.
    pub fn map(
        &self,
        range: VirtRange,
        phys: PhysAddr,
        protection: Protection,
        largest: PageSize,
    ) -> Result<(), EditError> {
        self.check_range(Edit::Map, range)?;
        map::map(self, range, phys, protection, largest)
    }

    /// Unmaps `range`, all of which must be mapped. Large pages at its ends are split.
    ///
    /// # Errors
    ///
    /// [`EditError`] when a page is not mapped or parked, or frames for a split run out.
    pub fn unmap(&self, range: VirtRange) -> Result<Flush, EditError> {
        self.check_range(Edit::Unmap, range)?;
        unmap::run(
            self,
            Edit::Unmap,
            range,
            unmap::Holes::Refused,
            &mut unmap::Clear,
        )
    }

    /// As [`unmap`](Self::unmap), but pages that are not mapped are passed over.
    ///
    /// # Errors
    ///
    /// [`EditError`] when a page is parked, or frames for a split run out.
    pub fn unmap_present(&self, range: VirtRange) -> Result<Flush, EditError> {
        self.check_range(Edit::Unmap, range)?;
        unmap::run(
            self,
            Edit::Unmap,
            range,
            unmap::Holes::Allowed,
            &mut unmap::Clear,
        )
    }

    /// As [`unmap_present`](Self::unmap_present), and tells `each` every page that was mapped, with the accessed and dirty bits it
    /// had in its last moment. The frames are not free before the token is flushed.
    ///
    /// # Errors
    ///
    /// [`EditError`] when a page is parked, or frames for a split run out; `each` has not been called then.
    pub fn unmap_each(
        &self,
        range: VirtRange,
        each: impl FnMut(Unmapped),
    ) -> Result<Flush, EditError> {
        self.check_range(Edit::Unmap, range)?;
        unmap::unmap_each(self, range, each)
    }

    /// Gives every page of `range`, all of which must be mapped, another protection. Large pages at its ends are split, unless
    /// they have that protection already. Making a page read-only clears its dirty bit.
    ///
    /// # Errors
    ///
    /// [`EditError`] when a page is not mapped, is parked, would turn from writable to executable or back in one step, or frames for
    /// a split run out.
    pub fn protect(&self, range: VirtRange, protection: Protection) -> Result<Flush, EditError> {
        self.check_range(Edit::Protect, range)?;
        protect::protect(self, range, protection)
    }

    /// Changes one thing about every page of `range`, all of which must be mapped or hidden; see [`Adjustment`]. Large pages at the ends
    /// are split, unless they are so already. The token names the pages that a CPU may know otherwise: none that were hidden before.
    ///
    /// # Errors
    ///
    /// [`EditError`] when a page is not mapped, is parked, would be writable and executable, or frames for a split run out.
    pub fn adjust(&self, range: VirtRange, adjustment: Adjustment) -> Result<Flush, EditError> {
        self.check_range(Edit::Adjust, range)?;
        adjust::adjust(self, range, adjustment)
    }

    /// How many tables [`adjust`](Self::adjust) would need; changes nothing.
    ///
    /// # Errors
    ///
    /// As [`adjust`](Self::adjust), but for frames.
    pub fn tables_to_adjust(
        &self,
        range: VirtRange,
        adjustment: Adjustment,
    ) -> Result<usize, EditError> {
        self.check_range(Edit::Adjust, range)?;
        adjust::tables(self, range, adjustment)
    }

    /// Replaces tables by large pages not larger than `largest`, wherever `range` holds all of a table's span and its entries
    /// say together what one large page says. The tables are in the token. What is parked stays parked.
    ///
    /// # Errors
    ///
    /// [`EditError`] when the range is not one of whole pages in this mode.
    pub fn merge(&self, range: VirtRange, largest: PageSize) -> Result<Flush, EditError> {
        self.check_range(Edit::Merge, range)?;
        Ok(merge::merge(self, range, largest))
    }

    /// Takes out the tables without entries, parked or not, whose span is wholly in `range`. They are in the token.
    ///
    /// # Errors
    ///
    /// [`EditError`] when the range is not one of whole pages in this mode.
    pub fn purge(&self, range: VirtRange) -> Result<Flush, EditError> {
        self.check_range(Edit::Purge, range)?;
        Ok(purge::purge(self, range))
    }

    /// Makes sure that every root entry over `range` leads to a table, so that roots can be copied once and stay equal below;
    /// PAE must have it before it maps anything. The token is empty, except in PAE, where it asks for the root to be loaded again.
    ///
    /// # Errors
    ///
    /// [`EditError`] when frames run out, or a root entry maps a large page or is parked.
    pub fn populate(&self, range: VirtRange) -> Result<Flush, EditError> {
        self.check_range(Edit::Populate, range)?;
        map::populate(self, range)
    }

    fn check_range(&self, edit: Edit, range: VirtRange) -> Result<(), EditError> {
        let refuse = |reason| {
            Err(EditError {
                edit,
                range,
                reason,
            })
        };
        if !range.is_aligned(FRAME_SIZE) {
            return refuse(Reason::Unaligned);
        }
        if !translates(self.mode, range) {
            return refuse(Reason::OutsideMode(self.mode));
        }
        Ok(())
    }

    /// The entries of a table at `level`; `None` when the memory cannot reach it.
    #[inline]
    fn slots(&self, table: PhysAddr, level: u8) -> Option<&'a [Slot<F>]> {
        self.memory
            .entries::<F::Raw>(table, F::FORMAT.entries(level))
    }

    /// The entries of a table that the survey of this edit has reached before, or that was reserved for it.
    #[inline]
    fn reached(&self, table: PhysAddr, level: u8) -> &'a [Slot<F>] {
        self.slots(table, level)
            .expect("memory lost a table that it showed a moment ago")
    }

    /// Which slot of a table at `level` translates the start of `span`.
    #[inline]
    fn index(&self, span: Span, level: u8) -> usize {
        (span.first >> F::FORMAT.shift(level)) as usize & (F::FORMAT.entries(level) - 1)
    }

    /// The slots of a table at `level` that translate `span`.
    #[inline]
    fn run<'s>(&self, slots: &'s [Slot<F>], level: u8, span: Span) -> &'s [Slot<F>] {
        let first = self.index(span, level);
        let count = ((span.last - span.first) >> F::FORMAT.shift(level)) as usize;
        &slots[first..=first + count]
    }

    /// What an edit made stale that changed leaves of `range` down to `page`.
    fn stale(range: VirtRange, page: PageSize) -> Stale {
        Stale {
            range,
            page,
            global: true,
            tables: false,
            root: false,
        }
    }
}
