//! The way down to one table of 4 KiB pages: `leaf_table`.

use kspace_layout::{PhysAddr, VirtAddr, VirtRange};

use crate::entry::{PRESENT, Rights};
use crate::hidden::is_hidden;
use crate::parked::is_parked;
use crate::{EditError, EntryFormat, Format, FrameSource, LeafTable, PhysMemory, RawEntry};

use super::known::Known;
use super::span::Span;
use super::{Edit, Editor, Reason};

impl<'a, F: EntryFormat, M: PhysMemory, S: FrameSource> Editor<'a, F, M, S> {
    /// The table of 4 KiB pages that translates `at`, for edits without a walk. Tables that are missing are made; nothing is split.
    ///
    /// The caller holds at least the pages whose slots it will change; the rest is in the documentation of [`LeafTable`].
    ///
    /// # Errors
    ///
    /// [`EditError`], about the table's whole span, when a large page maps it or is parked there, an entry above denies some right, or
    /// frames run out.
    pub fn leaf_table(&self, at: VirtAddr) -> Result<LeafTable<'a, F>, EditError> {
        let size = 1 << F::FORMAT.shift(2);
        let range = VirtRange::new(at.align_down(size), size);
        self.check_range(Edit::LeafTable, range)?;
        let refuse = |reason| EditError {
            edit: Edit::LeafTable,
            range,
            reason,
        };
        let span = Span::of(range);
        let needed = self.survey_leaf_table(span).map_err(refuse)?;
        let mut reserve = self.reserve(needed).map_err(refuse)?;
        let mut table = self.root;
        for level in (2..=self.mode.levels()).rev() {
            let slot = &self.reached(table, level)[self.index(span, level)];
            table = self.table_below(slot, level, F::Raw::load(slot), &mut reserve);
            // The handle will edit parts of that table.
            self.remember(slot, level, Known::Nothing);
        }
        self.release(reserve);
        let page = range.start();
        // SAFETY: the table has just been found or put under the root, and whoever made this editor answers for its use.
        unsafe { LeafTable::at(table, self.memory, self.limits) }.ok_or(refuse(
            Reason::Unreachable {
                page,
                level: 1,
                table,
            },
        ))
    }

    /// How many tables are missing on the way down to `span`'s table.
    fn survey_leaf_table(&self, span: Span) -> Result<usize, Reason> {
        let page = span.start();
        let mut table: PhysAddr = self.root;
        for level in (2..=self.mode.levels()).rev() {
            let slots =
                self.slots(table, level)
                    .ok_or(Reason::Unreachable { page, level, table })?;
            let raw = F::Raw::load(&slots[self.index(span, level)]);
            if is_parked(raw) {
                return Err(Reason::Parked { page });
            }
            if is_hidden(raw) {
                return Err(Reason::Hidden { page });
            }
            if raw & PRESENT == 0 {
                if F::FORMAT == Format::Pae && level == 3 {
                    return Err(Reason::RootEntryMissing { page });
                }
                return Ok(usize::from(level) - 1);
            }
            self.refuse_leaf(level, raw, span)?;
            if F::FORMAT.rights(level, raw, self.limits) != Rights::ALL {
                return Err(Reason::Restricted { page, level, raw });
            }
            table = F::FORMAT.table(raw, self.limits);
        }
        match self.slots(table, 1) {
            Some(_) => Ok(0),
            None => Err(Reason::Unreachable {
                page,
                level: 1,
                table,
            }),
        }
    }
}
