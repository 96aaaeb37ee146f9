//! Which tree to take from.
//!
//! Each CPU reserves one tree for what is smaller than a huge frame and another one for huge frames, so that CPUs do not
//! share cache lines and small blocks do not spread over all memory. In this order:
//!
//! 1. what *fits* (`take`) in its own tree, then in an unreserved tree nearby, which becomes its own;
//! 2. any of a partly free huge frame in its own tree, then in an unreserved tree, the most broken one of those nearby,
//!    before a whole huge frame is broken anywhere;
//! 3. a wholly free one in its own tree, then in an unreserved tree;
//! 4. *stealing*: any tree, reserved or not, partly free ones first.
//!
//! What fits is found only by looking at bits. Where there is none, many searches would look at them in vain, so a CPU that
//! has found none in its own tree does without it for one search, then for two, four, and so on; and so for its neighbours.
//!
//! Runs begin with the huge frame that the last one came from, as long as it is not full: one cache line of bits, instead of
//! all those of a tree. When all that was taken there has come back, it is whole again, and broken again for the next run: that is one huge
//! frame for each CPU, and saves the search for who takes and gives in turn.
//!
//! The counts of trees lag (`tree`), so an allocation may fail while another CPU is between two steps of giving back what
//! would have fitted; who can wait tries again.

use super::FrameAllocator;
use super::bits::{Fit, WORD};
use super::cache::{CpuSlot, PinnedCpu};
use super::huge::Fill;
use super::index::{FrameId, HugeId, Order, TreeId};
use super::pause::Pause;
use super::sync::{AtomicUsize, Relaxed};
use super::tree::Tree;

/// How many trees are looked at for partly free huge frames before a whole one is broken: 64 GiB, 8 KiB of counts.
const NEARBY: usize = 1024;

/// How many trees are compared for the best one: 4 GiB.
const GROUP: usize = 64;

/// The same as [`NEARBY`] for runs, which a partly free huge frame may well not have: all bits have to be looked at.
const NEARBY_RUNS: usize = 16;

/// From this order on runs are long: they hardly ever fit where short ones do.
const LONG: u8 = 4;

/// Searches, at most, that do not ask for what fits after one that found nothing in a CPU's own tree: single frames, short runs, long ones.
/// What is short fits soon again, when others were freed.
const LONGEST_PAUSES: [u16; 3] = [2, 2, 64];

/// The same after one that found nothing nearby, which costs sixteen times as much.
const LONGEST_PAUSE_NEARBY: u16 = 64;

/// Where a run was found is remembered together with its order.
const ORDER_BITS: u32 = 4;

/// What is wanted of a tree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    /// Partly free huge frames, and only what fits there.
    Fitting,
    /// Partly free huge frames.
    Partial,
    /// Wholly free ones.
    Whole,
    /// Partly free ones, also those where the last search was in vain.
    Overlooked,
}

impl Want {
    #[inline]
    fn is_in(self, tree: &Tree) -> bool {
        let (whole, partial) = tree.counts();
        match self {
            Self::Fitting | Self::Partial | Self::Overlooked => partial > 0,
            Self::Whole => whole > 0,
        }
    }
}

