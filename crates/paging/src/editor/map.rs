//! Filling empty ranges: `map` and `populate`.

use core::slice::from_ref;

use kspace_layout::{PageSize, PhysAddr, VirtRange};

use crate::entry::{PARKED, PRESENT};
use crate::hidden::is_hidden;
use crate::parked::is_parked;
use crate::{EntryFormat, Flush, Format, FrameSource, PhysMemory, Protection, RawEntry};

use super::known::Known;
use super::reserve::Reserve;
use super::span::{Part, Piece, Span};
use super::survey::bits;
use super::{Edit, EditError, Editor, Reason, Slot};

/// What one `map` is to do.
struct Plan {
    /// Where the range starts in virtual and in physical memory.
    virt: u64,
    phys: u64,
    protection: Protection,
    largest_level: u8,
    /// The bits of leaves, by level - 1: 4 KiB, 2 or 4 MiB, 1 GiB.
    leaf_bits: [u64; 3],
}

impl Plan {
    /// Where `address` goes.
    #[inline]
    fn phys(&self, address: u64) -> u64 {
        self.phys + (address - self.virt)
    }

    /// Whether leaves at `level` can map entries from `first` on, all of which are to be mapped.
    #[inline]
    fn fits<F: EntryFormat>(&self, level: u8, first: u64) -> bool {
        level <= self.largest_level && self.phys(first) & ((1 << F::FORMAT.shift(level)) - 1) == 0
    }

    /// Stores leaves at `level` for the addresses from `first` on.
    #[inline]
    fn fill<F: EntryFormat>(&self, slots: &[Slot<F>], level: u8, first: u64) {
        let (phys, bits) = (self.phys(first), self.leaf_bits[level as usize - 1]);
        match level {
            1 => fill_level::<F, 1>(slots, phys, bits),
            2 => fill_level::<F, 2>(slots, phys, bits),
            _ => fill_level::<F, 3>(slots, phys, bits),
        }
    }
}

/// The same with the level known to the compiler: entries differ by a constant then, and need not wait for each other.
#[inline]
fn fill_level<F: EntryFormat, const LEVEL: u8>(slots: &[Slot<F>], phys: u64, bits: u64) {
    let mut phys = phys;
    for slot in slots {
        F::Raw::store(slot, F::FORMAT.leaf_address(LEVEL, phys) | bits);
        phys += 1 << F::FORMAT.shift(LEVEL);
    }
}

pub(super) fn map<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    range: VirtRange,
    phys: PhysAddr,
    protection: Protection,
    largest: PageSize,
) -> Result<(), EditError> {
    let refuse = |reason| EditError {
        edit: Edit::Map,
        range,
        reason,
    };
    if !phys.is_aligned(kspace_layout::FRAME_SIZE) {
        return Err(refuse(Reason::PhysUnaligned(phys)));
    }
    let limits = editor.limits;
    let plan = Plan {
        virt: range.start().as_u64(),
        phys: phys.as_u64(),
        protection,
        largest_level: limits.largest_leaf_level(editor.mode, largest),
        leaf_bits: [1, 2, 3].map(|level| F::FORMAT.leaf_bits(level, protection, limits)),
    };
    let top = editor.mode.levels();
    let limit = F::FORMAT.page_limit(top.min(2), limits);
    editor
        .check_phys(&plan, Span::of(range), limit)
        .map_err(refuse)?;
    let needed = editor
        .survey_map(&plan, top, Some(editor.root), Span::of(range))
        .map_err(refuse)?;
    let mut reserve = editor.reserve(needed).map_err(refuse)?;
    editor.commit_map(
        &plan,
        top,
        editor.root,
        Span::of(range),
        Known::Nothing,
        &mut reserve,
    );
    editor.release(reserve);
    Ok(())
}

