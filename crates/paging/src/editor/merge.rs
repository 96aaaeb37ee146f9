//! Replacing a table by one large page that says the same: `merge`, the way back from a split.

use kspace_layout::{PageSize, PhysAddr, VirtRange};

use crate::entry::{ACCESSED, DIRTY, GLOBAL, PRESENT, Rights, WRITE};
use crate::flush::Stale;
use crate::frame_list::FrameList;
use crate::{EntryFormat, Flush, FrameSource, PhysMemory, RawEntry};

use super::Editor;
use super::span::Span;

/// What one `merge` has done so far.
struct Merged {
    largest_level: u8,
    freed: FrameList,
    global: bool,
}

pub(super) fn merge<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    range: VirtRange,
    largest: PageSize,
) -> Flush {
    let largest_level = editor.limits.largest_leaf_level(editor.mode, largest);
    let mut merged = Merged {
        largest_level,
        freed: FrameList::EMPTY,
        global: false,
    };
    editor.merge_table(
        editor.mode.levels(),
        editor.root,
        Span::of(range),
        &mut merged,
    );
    if merged.freed.count() == 0 {
        return Flush::nothing();
    }
    let page = PageSize::Size4K;
    Flush::new(
        Stale {
            range,
            page,
            global: merged.global,
            tables: true,
            root: false,
        },
        merged.freed,
    )
}

impl<F: EntryFormat, M: PhysMemory, S: FrameSource> Editor<'_, F, M, S> {
    fn merge_table(&self, level: u8, table: PhysAddr, span: Span, merged: &mut Merged) {
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
            if level > 2 {
                // From the bottom up, so that 4 KiB pages can become 2 MiB, and these 1 GiB.
                self.merge_table(level - 1, below, piece.span, merged);
            }
            if level > merged.largest_level || !piece.whole || self.is_permanent(level, piece.span)
            {
                continue;
            }
            // The leaf would not know what this entry, made by somebody else, denies to all of the table.
            if F::FORMAT.rights(level, raw, self.limits) != Rights::ALL {
                continue;
            }
            if let Some(leaf) = self.merged_leaf(below, level) {
                // A plain store: this entry's span is held, and an accessed bit that the CPU sets meanwhile the leaf has as well.
                F::Raw::store(slot, leaf);
                merged.global |= leaf & GLOBAL != 0;
                merged.freed.push::<F>(below, self.memory);
            }
        }
    }

    /// The leaf at `level` that says what all entries of `table` say together, if there is one.
    ///
    /// It counts as accessed, and as dirty if it is writable: the CPU may set these bits in the table until the flush, and
    /// they must not be lost.
    fn merged_leaf(&self, table: PhysAddr, level: u8) -> Option<u64> {
        let history = ACCESSED | DIRTY;
        let slots = self.slots(table, level - 1)?;
        let first = F::Raw::load(slots.first()?);
        let start = F::FORMAT.page(level - 1, first, self.limits);
        if first & PRESENT == 0
            || !F::FORMAT.is_leaf(level - 1, first, self.limits)
            || !start.is_aligned(1 << F::FORMAT.shift(level))
        {
            return None;
        }
        let step: u64 = 1 << F::FORMAT.shift(level - 1);
        let mut expected = first & !history;
        for slot in slots {
            if F::Raw::load(slot) & !history != expected {
                return None;
            }
            // Wraps only behind the last page of all, where it is not used any more.
            expected = expected.wrapping_add(step);
        }
        let dirty = if first & WRITE != 0 { DIRTY } else { 0 };
        Some(F::FORMAT.larger_leaf(level, first & !history) | ACCESSED | dirty)
    }
}
