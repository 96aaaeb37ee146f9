//! Ranges of any length without gaps, for devices that cannot scatter: found by trying places from the lowest up.
//!
//! A range is a row of blocks, the largest that alignment allows, each with its own record: what frees blocks frees
//! ranges. Finding a place only looks; taking it is tried huge frame by huge frame and undone when one of them is no
//! longer free.

use core::fmt;

use kspace_layout::{FRAME_SIZE, Pfn, PhysRange};

use super::FrameAllocator;
use super::cache::PinnedCpu;
use super::error::{AllocError, FreeError};
use super::huge::Fill;
use super::index::{FrameId, HUGE_FRAMES, HugeId, Order};
use super::record::{FreedBy, History, Owner};

/// Where a contiguous range may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constraint {
    /// Its first frame's number is a multiple of this many frames, a power of two.
    pub align: usize,
    /// The last frame that it may have: for example `Pfn::new(0xfff)` for 24 address lines.
    pub last: Pfn,
}

impl Constraint {
    /// Anywhere.
    pub const NONE: Self = Self {
        align: 1,
        last: Pfn::new((1 << 40) - 1),
    };
}

impl<'m> FrameAllocator<'m> {
    /// `frames` frames in a row, with unknown content.
    ///
    /// # Errors
    ///
    /// [`AllocError::ZeroFrames`], [`AllocError::Alignment`], [`AllocError::BelowLimit`], and [`AllocError::NoRange`] after
    /// this CPU's own frames were drained in vain.
    pub fn allocate_contiguous(
        &self,
        pin: &PinnedCpu,
        frames: usize,
        within: Constraint,
        owner: Owner,
    ) -> Result<Contiguous<'_>, AllocError> {
        if frames == 0 {
            return Err(AllocError::ZeroFrames);
        }
        if !within.align.is_power_of_two() {
            return Err(AllocError::Alignment {
                align: within.align,
            });
        }
        if within.last < self.start() {
            return Err(AllocError::BelowLimit {
                start: self.start(),
                last: within.last,
            });
        }
        let found = self.take_lowest(frames, within).or_else(|| {
            self.drain(pin);
            self.take_lowest(frames, within)
        });
        let Some(start) = found else {
            return Err(AllocError::NoRange {
                frames,
                align: within.align,
                last: within.last,
                free: self.free_frames_exact(),
            });
        };
        Ok(self.own(start, frames, owner))
    }

    /// Exactly the `frames` frames from `start`, if all of them are free: to take memory out of use.
    ///
    /// # Errors
    ///
    /// [`AllocError::ZeroFrames`]; [`AllocError::NoRange`] when one of them is not free.
    pub fn allocate_at(
        &self,
        start: Pfn,
        frames: usize,
        owner: Owner,
    ) -> Result<Contiguous<'_>, AllocError> {
        if frames == 0 {
            return Err(AllocError::ZeroFrames);
        }
        let first = self.frame(start).filter(|first| {
            frames <= self.meta.records.len() - first.get() && self.take_range(*first, frames)
        });
        match first {
            Some(first) => Ok(self.own(first, frames, owner)),
            None => Err(AllocError::NoRange {
                frames,
                align: 1,
                last: Pfn::try_new(start.as_u64().saturating_add(frames as u64 - 1))
                    .unwrap_or(start),
                free: self.free_frames_exact(),
            }),
        }
    }

    /// Writes the records of a range that was just taken.
    fn own(&self, start: FrameId, frames: usize, owner: Owner) -> Contiguous<'_> {
        for (frame, order) in blocks(start, frames) {
            if let Some(record) = self.record(frame) {
                record.hand_out(order, owner);
            }
        }
        self.count_free(None, -(frames as isize));
        Contiguous {
            allocator: self,
            start,
            frames,
        }
    }

    fn take_lowest(&self, frames: usize, within: Constraint) -> Option<FrameId> {
        let limit = within
            .last
            .as_u64()
            .saturating_add(1)
            .min(self.base + self.meta.records.len() as u64);
        let mut start = self.aligned(FrameId::new(0), within.align)?;
        loop {
            let end = start.get().checked_add(frames)?;
            if self.base.checked_add(end as u64)? > limit {
                return None;
            }
            match self.last_in_use(start, frames) {
                Some(last) => start = self.aligned(last.plus(1), within.align)?,
                None if self.take_range(start, frames) => return Some(start),
                // Somebody was quicker: on from here.
                None => start = self.aligned(start.plus(1), within.align)?,
            }
        }
    }

    /// The first frame from `frame` on whose page frame number is a multiple of `align`.
    fn aligned(&self, frame: FrameId, align: usize) -> Option<FrameId> {
        let pfn = (self.base + frame.get() as u64).checked_next_multiple_of(align as u64)?;
        usize::try_from(pfn - self.base).ok().map(FrameId::new)
    }

    /// The last frame of a range that is not free. Skips a whole tree without memory at a time.
    fn last_in_use(&self, start: FrameId, frames: usize) -> Option<FrameId> {
        let mut end = start.get() + frames;
        while end > start.get() {
            let huge = FrameId::new(end - 1).huge();
            let first = huge.first_frame().max(start);
            let len = end - first.get();
            let tree = huge.tree();
            if !self.tree(tree).is_present() {
                return Some(FrameId::new(
                    super::index::TREE_FRAMES - 1 + tree.first_frame().get(),
                ));
            }
            match self.counter(huge).fill() {
                Fill::Free => {}
                Fill::Partial(_) => {
                    let at = self.bits(huge).last_used(first.in_huge(), len);
                    if let Some(at) = at {
                        return Some(huge.first_frame().plus(at));
                    }
                }
                Fill::Full | Fill::Whole | Fill::Reserved => {
                    return Some(HugeId::new(huge.get()).first_frame().plus(HUGE_FRAMES - 1));
                }
            }
            end = first.get();
        }
        None
    }

    /// Takes all of a range or nothing.
    fn take_range(&self, start: FrameId, frames: usize) -> bool {
        let mut done = 0;
        for (first, len) in parts(start, frames) {
            if !self.take_exact(first, len) {
                for (first, len) in parts(start, done) {
                    self.give_exact(first, len);
                }
                return false;
            }
            done += len;
        }
        true
    }

    fn give_exact(&self, first: FrameId, len: usize) {
        if len == HUGE_FRAMES {
            let change = self.counter(first.huge()).give_whole();
            self.tree(first.tree()).note(change);
        } else {
            self.give_part(first, len);
        }
    }

    /// Takes a range back: all of its blocks, or, when a record does not agree, none.
    fn free_range(&self, by: FreedBy, start: FrameId, frames: usize) -> Result<(), FreeError> {
        for (index, (frame, order)) in blocks(start, frames).enumerate() {
            let record = self.record(frame);
            if !record.is_some_and(|record| record.take_back(order, by)) {
                for (frame, order) in blocks(start, frames).take(index) {
                    if let Some(record) = self.record(frame)
                        && let History::Freed { owner, .. } = record.history()
                    {
                        record.hand_out(order, owner);
                    }
                }
                return Err(self.refuse(self.pfn(frame), order));
            }
        }
        for (first, len) in parts(start, frames) {
            self.give_exact(first, len);
        }
        self.count_free(None, frames as isize);
        Ok(())
    }
}