impl<F: EntryFormat, M: PhysMemory, S: FrameSource> Editor<'_, F, M, S> {
    /// Refuses a span whose pages would lie at or past `limit`.
    fn check_phys(&self, plan: &Plan, span: Span, limit: u64) -> Result<(), Reason> {
        // Below 2^52 + 2^57, so this cannot wrap.
        let last = plan.phys(span.last);
        if last < limit {
            return Ok(());
        }
        let fitting = limit.saturating_sub(plan.phys(span.first));
        let page = Span {
            first: span.first + fitting,
            last: span.last,
        }
        .start();
        Err(Reason::PhysTooWide {
            page,
            phys: plan.phys(page.as_u64()),
            limit,
        })
    }

    /// How many tables it takes to map `span`, the part of the range under `table`; refuses what is mapped already.
    fn survey_map(
        &self,
        plan: &Plan,
        level: u8,
        table: Option<PhysAddr>,
        span: Span,
    ) -> Result<usize, Reason> {
        let slots = match table {
            None => None,
            Some(table) => {
                let page = span.start();
                Some(
                    self.slots(table, level)
                        .ok_or(Reason::Unreachable { page, level, table })?,
                )
            }
        };
        if level == 1 {
            self.check_phys(plan, span, F::FORMAT.page_limit(1, self.limits))?;
        }
        let mut needed = 0;
        for part in span.parts(F::FORMAT.shift(level)) {
            if let Part::Whole(run) = part
                && plan.fits::<F>(level, run.first)
                && slots.is_none_or(|slots| {
                    bits::<F>(self.run(slots, level, run)).any & (PRESENT | PARKED) == 0
                })
            {
                continue;
            }
            for piece in part.span().pieces(F::FORMAT.shift(level)) {
                needed += self.survey_entry(plan, level, slots, piece)?;
            }
        }
        Ok(needed)
    }

    /// The same for one entry.
    fn survey_entry(
        &self,
        plan: &Plan,
        level: u8,
        slots: Option<&[Slot<F>]>,
        piece: Piece,
    ) -> Result<usize, Reason> {
        let page = piece.span.start();
        let raw = slots.map_or(0, |slots| {
            F::Raw::load(&slots[self.index(piece.span, level)])
        });
        if is_parked(raw) {
            return Err(Reason::Parked { page });
        }
        if is_hidden(raw) {
            return Err(Reason::Hidden { page });
        }
        if raw & PRESENT == 0 {
            if piece.whole && plan.fits::<F>(level, piece.span.first) {
                return Ok(0);
            }
            if F::FORMAT == Format::Pae && level == 3 {
                return Err(Reason::RootEntryMissing { page });
            }
            return Ok(1 + self.survey_map(plan, level - 1, None, piece.span)?);
        }
        self.refuse_leaf(level, raw, piece.span)?;
        let rights = F::FORMAT.rights(level, raw, self.limits);
        if rights.deny(plan.protection) {
            return Err(Reason::Restricted { page, level, raw });
        }
        // A table that is known to be empty need not be read: it is as good as a new one.
        let next = F::FORMAT.table(raw, self.limits);
        let next = (self.known(level, raw) != Known::Empty).then_some(next);
        self.survey_map(plan, level - 1, next, piece.span)
    }

    /// Refuses a present entry that maps a page itself.
    pub(super) fn refuse_leaf(&self, level: u8, raw: u64, span: Span) -> Result<(), Reason> {
        if !F::FORMAT.is_leaf(level, raw, self.limits) {
            return Ok(());
        }
        let inside = span.first & ((1 << F::FORMAT.shift(level)) - 1);
        let page = F::FORMAT.page(level, raw, self.limits).as_u64();
        Err(Reason::AlreadyMapped {
            page: span.start(),
            phys: PhysAddr::new(page | inside),
        })
    }

    /// Fills `span`, which the survey found empty. Returns whether it took no tables.
    fn commit_map(
        &self,
        plan: &Plan,
        level: u8,
        table: PhysAddr,
        span: Span,
        known: Known,
        reserve: &mut Reserve,
    ) -> bool {
        let slots = self.reached(table, level);
        let mut only_leaves = true;
        for part in span.parts(F::FORMAT.shift(level)) {
            if let Part::Whole(run) = part
                && plan.fits::<F>(level, run.first)
            {
                let slots = self.run(slots, level, run);
                // There may be tables among them, which are filled instead.
                if level == 1 || known == Known::Empty || bits::<F>(slots).any & PRESENT == 0 {
                    plan.fill::<F>(slots, level, run.first);
                    continue;
                }
            }
            for piece in part.span().pieces(F::FORMAT.shift(level)) {
                let slot = &slots[self.index(piece.span, level)];
                only_leaves &= self.commit_entry(plan, level, slot, piece, reserve);
            }
        }
        only_leaves
    }

    /// The same for one entry.
    fn commit_entry(
        &self,
        plan: &Plan,
        level: u8,
        slot: &Slot<F>,
        piece: Piece,
        reserve: &mut Reserve,
    ) -> bool {
        let raw = F::Raw::load(slot);
        if raw & PRESENT == 0 && piece.whole && plan.fits::<F>(level, piece.span.first) {
            plan.fill::<F>(from_ref(slot), level, piece.span.first);
            return true;
        }
        let next = self.table_below(slot, level, raw, reserve);
        // A table that was installed just now knows nothing.
        let known = self.known(level, raw);
        if !piece.whole {
            self.remember(slot, level, Known::Nothing);
        }
        let only_leaves = self.commit_map(plan, level - 1, next, piece.span, known, reserve);
        if piece.whole {
            let full = Known::Full {
                global: plan.protection.global,
            };
            self.remember(slot, level, if only_leaves { full } else { Known::Nothing });
        }
        false
    }

    /// The table that `slot` leads to, after installing one from the reserve if it led nowhere.
    pub(super) fn table_below(
        &self,
        slot: &Slot<F>,
        level: u8,
        raw: u64,
        reserve: &mut Reserve,
    ) -> PhysAddr {
        if raw & PRESENT != 0 {
            return F::FORMAT.table(raw, self.limits);
        }
        let new = self.take(reserve);
        let entry = F::FORMAT.to_table(level, new, self.limits);
        match F::Raw::compare_exchange(slot, raw, entry) {
            Ok(_) => new,
            Err(winner) => {
                // Another fill of this table's span was faster; both go on in its table.
                self.put_back(reserve, new);
                self.table_below(slot, level, winner, reserve)
            }
        }
    }
}

