//! Splitting a large page into a table of smaller ones that say the same.

use kspace_layout::PhysAddr;

use crate::hidden::is_hidden;
use crate::{EntryFormat, FrameSource, PhysMemory, RawEntry};

use super::reserve::Reserve;
use super::span::{Part, Span};
use super::{Editor, Slot};

impl<F: EntryFormat, M: PhysMemory, S: FrameSource> Editor<'_, F, M, S> {
    /// How many tables it takes until `span`, a part of one leaf at `level`, begins and ends at borders of leaves.
    pub(super) fn split_cost(level: u8, span: Span) -> usize {
        if level == 2 {
            return 1;
        }
        let ragged = span
            .pieces(F::FORMAT.shift(level - 1))
            .filter(|piece| !piece.whole);
        1 + ragged
            .map(|piece| Self::split_cost(level - 1, piece.span))
            .sum::<usize>()
    }

    /// The level of the smallest leaves that `span` then begins or ends with.
    pub(super) fn split_level(level: u8, span: Span) -> u8 {
        let mut level = level - 1;
        while level > 1
            && span
                .parts(F::FORMAT.shift(level))
                .any(|part| matches!(part, Part::Ragged(_)))
        {
            level -= 1;
        }
        level
    }

    /// Replaces the leaf in `slot` by a table of the same translations, and returns that table, or the one that the holder of
    /// another part of the page was faster to install.
    pub(super) fn split(&self, slot: &Slot<F>, level: u8, reserve: &mut Reserve) -> PhysAddr {
        let new = self.take(reserve);
        let entry = F::FORMAT.to_table(level, new, self.limits);
        loop {
            let raw = F::Raw::load(slot);
            let hidden = is_hidden(raw);
            let leaf = if hidden { F::FORMAT.shown(raw) } else { raw };
            if !F::FORMAT.is_leaf(level, leaf, self.limits) {
                self.put_back(reserve, new);
                return F::FORMAT.table(raw, self.limits);
            }
            let mut part = F::FORMAT.smaller_leaf(level, leaf);
            for slot in self.reached(new, level - 1) {
                let entry = if hidden { F::FORMAT.hidden(part) } else { part };
                F::Raw::store(slot, entry);
                // Wraps only behind the last page of all, where it is not used any more.
                part = part.wrapping_add(1 << F::FORMAT.shift(level - 1));
            }
            // Fails when the CPU has set an accessed or dirty bit since: then the parts must have it too.
            if F::Raw::compare_exchange(slot, raw, entry).is_ok() {
                return new;
            }
        }
    }
}