/// The largest aligned blocks that a range is made of, in order.
pub(super) fn blocks(start: FrameId, frames: usize) -> impl Iterator<Item = (FrameId, Order)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let frame = start.plus(done);
        let order = (done < frames).then(|| frame.largest_block(frames - done))?;
        done += order.frames();
        Some((frame, order))
    })
}

/// The parts of a range that lie in one huge frame each.
pub(super) fn parts(start: FrameId, frames: usize) -> impl Iterator<Item = (FrameId, usize)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let first = start.plus(done);
        let len = (HUGE_FRAMES - first.in_huge()).min(frames - done);
        done += len;
        (len > 0).then_some((first, len))
    })
}

/// A range of frames without gaps that this value owns. Dropping it frees them.
#[must_use = "a range that is dropped is free again"]
pub struct Contiguous<'a> {
    allocator: &'a FrameAllocator<'a>,
    start: FrameId,
    frames: usize,
}

impl<'a> Contiguous<'a> {
    /// Its first frame.
    #[must_use]
    pub fn pfn(&self) -> Pfn {
        self.allocator.pfn(self.start)
    }

    /// How many frames it has.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Its addresses.
    #[must_use]
    pub fn range(&self) -> PhysRange {
        PhysRange::new(self.pfn().start(), self.frames as u64 * FRAME_SIZE)
    }

    /// Frees it.
    ///
    /// # Errors
    ///
    /// [`FreeError`], when a record does not agree: somebody else has freed part of it, through a bare number.
    pub fn free(self, pin: &PinnedCpu) -> Result<(), FreeError> {
        let range = core::mem::ManuallyDrop::new(self);
        range
            .allocator
            .free_range(pin.freed_by, range.start, range.frames)
    }

    /// The blocks that it is made of, each freed by itself from now on.
    pub fn into_blocks(self, mut sink: impl FnMut(super::Block<'a>)) {
        let range = core::mem::ManuallyDrop::new(self);
        for (frame, order) in blocks(range.start, range.frames) {
            sink(super::Block::new(range.allocator, frame, order));
        }
    }
}

impl Drop for Contiguous<'_> {
    fn drop(&mut self) {
        if self
            .allocator
            .free_range(FreedBy::NOBODY, self.start, self.frames)
            .is_err()
        {
            self.allocator.count_refused();
        }
    }
}

impl fmt::Debug for Contiguous<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Contiguous({})", self.range())
    }
}