pub(super) fn populate<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    range: VirtRange,
) -> Result<Flush, EditError> {
    let refuse = |reason| EditError {
        edit: Edit::Populate,
        range,
        reason,
    };
    let level = editor.mode.levels();
    let slots = editor.reached(editor.root, level);
    let pieces = || Span::of(range).pieces(F::FORMAT.shift(level));
    let mut needed = 0;
    for piece in pieces() {
        let raw = F::Raw::load(&slots[editor.index(piece.span, level)]);
        if is_parked(raw) {
            return Err(refuse(Reason::Parked {
                page: piece.span.start(),
            }));
        }
        if is_hidden(raw) {
            return Err(refuse(Reason::Hidden {
                page: piece.span.start(),
            }));
        }
        if raw & PRESENT == 0 {
            needed += 1;
        } else {
            editor.refuse_leaf(level, raw, piece.span).map_err(refuse)?;
        }
    }
    let mut reserve = editor.reserve(needed).map_err(refuse)?;
    for piece in pieces() {
        let slot = &slots[editor.index(piece.span, level)];
        editor.table_below(slot, level, F::Raw::load(slot), &mut reserve);
    }
    editor.release(reserve);
    if F::FORMAT != Format::Pae || needed == 0 {
        return Ok(Flush::nothing());
    }
    let mut stale = Editor::<F, M, S>::stale(range, PageSize::Size4K);
    stale.root = true;
    Ok(Flush::new(stale, crate::frame_list::FrameList::EMPTY))
}