impl FrameAllocator<'_> {
    /// Takes one frame to hand out, and fills a CPU's empty stack of single frames, with two words of bits if it can.
    pub(super) fn refill_small(&self, pin: &PinnedCpu, slot: &CpuSlot) -> Option<FrameId> {
        let want = (self.small_limit * 3 / 5).clamp(1, 2 * WORD);
        let mut got = 0;
        slot.small.put_all(want, |places| {
            let taken = self.search(pin, slot, 0, NEARBY, |tree, kind| {
                let got = match kind {
                    Want::Fitting => self.take_crumbs(tree, want, places),
                    Want::Partial => self.take_partial(tree, want, places),
                    Want::Whole => self.take_breaking(tree, want, places),
                    // No single frame can be overlooked.
                    Want::Overlooked => 0,
                };
                (got > 0).then_some(got)
            });
            got = taken.unwrap_or(0);
        });
        self.count_free(Some(slot), -(got as isize));
        slot.small.pop().map(FrameId::new)
    }

    /// Takes a run of `order`, 1 to 8.
    pub(super) fn find_run(
        &self,
        pin: &PinnedCpu,
        slot: &CpuSlot,
        order: Order,
    ) -> Option<FrameId> {
        let class = if order.get() < LONG { 1 } else { 2 };
        let pause = &slot.homes.own_fits[class];
        let found = self.run_again(slot, pause, order).or_else(|| {
            self.search(pin, slot, class, NEARBY_RUNS, |tree, kind| {
                let found = match kind {
                    // Where one fits there is hardly room for the next.
                    Want::Fitting => return self.take_run(tree, order, Fit::Exact),
                    Want::Partial => self.take_run(tree, order, Fit::Any),
                    Want::Whole => self.take_run_breaking(tree, order),
                    Want::Overlooked => self.take_overlooked_run(tree, order),
                }?;
                self.remember_run(slot, found.huge(), order);
                Some(found)
            })
        })?;
        self.count_free(Some(slot), -(order.frames() as isize));
        Some(found)
    }

    /// Takes a run from the huge frame that this CPU's last long one came from, if it is not full.
    fn run_again(&self, slot: &CpuSlot, pause: &Pause, order: Order) -> Option<FrameId> {
        let (huge, _) = remembered_run(slot)?;
        let fit = if order.get() < LONG && pause.is_over() {
            Fit::Exact
        } else {
            Fit::Any
        };
        if self.counter(huge).fill() == Fill::Free {
            // All that this CPU took there has come back: it may well go on so.
            return self.take_run_at(huge, 0, order, Fit::Any);
        }
        self.take_run_in(huge, order, fit)
    }

    /// Takes `len` frames in a row, 2 to 256: from the huge frame that the last run or row came from, or else from this CPU's own tree; or
    /// from a whole one anywhere, or as they come nearby.
    pub(super) fn find_row(&self, pin: &PinnedCpu, slot: &CpuSlot, len: usize) -> Option<FrameId> {
        let again = remembered_run(slot).and_then(|(huge, _)| {
            if self.counter(huge).fill() == Fill::Free {
                return self.take_row_at(huge, 0, len);
            }
            self.take_row_in(huge, len)
        });
        let found = match again {
            Some(found) => found,
            None => self.search_row(pin, slot, len)?,
        };
        self.count_free(Some(slot), -(len as isize));
        Some(found)
    }

    #[cold]
    fn search_row(&self, pin: &PinnedCpu, slot: &CpuSlot, len: usize) -> Option<FrameId> {
        let home = &slot.homes.small;
        let own = self.home(home);
        let trees = || self.upwards(pin, own);
        let mut take = |tree, kind| match kind {
            Want::Whole => self.take_row_breaking(tree, len),
            _ => self.take_row(tree, len),
        };
        let found = own
            .and_then(|own| take(own, Want::Partial))
            .or_else(|| own.and_then(|own| take(own, Want::Whole)))
            .or_else(|| self.settle_in(pin, home, trees(), Want::Whole, &mut take))
            .or_else(|| {
                let of_others = || trees().take(NEARBY_RUNS);
                let partly = of_others().find_map(|tree| take(tree, Want::Partial));
                partly.or_else(|| of_others().find_map(|tree| take(tree, Want::Whole)))
            })?;
        self.remember_run(slot, found.huge(), Order::new(8));
        Some(found)
    }

    /// Remembers where a run was found, unless there may be longer ones where one was found before: else runs of different orders would
    /// each lead the next astray.
    fn remember_run(&self, slot: &CpuSlot, huge: HugeId, order: Order) {
        let keep = remembered_run(slot).is_some_and(|(huge, its)| {
            order.get() < its && matches!(self.counter(huge).fill(), Fill::Partial(_))
        });
        if !keep {
            let known = (huge.get() + 1) << ORDER_BITS | usize::from(order.get());
            slot.homes.runs.store(known, Relaxed);
        }
    }

    /// Takes one huge frame to hand out, and some for the CPU's empty stack.
    pub(super) fn refill_huge(&self, pin: &PinnedCpu, slot: &CpuSlot) -> Option<HugeId> {
        let want = self.huge_limit.div_ceil(2).max(1);
        let mut taken = 0;
        let found = self.search_whole(pin, slot, |tree| {
            let mut found = None;
            // The first is for the caller, the others are kept.
            taken = self.take_wholes(tree, want, |huge| {
                if found.is_none() {
                    found = Some(huge);
                } else {
                    slot.huge.put(huge.first_frame().get());
                }
            });
            found
        })?;
        self.count_free(Some(slot), -((taken * Order::HUGE.frames()) as isize));
        Some(found)
    }

    /// Takes a block of order 10.
    pub(super) fn find_pair(&self, pin: &PinnedCpu, slot: &CpuSlot) -> Option<FrameId> {
        let found = self.search_whole(pin, slot, |tree| self.take_pair(tree))?;
        self.count_free(Some(slot), -(Order::MAX.frames() as isize));
        Some(found)
    }

    /// Tries trees for something smaller than a huge frame until `take` has some.
    fn search<T>(
        &self,
        pin: &PinnedCpu,
        slot: &CpuSlot,
        class: usize,
        nearby: usize,
        mut take: impl FnMut(TreeId, Want) -> Option<T>,
    ) -> Option<T> {
        let home = &slot.homes.small;
        let own = self.home(home);
        let pause = &slot.homes.own_fits[class];
        if let Some(own) = own
            && pause.is_over()
        {
            let got = take(own, Want::Fitting);
            pause.note(got.is_some(), LONGEST_PAUSES[class]);
            if got.is_some() {
                return got;
            }
        }
        let trees = || self.upwards(pin, own);
        if let Some(got) = self.fitting_nearby(pin, slot, trees(), &mut take) {
            return Some(got);
        }
        if let Some(got) = own.and_then(|own| take(own, Want::Partial)) {
            return Some(got);
        }
        let crowded = trees().next().and_then(|start| self.most_broken(start));
        let near = crowded.into_iter().chain(trees().take(nearby));
        if let Some(got) = self.settle_in(pin, home, near, Want::Partial, &mut take) {
            return Some(got);
        }
        if let Some(got) = own.and_then(|own| take(own, Want::Whole)) {
            return Some(got);
        }
        if let Some(got) = self.settle_in(pin, home, trees(), Want::Whole, &mut take) {
            return Some(got);
        }
        let kinds = [Want::Partial, Want::Whole, Want::Overlooked];
        kinds.into_iter().find_map(|kind| {
            trees()
                .filter(|&tree| kind.is_in(self.tree(tree)))
                .find_map(|tree| take(tree, kind))
        })
    }

    /// Tries the first of `trees` for what fits, unless that was in vain not long ago.
    fn fitting_nearby<T>(
        &self,
        pin: &PinnedCpu,
        slot: &CpuSlot,
        trees: impl Iterator<Item = TreeId>,
        take: &mut impl FnMut(TreeId, Want) -> Option<T>,
    ) -> Option<T> {
        let homes = &slot.homes;
        if !homes.nearby.is_over() {
            return None;
        }
        let near = trees.take(NEARBY_RUNS);
        let got = self.settle_in(pin, &homes.small, near, Want::Fitting, take);
        homes.nearby.note(got.is_some(), LONGEST_PAUSE_NEARBY);
        got
    }

    /// Tries trees for wholly free huge frames until `take` has some.
    fn search_whole<T>(
        &self,
        pin: &PinnedCpu,
        slot: &CpuSlot,
        mut take: impl FnMut(TreeId) -> Option<T>,
    ) -> Option<T> {
        let home = &slot.homes.huge;
        let own = self.home(home);
        if let Some(got) = own.and_then(&mut take) {
            return Some(got);
        }
        let trees = || self.downwards(pin, own);
        let mut either = |tree, _| take(tree);
        if let Some(got) = self.settle_in(pin, home, trees(), Want::Whole, &mut either) {
            return Some(got);
        }
        trees()
            .filter(|&tree| Want::Whole.is_in(self.tree(tree)))
            .find_map(take)
    }

    /// Takes from the first of `trees` that nobody has reserved and that has what is wanted, and makes it the CPU's own.
    fn settle_in<T>(
        &self,
        pin: &PinnedCpu,
        home: &AtomicUsize,
        trees: impl Iterator<Item = TreeId>,
        kind: Want,
        take: &mut impl FnMut(TreeId, Want) -> Option<T>,
    ) -> Option<T> {
        for id in trees {
            let tree = self.tree(id);
            if !kind.is_in(tree) || !tree.is_unreserved() || !tree.reserve(pin.cpu()) {
                continue;
            }
            if let Some(got) = take(id, kind) {
                if let Some(old) = self.home(home) {
                    self.tree(old).unreserve(pin.cpu());
                }
                home.store(id.get() + 1, Relaxed);
                return Some(got);
            }
            tree.unreserve(pin.cpu());
        }
        None
    }

    /// Of the trees around one, that with the fewest wholly free huge frames, which nobody has reserved and which has partly
    /// free ones: blocks that are there already keep the others company.
    fn most_broken(&self, around: TreeId) -> Option<TreeId> {
        let first = around.get() - around.get() % GROUP;
        let end = (first + GROUP).min(self.meta.trees.len());
        (first..end)
            .map(|id| (TreeId::new(id), &self.meta.trees[id]))
            .filter(|(_, tree)| Want::Partial.is_in(tree) && tree.is_unreserved())
            .min_by_key(|(_, tree)| tree.counts().0)
            .map(|(id, _)| id)
    }

    /// Gives up the trees that a CPU has reserved.
    pub(super) fn leave_homes(&self, pin: &PinnedCpu, slot: &CpuSlot) {
        for home in [&slot.homes.small, &slot.homes.huge] {
            if let Some(tree) = self.home(home) {
                self.tree(tree).unreserve(pin.cpu());
                home.store(0, Relaxed);
            }
        }
        slot.homes.runs.store(0, Relaxed);
    }

    fn home(&self, home: &AtomicUsize) -> Option<TreeId> {
        home.load(Relaxed).checked_sub(1).map(TreeId::new)
    }

    /// All trees, upwards from the one a CPU has (or the first of its part), its own part of them first.
    fn upwards(
        &self,
        pin: &PinnedCpu,
        own: Option<TreeId>,
    ) -> impl Iterator<Item = TreeId> + use<> {
        let (first, end) = self.part_of(pin);
        let from = own.map_or(first, TreeId::get).clamp(first, end);
        let part = (from..end).chain(first..from);
        part.chain(end..self.meta.trees.len())
            .chain(0..first)
            .map(TreeId::new)
    }

    /// The same downwards, from the end of the part: away from where small blocks begin.
    fn downwards(
        &self,
        pin: &PinnedCpu,
        own: Option<TreeId>,
    ) -> impl Iterator<Item = TreeId> + use<> {
        let (first, end) = self.part_of(pin);
        let from = own.map_or(end, TreeId::get).clamp(first, end);
        let part = (first..from).rev().chain((from..end).rev());
        part.chain((0..first).rev())
            .chain((end..self.meta.trees.len()).rev())
            .map(TreeId::new)
    }

    /// The trees where a CPU looks first: each has its part, so that they stay out of each other's way.
    fn part_of(&self, pin: &PinnedCpu) -> (usize, usize) {
        let (trees, cpus) = (self.meta.trees.len(), self.meta.cpus.len());
        let begin = |cpu: usize| cpu * trees / cpus;
        (
            begin(usize::from(pin.cpu())),
            begin(usize::from(pin.cpu()) + 1),
        )
    }
}

/// Where a CPU's runs come from, and the order of the one for which that was found.
fn remembered_run(slot: &CpuSlot) -> Option<(HugeId, u8)> {
    let known = slot.homes.runs.load(Relaxed);
    let huge = (known >> ORDER_BITS).checked_sub(1)?;
    Some((HugeId::new(huge), (known & ((1 << ORDER_BITS) - 1)) as u8))
}
