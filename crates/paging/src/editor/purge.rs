//! Taking out tables that map nothing any more: `purge`.

use kspace_layout::{PageSize, PhysAddr, VirtRange};

use crate::entry::{PARKED, PRESENT};
use crate::flush::Stale;
use crate::frame_list::FrameList;
use crate::{EntryFormat, Flush, Format, FrameSource, PhysMemory, RawEntry};

use super::Editor;
use super::known::Known;
use super::span::Span;

pub(super) fn purge<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    range: VirtRange,
) -> Flush {
    let mut freed = FrameList::EMPTY;
    editor.purge_table(
        editor.mode.levels(),
        editor.root,
        Span::of(range),
        &mut freed,
    );
    if freed.count() == 0 {
        return Flush::nothing();
    }
    let page = PageSize::Size4K;
    // No leaf changed, so no global translation is stale: only what the CPU keeps of the upper levels.
    Flush::new(
        Stale {
            range,
            page,
            global: false,
            tables: true,
            root: false,
        },
        freed,
    )
}

impl<F: EntryFormat, M: PhysMemory, S: FrameSource> Editor<'_, F, M, S> {
    fn purge_table(&self, level: u8, table: PhysAddr, span: Span, freed: &mut FrameList) {
        // A table out of reach stays: nothing can be said about what it maps.
        let Some(slots) = self.slots(table, level) else {
            return;
        };
        for piece in span.pieces(F::FORMAT.shift(level)) {
            let slot = &slots[self.index(piece.span, level)];
            let raw = F::Raw::load(slot);
            if raw & PRESENT == 0 || F::FORMAT.is_leaf(level, raw, self.limits) {
                continue;
            }
            let below = F::FORMAT.table(raw, self.limits);
            let known = self.known(level, raw);
            if matches!(known, Known::Full { .. }) {
                continue;
            }
            if level > 2 && known != Known::Empty {
                self.purge_table(level - 1, below, piece.span, freed);
            }
            if piece.whole
                && !self.is_permanent(level, piece.span)
                && (known == Known::Empty || self.is_empty(below, level - 1))
            {
                F::Raw::store(slot, 0);
                freed.push::<F>(below, self.memory);
            }
        }
    }

    /// Whether the tables under this entry's span are kept though empty.
    pub(super) fn is_permanent(&self, level: u8, span: Span) -> bool {
        level == self.mode.levels()
            && (F::FORMAT == Format::Pae
                || self
                    .permanent
                    .is_some_and(|range| range.overlaps(span.range())))
    }

    /// Whether a table can be reached and has no entry that is present or parked.
    fn is_empty(&self, table: PhysAddr, level: u8) -> bool {
        let used = PRESENT | PARKED;
        self.slots(table, level)
            .is_some_and(|slots| slots.iter().all(|slot| F::Raw::load(slot) & used == 0))
    }
}
