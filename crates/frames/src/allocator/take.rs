//! Taking from one tree: counters first, then bits (`huge` says why).
//!
//! Which huge frame of the tree? For what is smaller than a huge frame: the partly free one with the least left, so that
//! others get the chance to become whole again; a wholly free one only when the caller says so. For huge frames: one whose
//! neighbour is not free, so that pairs stay for order 10.

use super::FrameAllocator;
use super::bits::WORD;
use super::huge::{Change, Fill, HugePair};
use super::index::{FrameId, HUGE_FRAMES, HugeId, Order, TREE_HUGES, TreeId};

impl FrameAllocator<'_> {
    /// Takes up to `want` single frames from partly free huge frames of the tree; how many.
    pub(super) fn take_partial(
        &self,
        tree: TreeId,
        want: usize,
        mut sink: impl FnMut(usize),
    ) -> usize {
        let mut got = 0;
        while got < want {
            let Some((_, huge)) = self.fullest(tree, 1, 0) else {
                break;
            };
            got += self.take_singles(huge, want - got, &mut sink);
        }
        got
    }

    /// Takes up to `want` single frames from a wholly free huge frame of the tree; how many.
    pub(super) fn take_breaking(
        &self,
        tree: TreeId,
        want: usize,
        mut sink: impl FnMut(usize),
    ) -> usize {
        while let Some(huge) = self.lonely(tree) {
            let got = self.take_singles(huge, want, &mut sink);
            if got > 0 {
                return got;
            }
        }
        0
    }

    fn take_singles(&self, huge: HugeId, want: usize, sink: &mut impl FnMut(usize)) -> usize {
        let Some((count, change)) = self.counter(huge).reserve(1, want) else {
            return 0;
        };
        let first = huge.first_frame().get();
        self.bits(huge).claim_reserved(count, |word, mut bits| {
            while bits != 0 {
                sink(first + word * WORD + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        });
        self.tree(huge.tree()).note(change);
        count
    }

    /// Takes a run of `order`, 1 to 8, from a partly free huge frame of the tree.
    pub(super) fn take_run(&self, tree: TreeId, order: Order) -> Option<FrameId> {
        let mut above = 0;
        // From the fullest to the emptiest.
        for _ in 0..TREE_HUGES {
            let (rank, huge) = self.fullest(tree, order.frames(), above)?;
            if self.bits(huge).has_run(order.frames())
                && let Some(frame) = self.take_run_in(huge, order)
            {
                return Some(frame);
            }
            above = rank + 1;
        }
        None
    }

    /// Takes a run of `order`, 1 to 8, from a wholly free huge frame of the tree.
    pub(super) fn take_run_breaking(&self, tree: TreeId, order: Order) -> Option<FrameId> {
        while let Some(huge) = self.lonely(tree) {
            if let Some(frame) = self.take_run_in(huge, order) {
                return Some(frame);
            }
        }
        None
    }

    fn take_run_in(&self, huge: HugeId, order: Order) -> Option<FrameId> {
        let len = order.frames();
        let (_, mut change) = self.counter(huge).reserve(len, len)?;
        let at = self.bits(huge).claim_run(len);
        if at.is_none() {
            change = change.and(self.counter(huge).give(len));
        }
        self.tree(huge.tree()).note(change);
        at.map(|at| huge.first_frame().plus(at))
    }

    /// Takes up to `want` huge frames of the tree, first those whose neighbour is not free; how many.
    pub(super) fn take_wholes(
        &self,
        tree: TreeId,
        want: usize,
        mut sink: impl FnMut(HugeId),
    ) -> usize {
        let mut got = 0;
        let mut change = Change::NONE;
        let first = tree.first_huge().get();
        // Halves of pairs, and on the way where whole pairs begin.
        let mut paired = TREE_HUGES / 2;
        for (index, pair) in self.pairs(tree).iter().enumerate() {
            let free = pair.free_halves();
            if free == [true, true] {
                paired = paired.min(index);
            } else if free != [false, false] {
                let huge = HugeId::new(first + 2 * index + usize::from(free[1]));
                if let Some(taken) = self.counter(huge).take_whole() {
                    change = change.and(taken);
                    sink(huge);
                    got += 1;
                }
            }
            if got == want {
                break;
            }
        }
        for (index, pair) in self.pairs(tree).iter().enumerate().skip(paired) {
            if got == want {
                break;
            }
            let even = HugeId::new(first + 2 * index);
            if want - got == 1 {
                if let Some(taken) = self.counter(even).take_whole() {
                    change = change.and(taken);
                    sink(even);
                    got += 1;
                }
            } else if let Some(taken) = pair.take_both() {
                change = change.and(taken);
                sink(even);
                sink(HugeId::new(first + 2 * index + 1));
                got += 2;
            }
        }
        self.tree(tree).note(change);
        got
    }

    /// Takes a pair of huge frames of the tree, a block of order 10.
    pub(super) fn take_pair(&self, tree: TreeId) -> Option<FrameId> {
        let (index, change) = self
            .pairs(tree)
            .iter()
            .enumerate()
            .filter(|(_, pair)| pair.fills() == [Fill::Free; 2])
            .find_map(|(index, pair)| Some((index, pair.take_both()?)))?;
        self.tree(tree).note(change);
        Some(HugeId::new(tree.first_huge().get() + 2 * index).first_frame())
    }

    /// Takes exactly the `len` frames from `frame`, all in one huge frame, if all are free and in a tree with memory.
    pub(super) fn take_exact(&self, frame: FrameId, len: usize) -> bool {
        let huge = frame.huge();
        let tree = self.tree(huge.tree());
        if !tree.is_present() {
            return false;
        }
        let counter = self.counter(huge);
        if len == HUGE_FRAMES {
            let change = counter.take_whole();
            tree.note(change.unwrap_or_default());
            return change.is_some();
        }
        let Some((_, mut change)) = counter.reserve(len, len) else {
            return false;
        };
        let claimed = self.bits(huge).claim_range(frame.in_huge(), len);
        if !claimed {
            change = change.and(counter.give(len));
        }
        tree.note(change);
        claimed
    }

    /// The partly free huge frame with the least free frames, but at least `least`, and a rank of at least `above`; with
    /// its rank, which orders the tree's huge frames by what is free, and equals by their place.
    fn fullest(&self, tree: TreeId, least: usize, above: usize) -> Option<(usize, HugeId)> {
        self.huges(tree)
            .filter_map(|(huge, fill)| match fill {
                Fill::Partial(free) if free >= least => {
                    Some((free * TREE_HUGES + huge.get() % TREE_HUGES, huge))
                }
                _ => None,
            })
            .filter(|&(rank, _)| rank >= above)
            .min()
    }

    /// A wholly free huge frame, rather one whose neighbour is not.
    fn lonely(&self, tree: TreeId) -> Option<HugeId> {
        let mut paired = None;
        for (index, pair) in self.pairs(tree).iter().enumerate() {
            let even = tree.first_huge().get() + 2 * index;
            match pair.fills() {
                [Fill::Free, Fill::Free] => paired = paired.or(Some(HugeId::new(even))),
                [Fill::Free, _] => return Some(HugeId::new(even)),
                [_, Fill::Free] => return Some(HugeId::new(even + 1)),
                _ => {}
            }
        }
        paired
    }

    /// The huge frames of a tree, and what each is.
    fn huges(&self, tree: TreeId) -> impl Iterator<Item = (HugeId, Fill)> {
        let first = tree.first_huge().get();
        self.pairs(tree)
            .iter()
            .flat_map(HugePair::fills)
            .enumerate()
            .map(move |(index, fill)| (HugeId::new(first + index), fill))
    }
}
