//! Taking from one tree: counters first, then bits (`huge` says why).
//!
//! Which huge frame of the tree? For what is smaller than a huge frame: the partly free one with the least left, so that
//! others get the chance to become whole again; a wholly free one only when the caller says so. Which frames of it? Those
//! that *fit*, as the best-fit lists of a buddy allocator find them: single frames that no free run of eight is broken for,
//! runs that are not half of a longer one. Else runs would be missing and huge frames be broken for them, while as much lies
//! free in crumbs. For huge frames: one whose neighbour is not free, so that pairs stay for order 10.

use super::FrameAllocator;
use super::bits::{Fit, Sight, WORD};
use super::cache::Places;
use super::huge::{Change, Fill};
use super::index::{FrameId, HUGE_FRAMES, HugeId, Order, TREE_HUGES, TreeId};

impl FrameAllocator<'_> {
    /// Takes up to `want` single frames that fit from partly free huge frames of the tree; how many.
    pub(super) fn take_crumbs(&self, tree: TreeId, want: usize, to: &mut Places<'_>) -> usize {
        let mut got = 0;
        for huge in self.partials(tree, Order::FRAME) {
            let crumbs = self.bits(huge).crumbs();
            if crumbs > 0 {
                got += self.take_singles(huge, crumbs.min(want - got), to);
            }
            if got == want {
                break;
            }
        }
        got
    }

    /// Takes up to `want` single frames from partly free huge frames of the tree; how many.
    pub(super) fn take_partial(&self, tree: TreeId, want: usize, to: &mut Places<'_>) -> usize {
        let mut got = 0;
        for huge in self.partials(tree, Order::FRAME) {
            got += self.take_singles(huge, want - got, to);
            if got == want {
                break;
            }
        }
        got
    }

    /// Takes up to `want` single frames from a wholly free huge frame of the tree; how many.
    pub(super) fn take_breaking(&self, tree: TreeId, want: usize, to: &mut Places<'_>) -> usize {
        while let Some(huge) = self.lonely(tree) {
            let got = self.take_singles(huge, want, to);
            if got > 0 {
                return got;
            }
        }
        0
    }

    fn take_singles(&self, huge: HugeId, want: usize, to: &mut Places<'_>) -> usize {
        let Some((count, change)) = self.counter(huge).reserve(1, want) else {
            return 0;
        };
        let first = huge.first_frame().get();
        self.bits(huge)
            .claim_reserved(count, |word, bits| to.put_bits(first + word * WORD, bits));
        self.tree(huge.tree()).note(change);
        count
    }

    /// Takes a run of `order`, 1 to 8, from a partly free huge frame of the tree.
    pub(super) fn take_run(&self, tree: TreeId, order: Order, fit: Fit) -> Option<FrameId> {
        self.partials(tree, order)
            .find_map(|huge| self.take_run_in(huge, order, fit))
    }

    /// The same, with a look also at those where the last search was in vain.
    pub(super) fn take_overlooked_run(&self, tree: TreeId, order: Order) -> Option<FrameId> {
        let first = tree.first_huge().get();
        let huges = (first..first + TREE_HUGES).map(HugeId::new);
        huges
            .filter(|huge| matches!(self.counter(*huge).fill(), Fill::Partial(_)))
            .find_map(|huge| {
                let Sight::At(place) = self.bits(huge).look_for_run(order.frames(), Fit::Any)
                else {
                    return None;
                };
                self.take_run_at(huge, place, order, Fit::Any)
            })
    }

    /// Takes a run of `order`, 1 to 8, from a wholly free huge frame of the tree.
    pub(super) fn take_run_breaking(&self, tree: TreeId, order: Order) -> Option<FrameId> {
        while let Some(huge) = self.lonely(tree) {
            if let Some(frame) = self.take_run_at(huge, 0, order, Fit::Any) {
                return Some(frame);
            }
        }
        None
    }

    /// Takes a run of `order`, 1 to 8, from a huge frame, if it is partly free and no search there was in vain.
    pub(super) fn take_run_in(&self, huge: HugeId, order: Order, fit: Fit) -> Option<FrameId> {
        let counter = self.counter(huge);
        let seen = counter.partly_free(order)?;
        // Most that cannot be had are seen without a write.
        match self.bits(huge).look_for_run(order.frames(), fit) {
            Sight::At(place) => self.take_run_at(huge, place, order, fit),
            Sight::NoneThatFits => None,
            Sight::None => {
                counter.note_vain(seen, order);
                None
            }
        }
    }

    /// Takes `len` frames in a row (2 to 256) from a partly free huge frame of the tree.
    pub(super) fn take_row(&self, tree: TreeId, len: usize) -> Option<FrameId> {
        self.partials(tree, order_of_row(len))
            .find_map(|huge| self.take_row_in(huge, len))
    }

    /// Takes `len` frames in a row (2 to 256) from a wholly free huge frame of the tree.
    pub(super) fn take_row_breaking(&self, tree: TreeId, len: usize) -> Option<FrameId> {
        while let Some(huge) = self.lonely(tree) {
            if let Some(frame) = self.take_row_at(huge, 0, len) {
                return Some(frame);
            }
        }
        None
    }

    /// Takes `len` frames in a row (2 to 256) from a huge frame, if it is partly free and no search there was in vain.
    pub(super) fn take_row_in(&self, huge: HugeId, len: usize) -> Option<FrameId> {
        let counter = self.counter(huge);
        let seen = counter.partly_free(order_of_row(len))?;
        match self.bits(huge).look_for_row(len) {
            Some(at) => self.take_row_at(huge, at, len),
            None => {
                counter.note_vain(seen, order_of_row(len));
                None
            }
        }
    }

    /// Takes the `len` frames from `at`, or whichever are free when others have come between.
    pub(super) fn take_row_at(&self, huge: HugeId, mut at: usize, len: usize) -> Option<FrameId> {
        let (_, mut change) = self.counter(huge).reserve(len, len)?;
        let mut claimed = self.bits(huge).claim_range(at, len);
        while !claimed {
            let Some(next) = self.bits(huge).look_for_row(len) else {
                change = change.and(self.counter(huge).give(len));
                break;
            };
            at = next;
            claimed = self.bits(huge).claim_range(at, len);
        }
        self.tree(huge.tree()).note(change);
        claimed.then(|| huge.first_frame().plus(at))
    }

    pub(super) fn take_run_at(
        &self,
        huge: HugeId,
        place: usize,
        order: Order,
        fit: Fit,
    ) -> Option<FrameId> {
        let len = order.frames();
        let (_, mut change) = self.counter(huge).reserve(len, len)?;
        let at = self.bits(huge).claim_run(place, len, fit);
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

    /// The huge frames of the tree that are partly free, with at least as many free frames as a run of `order` has, from the fullest to the
    /// emptiest; without those where a search for such a run was in vain. They are put in order as they are asked for: mostly the first
    /// will do.
    fn partials(&self, tree: TreeId, order: Order) -> impl Iterator<Item = HugeId> + use<> {
        let mut ranks = [0; TREE_HUGES];
        let mut len = 0;
        for (index, pair) in self.pairs(tree).iter().enumerate() {
            for (place, free) in (2 * index..).zip(pair.free_in_partial(order)) {
                if free > 0 {
                    ranks[len] = (free * TREE_HUGES + place) as u16;
                    len += 1;
                }
            }
        }
        let first = tree.first_huge().get();
        let mut last = 0;
        core::iter::from_fn(move || {
            let rest = ranks[..len].iter().copied().filter(|&rank| rank > last);
            last = rest.min()?;
            Some(HugeId::new(first + usize::from(last) % TREE_HUGES))
        })
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
}

/// By which order it is remembered that a row was searched for in vain: the smallest one of which a run would have room for it.
fn order_of_row(len: usize) -> Order {
    Order::largest_in(len.next_power_of_two()).unwrap_or(Order::FRAME)
}
