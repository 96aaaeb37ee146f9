//! Going over the leaves of a mapped range: first only to look, then to change them.

use kspace_layout::{PageSize, PhysAddr};

use crate::entry::PRESENT;
use crate::{Access, EntryFormat, Format, FrameSource, PhysMemory, RawEntry};

use super::protect::Target;
use super::reserve::Reserve;
use super::span::Span;
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
    /// Changes 4 KiB pages, some of which may be absent.
    fn pages(&mut self, slots: &[Slot<F>], span: Span);

    /// Changes one larger page, all of it.
    fn large(&mut self, level: u8, slot: &Slot<F>, span: Span);

    /// Whether a larger page may stay as it is.
    fn keeps(&self, level: u8, raw: u64) -> bool;
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

impl<F: EntryFormat, M: PhysMemory, S: FrameSource> Editor<'_, F, M, S> {
    /// How many tables it takes to change the leaves of `span`, the part of the range under `table`.
    pub(super) fn survey(
        &self,
        rules: &Rules<'_>,
        level: u8,
        table: PhysAddr,
        span: Span,
    ) -> Result<usize, Reason> {
        let page = span.start();
        let slots = self
            .slots(table, level)
            .ok_or(Reason::Unreachable { page, level, table })?;
        if level == 1 {
            return self.survey_pages_mapped(rules, slots, span).map(|()| 0);
        }
        let mut needed = 0;
        for piece in span.pieces(F::FORMAT.shift(level)) {
            let page = piece.span.start();
            let raw = F::Raw::load(&slots[self.index(piece.span, level)]);
            if raw & PRESENT == 0 {
                if rules.complete {
                    return Err(Reason::NotMapped { page });
                }
            } else if F::FORMAT.is_leaf(level, raw, self.limits) {
                if rules
                    .target
                    .is_some_and(|target| target.is_met_by(level, raw))
                {
                    continue;
                }
                self.refuse_write_execute(rules, raw, raw, piece.span)?;
                if !piece.whole {
                    let start = F::FORMAT.page(level, raw, self.limits).as_u64();
                    let limit = F::FORMAT.page_limit(1, self.limits);
                    if start >= limit {
                        return Err(Reason::PhysTooWide {
                            page,
                            phys: start,
                            limit,
                        });
                    }
                    needed += Self::split_cost(level, piece.span);
                }
            } else {
                let rights = F::FORMAT.rights(level, raw, self.limits);
                if rules
                    .target
                    .is_some_and(|target| target.is_denied_by(rights))
                {
                    return Err(Reason::Restricted { page, level, raw });
                }
                let next = F::FORMAT.table(raw, self.limits);
                needed += self.survey(rules, level - 1, next, piece.span)?;
            }
        }
        Ok(needed)
    }

    fn survey_pages_mapped(
        &self,
        rules: &Rules<'_>,
        slots: &[Slot<F>],
        span: Span,
    ) -> Result<(), Reason> {
        if !rules.complete && rules.target.is_none() {
            return Ok(());
        }
        let slots = self.page_slots(slots, span);
        // Without a branch per page: this loop runs over every entry of the range.
        let (all, any) = slots.iter().fold((u64::MAX, 0), |(all, any), slot| {
            let raw = F::Raw::load(slot);
            (all & raw, any | raw)
        });
        let whole = self.refuse_write_execute(rules, all, any, span);
        if all & PRESENT != 0 && whole.is_ok() {
            return Ok(());
        }
        for (slot, piece) in slots.iter().zip(span.pieces(F::FORMAT.shift(1))) {
            let raw = F::Raw::load(slot);
            if raw & PRESENT == 0 {
                return Err(Reason::NotMapped {
                    page: piece.span.start(),
                });
            }
            self.refuse_write_execute(rules, raw, raw, piece.span)?;
        }
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

    /// Changes the leaves of `span`, which the survey has accepted.
    pub(super) fn change(
        &self,
        job: &mut impl LeafJob<F>,
        level: u8,
        table: PhysAddr,
        span: Span,
        reserve: &mut Reserve,
    ) {
        let slots = self.reached(table, level);
        if level == 1 {
            job.pages(self.page_slots(slots, span), span);
            return;
        }
        for piece in span.pieces(F::FORMAT.shift(level)) {
            let slot = &slots[self.index(piece.span, level)];
            let raw = F::Raw::load(slot);
            if raw & PRESENT == 0 {
                continue;
            }
            let next = if !F::FORMAT.is_leaf(level, raw, self.limits) {
                F::FORMAT.table(raw, self.limits)
            } else if job.keeps(level, raw) {
                continue;
            } else if piece.whole {
                job.large(level, slot, piece.span);
                continue;
            } else {
                self.split(slot, level, reserve)
            };
            self.change(job, level - 1, next, piece.span, reserve);
        }
    }
}
