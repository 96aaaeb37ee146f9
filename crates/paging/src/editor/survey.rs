//! Going over the leaves of a mapped range: first only to look, then to change them.

use core::slice::from_ref;

use kspace_layout::{PageSize, PhysAddr};

use crate::entry::{PARKED, PRESENT};
use crate::hidden::is_hidden;
use crate::parked::is_parked;
use crate::{Access, EntryFormat, Format, FrameSource, PhysMemory, RawEntry};

use super::known::Known;
use super::protect::Target;
use super::reserve::Reserve;
use super::span::{Part, Piece, Span};
use super::{Editor, Reason, Slot};

/// What a survey of mapped pages holds them against.
pub(super) struct Rules<'t> {
    /// Every page must be mapped.
    pub(super) complete: bool,
    /// What the pages are to become; `None` when they are to go.
    pub(super) target: Option<&'t Target>,
}

/// A change of leaves.
pub(super) trait LeafJob<F: EntryFormat> {
    /// Changes all of `slots`, the leaves at `level` that translate `span`. Only at level 1 some may be absent.
    fn leaves(&mut self, level: u8, slots: &[Slot<F>], span: Span);

    /// Whether a larger page may stay as it is.
    fn keeps(&self, level: u8, raw: u64) -> bool;

    /// What is known of a table all of whose entries were leaves or absent, after they have all been changed.
    fn afterwards(&self, before: Known) -> Known;
}

/// The bits of many entries at once.
#[derive(Clone, Copy)]
pub(super) struct Bits {
    /// The bits that all of them have.
    pub(super) all: u64,
    /// The bits that some of them have.
    pub(super) any: u64,
}

/// Goes over entries without a branch for each: the first thing that every edit of many pages does.
#[inline]
pub(super) fn bits<F: EntryFormat>(slots: &[Slot<F>]) -> Bits {
    let mut bits = Bits {
        all: u64::MAX,
        any: 0,
    };
    for slot in slots {
        let raw = F::Raw::load(slot);
        bits.all &= raw;
        bits.any |= raw;
    }
    bits
}

/// Which leaves an edit has changed, for its token.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Touched {
    /// Every changed leaf's bits, before the change.
    pub(super) bits: u64,
    /// The smallest page changed.
    pub(super) page: Option<PageSize>,
}

impl Touched {
    pub(super) fn note(&mut self, page: PageSize, bits: u64) {
        self.bits |= bits;
        self.page = Some(self.page.map_or(page, |smallest| smallest.min(page)));
    }
}

/// What a survey has found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Survey {
    /// How many tables the edit needs.
    pub(super) needed: usize,
    /// The leaves that an edit of everything will change.
    pub(super) touched: Touched,
}

