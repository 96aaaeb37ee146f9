//! Mapped blocks by number, many in one call: what areas are filled with, and what their page tables remember when frames are given back.
//!
//! ```text
//!   allocate_row       | 4 | 64     | 32 |      frames in a row, from one place, as the largest blocks that can begin there
//!   free_mapped_each   | 7 | 912 | 44 | ...     blocks anywhere, by their first frames: mostly single frames, to the CPU's stack
//!   free_mapped_run    | 64      | 32 | 4 |     blocks one behind the other: one change of bits and counters for all of them
//! ```

use kspace_layout::Pfn;

use super::allocate::Local;
use super::index::{FrameId, HUGE_FRAMES, Order};
use super::record::Owner;

/// From so many frames in a row on, they go back to the bits at once, and not by way of the CPU's stack.
const LONG_RUN: usize = 8;

/// The longest row: half a huge frame.
pub const LONGEST_ROW: usize = HUGE_FRAMES / 2;

impl Local<'_, '_> {
    /// `frames` frames one behind the other, from 2 to [`LONGEST_ROW`], that begin anywhere: as blocks that are marked as mapped, each as
    /// large as can begin where it begins. Returns the first frame. `None` when there is no such row at hand: there may be some elsewhere,
    /// and there may be blocks.
    #[must_use = "the frames leak unless they are freed by number"]
    pub fn allocate_row(&self, frames: usize, owner: Owner) -> Option<Pfn> {
        if !(2..=LONGEST_ROW).contains(&frames) {
            return None;
        }
        let first = self.allocator.find_row(self.pin, self.slot, frames)?;
        let (mut at, end) = (first, first.plus(frames));
        while at < end {
            let order = at.largest_block(end.get() - at.get());
            if let Some(record) = self.allocator.record(at) {
                record.hand_out_mapped(order, owner);
            }
            at = at.plus(order.frames());
        }
        Some(self.allocator.pfn(first))
    }

    /// Up to `most` single frames that this CPU keeps, marked as mapped.
    #[inline(always)]
    #[must_use = "the frames leak unless they are freed by number, even those that were not looked at"]
    pub fn allocate_kept_singles(&self, most: usize, owner: Owner) -> impl Iterator<Item = Pfn> {
        let frames = self.slot.small.pop_some(most).map(FrameId::new);
        frames.map(move |frame| {
            if let Some(record) = self.allocator.record(frame) {
                record.hand_out_mapped(Order::FRAME, owner);
            }
            self.allocator.pfn(frame)
        })
    }

    /// Takes back the mapped blocks that begin at these frames, one after the other, up to the first that cannot be taken back: because it
    /// has no number here, or its record says that no mapped block begins there, or that it is shared. The other frames of a block may
    /// follow its first, in order. Returns how many of these frames have come back, and how many that are with those that were not named.
    ///
    /// # Safety
    ///
    /// Each block with a number here (none of another allocator has one) is the caller's, from [`MappedBlock::into_raw`](super::MappedBlock::into_raw) of this allocator; no
    /// page table points to it any more, and no CPU has a translation to it.
    #[inline]
    #[allow(unsafe_code)] // An unsafe fn is how a promise is asked for; its body has no unsafe operation.
    pub unsafe fn free_mapped_each(&self, blocks: &[Pfn]) -> (usize, usize) {
        let (mut done, mut frames) = (0, 0);
        loop {
            let singles = self.free_mapped_singles(&blocks[done..]);
            done += singles;
            frames += singles;
            // Another order, a full stack, or what is refused; or the end.
            let order = blocks
                .get(done)
                .and_then(|first| self.free_mapped_at(*first));
            let Some(order) = order else {
                return (done, frames);
            };
            done += named(&blocks[done..], order);
            frames += order.frames();
        }
    }

    /// Takes back the mapped single frames that `blocks` begins with, up to what is no such frame, or has no room on this CPU's stack; how
    /// many.
    #[inline(always)]
    fn free_mapped_singles(&self, blocks: &[Pfn]) -> usize {
        let allocator = self.allocator;
        let (base, records, by) = (allocator.base, allocator.meta.records, self.pin.freed_by);
        let taken_back = |first: &Pfn| {
            let number = usize::try_from(first.as_u64().wrapping_sub(base)).ok()?;
            let record = records.get(number)?;
            record.take_back_mapped_single(by).then_some(number)
        };
        self.slot
            .small
            .push_some(blocks.iter().map_while(taken_back))
    }

    /// Takes back the mapped block that begins at `first`; its order. `None` when it cannot be taken back, as above.
    ///
    /// # Safety
    ///
    /// As above.
    #[inline(always)]
    #[allow(unsafe_code)] // An unsafe fn is how a promise is asked for; its body has no unsafe operation.
    pub unsafe fn free_mapped(&self, first: Pfn) -> Option<Order> {
        self.free_mapped_at(first)
    }

    #[inline(always)]
    fn free_mapped_at(&self, first: Pfn) -> Option<Order> {
        let frame = self.allocator.frame(first)?;
        let order = self.take_back_mapped(frame)?;
        self.allocator.keep(Some(self.slot), frame, order);
        Some(order)
    }

    /// Writes into the record that a block is free, if it is a mapped one; its order.
    #[inline(always)]
    fn take_back_mapped(&self, frame: FrameId) -> Option<Order> {
        let record = self.allocator.record(frame)?;
        record.take_back_mapped(self.pin.freed_by)
    }

    /// Takes back the mapped blocks that make up the `frames` frames from `first` on. Returns how many frames they had; less than all
    /// when some of them are no such blocks.
    ///
    /// # Safety
    ///
    /// As above.
    #[allow(unsafe_code)] // An unsafe fn is how a promise is asked for; its body has no unsafe operation.
    pub unsafe fn free_mapped_run(&self, first: Pfn, frames: usize) -> usize {
        let Some(first) = self.allocator.frame(first) else {
            return 0;
        };
        let end = first.plus(frames);
        // The frames from `freed` on, before `at`, have a free record, and go back together.
        let (mut freed, mut at, mut given) = (first, first, 0);
        while at < end {
            match self.take_back_mapped(at) {
                Some(order) if order < Order::HUGE => {
                    at = at.plus(order.frames());
                    given += order.frames();
                    continue;
                }
                found => {
                    self.give_run(freed, at);
                    let frames = found.map_or(0, Order::frames);
                    if let Some(order) = found {
                        self.allocator.keep(Some(self.slot), at, order);
                    }
                    given += frames;
                    at = at.plus(frames.max(1));
                    freed = at;
                }
            }
        }
        self.give_run(freed, at);
        given
    }

    /// Gives the frames from `first` on, before `end`, back.
    fn give_run(&self, first: FrameId, end: FrameId) {
        let frames = end.get() - first.get();
        if frames < LONG_RUN {
            for frame in first.get()..end.get() {
                let frame = FrameId::new(frame);
                self.allocator.keep(Some(self.slot), frame, Order::FRAME);
            }
            return;
        }
        let mut at = first;
        while at < end {
            let len = (HUGE_FRAMES - at.in_huge()).min(end.get() - at.get());
            self.allocator.give_part(at, len);
            at = at.plus(len);
        }
        self.allocator.count_free(Some(self.slot), frames as isize);
    }
}

/// How many of a block's frames `frames` begins with.
fn named(frames: &[Pfn], order: Order) -> usize {
    let block = frames.iter().take(order.frames());
    let follow = block.zip(frames[0].as_u64()..);
    follow
        .take_while(|(frame, number)| frame.as_u64() == *number)
        .count()
}
