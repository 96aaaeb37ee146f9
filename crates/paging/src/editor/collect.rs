//! Clearing parked entries after their flush, and telling what they remembered: `collect`.

use kspace_layout::{PageSize, PhysAddr, VirtRange};

use crate::entry::PRESENT;
use crate::parked::{self, is_parked};
use crate::{EditError, EntryFormat, FrameSource, PhysMemory, RawEntry};

use super::known::Known;
use super::span::Span;
use super::{Edit, Editor, Reason};

impl<F: EntryFormat, M: PhysMemory, S: FrameSource> Editor<'_, F, M, S> {
    /// Clears the parked entries of `range` and tells `each` what they remembered, in ascending order of addresses: the first page of
    /// each run that is consecutive in physical memory, the pages' size, and how many. What is not parked is passed over.
    ///
    /// # Errors
    ///
    /// [`EditError`] when an end of the range lies inside a parked large page, or a table is out of reach; `each` has not been called
    /// then.
    ///
    /// # Safety
    ///
    /// No CPU holds a translation of these pages any more: the tokens of [`park`](Self::park) have been flushed.
    pub unsafe fn collect(
        &self,
        range: VirtRange,
        each: impl FnMut(PhysAddr, PageSize, usize),
    ) -> Result<(), EditError> {
        self.check_range(Edit::Collect, range)?;
        let (top, span) = (self.mode.levels(), Span::of(range));
        self.survey_parked(top, self.root, span)
            .map_err(|reason| EditError {
                edit: Edit::Collect,
                range,
                reason,
            })?;
        let mut gather = Gather { run: None, each };
        self.collect_table(top, self.root, span, &mut gather);
        gather.tell();
        Ok(())
    }

    /// Refuses parked large pages that are only partly in `span`, and tables out of reach.
    fn survey_parked(&self, level: u8, table: PhysAddr, span: Span) -> Result<(), Reason> {
        let page = span.start();
        let slots = self
            .slots(table, level)
            .ok_or(Reason::Unreachable { page, level, table })?;
        if level == 1 {
            return Ok(());
        }
        for piece in span.pieces(F::FORMAT.shift(level)) {
            let raw = F::Raw::load(&slots[self.index(piece.span, level)]);
            if is_parked(raw) && !piece.whole {
                return Err(Reason::ParkedBeyond {
                    page: piece.span.start(),
                    size: self.leaf_size(level),
                });
            }
            if let Some(next) = self.table_with_parked(level, raw) {
                self.survey_parked(level - 1, next, piece.span)?;
            }
        }
        Ok(())
    }

    /// Clears the parked entries of `span`, and returns how many of this very table there were.
    fn collect_table(
        &self,
        level: u8,
        table: PhysAddr,
        span: Span,
        gather: &mut Gather<impl FnMut(PhysAddr, PageSize, usize)>,
    ) -> usize {
        let slots = self.reached(table, level);
        let size = self.leaf_size(level);
        let mut collected = 0;
        if level == 1 {
            parked::collect::<F>(self.run(slots, level, span), |raw, count| {
                gather.add(F::FORMAT.parked_page(level, raw, self.limits), size, count);
                collected += count;
            });
            return collected;
        }
        for piece in span.pieces(F::FORMAT.shift(level)) {
            let slot = &slots[self.index(piece.span, level)];
            let raw = F::Raw::load(slot);
            if is_parked(raw) {
                F::Raw::store(slot, 0);
                gather.add(F::FORMAT.parked_page(level, raw, self.limits), size, 1);
                collected += 1;
            } else if let Some(next) = self.table_with_parked(level, raw) {
                let below = self.collect_table(level - 1, next, piece.span, gather);
                if below == F::FORMAT.entries(level - 1) {
                    self.remember(slot, level, Known::Empty);
                }
            }
        }
        collected
    }

    /// The table that the entry `raw` leads to, unless it is known to have no parked entries.
    fn table_with_parked(&self, level: u8, raw: u64) -> Option<PhysAddr> {
        let leads_on = raw & PRESENT != 0
            && !F::FORMAT.is_leaf(level, raw, self.limits)
            && self.known(level, raw) == Known::Nothing;
        leads_on.then(|| F::FORMAT.table(raw, self.limits))
    }
}

/// Joins what neighbouring entries remembered to runs, across tables.
struct Gather<E> {
    run: Option<(PhysAddr, PageSize, usize)>,
    each: E,
}

impl<E: FnMut(PhysAddr, PageSize, usize)> Gather<E> {
    fn add(&mut self, first: PhysAddr, size: PageSize, count: usize) {
        if let Some((start, same, before)) = &mut self.run
            && *same == size
            && start.as_u64() + size.bytes() * *before as u64 == first.as_u64()
        {
            *before += count;
            return;
        }
        self.tell();
        self.run = Some((first, size, count));
    }

    fn tell(&mut self) {
        if let Some((first, size, count)) = self.run.take() {
            (self.each)(first, size, count);
        }
    }
}