impl<F: EntryFormat, M: PhysMemory, S: FrameSource> Editor<'_, F, M, S> {
    /// Goes over the leaves of `span`, the part of the range under `table`, and holds them against the rules.
    pub(super) fn survey(
        &self,
        rules: &Rules<'_>,
        level: u8,
        table: PhysAddr,
        span: Span,
        found: &mut Survey,
    ) -> Result<(), Reason> {
        let page = span.start();
        let slots = self
            .slots(table, level)
            .ok_or(Reason::Unreachable { page, level, table })?;
        for part in span.parts(F::FORMAT.shift(level)) {
            if let Part::Whole(run) = part {
                let Bits { all, any } = bits::<F>(self.run(slots, level, run));
                let only_leaves = F::FORMAT.is_leaf(level, all, self.limits)
                    && (all & PRESENT != 0 || (level == 1 && !rules.complete && any & PARKED == 0));
                if only_leaves && self.refuse_write_execute(rules, all, any, run).is_ok() {
                    if any & PRESENT != 0 {
                        found.touched.note(self.leaf_size(level), any);
                    }
                    continue;
                }
            }
            for piece in part.span().pieces(F::FORMAT.shift(level)) {
                let raw = F::Raw::load(&slots[self.index(piece.span, level)]);
                self.survey_piece(rules, level, raw, piece, found)?;
            }
        }
        Ok(())
    }

    /// The same for one entry.
    fn survey_piece(
        &self,
        rules: &Rules<'_>,
        level: u8,
        raw: u64,
        piece: Piece,
        found: &mut Survey,
    ) -> Result<(), Reason> {
        let page = piece.span.start();
        if raw & PRESENT == 0 {
            return if is_parked(raw) {
                Err(Reason::Parked { page })
            } else if is_hidden(raw) {
                Err(Reason::Hidden { page })
            } else if rules.complete {
                Err(Reason::NotMapped { page })
            } else {
                Ok(())
            };
        }
        if !F::FORMAT.is_leaf(level, raw, self.limits) {
            let rights = F::FORMAT.rights(level, raw, self.limits);
            if rules
                .target
                .is_some_and(|target| rights.deny(target.protection))
            {
                return Err(Reason::Restricted { page, level, raw });
            }
            match self.known(level, raw) {
                Known::Empty if rules.complete => return Err(Reason::NotMapped { page }),
                Known::Empty => return Ok(()),
                // Nothing below is split or looked at more closely.
                Known::Full { global } if rules.target.is_none() && (piece.whole || level == 2) => {
                    found
                        .touched
                        .note(self.leaf_size(level - 1), Known::leaf_bits(global));
                    return Ok(());
                }
                Known::Full { .. } | Known::Nothing => {}
            }
            let next = F::FORMAT.table(raw, self.limits);
            return self.survey(rules, level - 1, next, piece.span, found);
        }
        if rules
            .target
            .is_some_and(|target| target.is_met_by(level, raw))
        {
            return Ok(());
        }
        self.refuse_write_execute(rules, raw, raw, piece.span)?;
        if piece.whole {
            found.touched.note(self.leaf_size(level), raw);
            return Ok(());
        }
        let start = F::FORMAT.page(level, raw, self.limits).as_u64();
        let limit = F::FORMAT.page_limit(1, self.limits);
        if start >= limit {
            return Err(Reason::PhysTooWide {
                page,
                phys: start,
                limit,
            });
        }
        found.needed += Self::split_cost(level, piece.span);
        found
            .touched
            .note(self.leaf_size(Self::split_level(level, piece.span)), raw);
        Ok(())
    }

    /// Refuses leaves that would turn from writable to executable or back; `all` are the bits that every one of them has,
    /// `any` those that some have.
    fn refuse_write_execute(
        &self,
        rules: &Rules<'_>,
        all: u64,
        any: u64,
        span: Span,
    ) -> Result<(), Reason> {
        // Without a no-execute bit everything is executable anyway.
        let Some(target) = rules.target else {
            return Ok(());
        };
        if F::FORMAT == Format::TwoLevel || !self.limits.no_execute() {
            return Ok(());
        }
        let conflict = match target.protection.access {
            Access::ReadOnly => false,
            Access::ReadWrite => F::FORMAT.rights(1, all, self.limits).execute,
            Access::ReadExecute => F::FORMAT.rights(1, any, self.limits).write,
        };
        if conflict {
            Err(Reason::WriteExecute { page: span.start() })
        } else {
            Ok(())
        }
    }

    /// Changes the leaves of `span`, which the survey has accepted. Returns whether there were no tables among them.
    pub(super) fn change(
        &self,
        job: &mut impl LeafJob<F>,
        level: u8,
        table: PhysAddr,
        span: Span,
        known: Known,
        reserve: &mut Reserve,
    ) -> bool {
        let slots = self.reached(table, level);
        let mut only_leaves = true;
        for part in span.parts(F::FORMAT.shift(level)) {
            if let Part::Whole(run) = part {
                let slots = self.run(slots, level, run);
                if level == 1
                    || matches!(known, Known::Full { .. })
                    || self.are_leaves(level, bits::<F>(slots).all)
                {
                    job.leaves(level, slots, run);
                    continue;
                }
            }
            for piece in part.span().pieces(F::FORMAT.shift(level)) {
                let slot = &slots[self.index(piece.span, level)];
                only_leaves &= self.change_piece(job, level, slot, piece, reserve);
            }
        }
        only_leaves
    }

    /// The same for one entry.
    fn change_piece(
        &self,
        job: &mut impl LeafJob<F>,
        level: u8,
        slot: &Slot<F>,
        piece: Piece,
        reserve: &mut Reserve,
    ) -> bool {
        let raw = F::Raw::load(slot);
        if raw & PRESENT == 0 {
            return true;
        }
        if F::FORMAT.is_leaf(level, raw, self.limits) {
            if piece.whole {
                job.leaves(level, from_ref(slot), piece.span);
            } else if !job.keeps(level, raw) {
                let next = self.split(slot, level, reserve);
                self.change(job, level - 1, next, piece.span, Known::Nothing, reserve);
                return false;
            }
            return true;
        }
        let known = self.known(level, raw);
        if known == Known::Empty {
            return false;
        }
        if !piece.whole {
            self.remember(slot, level, Known::Nothing);
        }
        let next = F::FORMAT.table(raw, self.limits);
        let only_leaves = self.change(job, level - 1, next, piece.span, known, reserve);
        if piece.whole {
            let after = if only_leaves {
                job.afterwards(known)
            } else {
                Known::Nothing
            };
            self.remember(slot, level, after);
        }
        false
    }

    /// Whether entries that have `all` these bits in common are all present leaves.
    fn are_leaves(&self, level: u8, all: u64) -> bool {
        all & PRESENT != 0 && F::FORMAT.is_leaf(level, all, self.limits)
    }
}
