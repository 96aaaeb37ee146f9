//! Giving back to bits, counters and trees: bits first, then the counter, then the tree's counts (`huge` says why).

use super::FrameAllocator;
use super::bits::WORD;
use super::cache::CpuSlot;
use super::huge::{Change, is_pair};
use super::index::{FrameId, HUGE_FRAMES, Order};

/// Frames on their way back that lie in one word of bits, and how many of the same huge frame went before them.
struct Group {
    /// The word's number, counted from the base.
    word: usize,
    mask: u64,
    /// Frames of the same huge frame whose bits are clear already, but which its counter does not know yet.
    cleared: usize,
}

impl FrameAllocator<'_> {
    /// Gives single frames back. Neighbours in the sequence that share a word of bits or a counter share its change.
    pub(super) fn give_small(
        &self,
        slot: Option<&CpuSlot>,
        frames: impl IntoIterator<Item = usize>,
    ) {
        let mut frames = frames.into_iter();
        let Some(first) = frames.next() else { return };
        let mut group = Group {
            word: first / WORD,
            mask: 1 << (first % WORD),
            cleared: 0,
        };
        let mut count = 1;
        for frame in frames {
            count += 1;
            let word = frame / WORD;
            if word != group.word {
                self.clear(&mut group);
                if frame / HUGE_FRAMES != group.word * WORD / HUGE_FRAMES {
                    self.lower_counter(&mut group);
                }
                group.word = word;
            }
            group.mask |= 1 << (frame % WORD);
        }
        self.clear(&mut group);
        self.lower_counter(&mut group);
        self.count_free(slot, count);
    }

    fn clear(&self, group: &mut Group) {
        self.meta.bits[group.word].release(group.mask);
        group.cleared += group.mask.count_ones() as usize;
        group.mask = 0;
    }

    fn lower_counter(&self, group: &mut Group) {
        let huge = FrameId::new(group.word * WORD).huge();
        let change = self.counter(huge).give(group.cleared);
        self.tree(huge.tree()).note(change);
        group.cleared = 0;
    }

    /// Gives huge frames back, by their first frames. Neighbours in the sequence that share a tree share its change.
    pub(super) fn give_wholes(
        &self,
        slot: Option<&CpuSlot>,
        frames: impl IntoIterator<Item = usize>,
    ) {
        let mut of = None;
        let mut change = Change::NONE;
        let mut count = 0;
        for frame in frames {
            let huge = FrameId::new(frame).huge();
            if let Some(tree) = of.replace(huge.tree())
                && tree != huge.tree()
            {
                self.tree(tree).note(core::mem::take(&mut change));
            }
            change = change.and(self.counter(huge).give_whole());
            count += HUGE_FRAMES as isize;
        }
        if let Some(tree) = of {
            self.tree(tree).note(change);
        }
        self.count_free(slot, count);
    }

    /// Gives a block of any order back.
    pub(super) fn give_block(&self, slot: Option<&CpuSlot>, frame: FrameId, order: Order) {
        let huge = frame.huge();
        if is_pair(order) {
            let change = self.meta.huges[huge.get() / 2].give_both();
            self.tree(huge.tree()).note(change);
        } else if order == Order::HUGE {
            return self.give_wholes(slot, core::iter::once(frame.get()));
        } else {
            self.give_part(frame, order.frames());
        }
        self.count_free(slot, order.frames() as isize);
    }

    /// Gives `len` frames of one huge frame back, fewer than all.
    pub(super) fn give_part(&self, frame: FrameId, len: usize) {
        let huge = frame.huge();
        self.bits(huge).release_range(frame.in_huge(), len);
        let change = self.counter(huge).give(len);
        self.tree(huge.tree()).note(change);
    }
}
