//! One block: allocating and freeing it.
//!
//! The way of a single frame and of a huge frame is short on purpose: the CPU's stack, the frame's record, done. All else
//! is out of line.

use kspace_layout::Pfn;

use super::cache::{CpuSlot, PinnedCpu};
use super::error::{AllocError, FreeError, FreeProblem};
use super::huge::{Fill, is_pair};
use super::index::{FrameId, Order};
use super::record::{Flags, FreedBy, History, Owner, Record};
use super::{Block, FrameAllocator, MappedBlock};

/// An allocator as one pinned CPU uses it: several calls find the CPU's stacks once.
#[derive(Clone, Copy, Debug)]
pub struct Local<'a, 'p> {
    pub(super) allocator: &'a FrameAllocator<'a>,
    pub(super) slot: &'a CpuSlot,
    pub(super) pin: &'p PinnedCpu,
}

impl<'a> Local<'a, '_> {
    /// As [`FrameAllocator::allocate`].
    ///
    /// # Errors
    ///
    /// [`AllocError::Exhausted`].
    #[inline(always)]
    pub fn allocate(&self, order: Order, owner: Owner) -> Result<Block<'a>, AllocError> {
        let frame = match self.pop(order) {
            Some(frame) => frame,
            None => self.allocator.allocate_slow(self.pin, self.slot, order)?,
        };
        Ok(self.handed_out(frame, order, owner))
    }

    /// A block that this CPU keeps, if it keeps one of that order. All counts of free frames stay as they are: none has it.
    #[inline(always)]
    pub fn allocate_kept(&self, order: Order, owner: Owner) -> Option<Block<'a>> {
        let frame = self.pop(order)?;
        Some(self.handed_out(frame, order, owner))
    }

    /// As [`allocate_kept`](Self::allocate_kept), marked as mapped from the first.
    #[inline(always)]
    pub fn allocate_kept_mapped(&self, order: Order, owner: Owner) -> Option<MappedBlock<'a>> {
        let block = Block::new(self.allocator, self.pop(order)?, order);
        if let Some(record) = block.record() {
            record.hand_out_mapped(order, owner);
        }
        Some(MappedBlock::new(block))
    }

    #[inline(always)]
    fn pop(&self, order: Order) -> Option<FrameId> {
        if order == Order::FRAME {
            self.slot.small.pop().map(FrameId::new)
        } else if order == Order::HUGE {
            self.slot.huge.pop().map(FrameId::new)
        } else {
            None
        }
    }

    #[inline(always)]
    fn handed_out(&self, frame: FrameId, order: Order, owner: Owner) -> Block<'a> {
        let block = Block::new(self.allocator, frame, order);
        if let Some(record) = block.record() {
            record.hand_out(order, owner);
        }
        block
    }

    /// As [`Block::free`].
    ///
    /// # Errors
    ///
    /// [`FreeError`], when the record does not agree: somebody else has freed it, through a bare number.
    #[inline(always)]
    pub fn free(&self, block: Block<'_>) -> Result<(), FreeError> {
        if !block.is_of(self.allocator) {
            return block.free(self.pin);
        }
        let (record, frame, order) = block.into_parts();
        match record {
            Some(record) => self
                .allocator
                .free_on(self.pin, self.slot, record, frame, order),
            None => self.allocator.free_aside(frame, order),
        }
    }
}

impl FrameAllocator<'_> {
    /// A block of 2^order frames, aligned to its size, with unknown content.
    ///
    /// # Errors
    ///
    /// [`AllocError::Exhausted`], after this CPU's own frames were drained in vain; [`AllocError::NoSuchCpu`].
    #[inline]
    pub fn allocate(
        &self,
        pin: &PinnedCpu,
        order: Order,
        owner: Owner,
    ) -> Result<Block<'_>, AllocError> {
        self.local(pin)?.allocate(order, owner)
    }

    /// This CPU's way to the allocator.
    ///
    /// # Errors
    ///
    /// [`AllocError::NoSuchCpu`].
    #[inline]
    pub fn local<'a, 'p>(&'a self, pin: &'p PinnedCpu) -> Result<Local<'a, 'p>, AllocError> {
        match self.slot(pin) {
            Some(slot) => Ok(Local {
                allocator: self,
                slot,
                pin,
            }),
            None => Err(self.no_such_cpu(pin)),
        }
    }

    #[cold]
    fn no_such_cpu(&self, pin: &PinnedCpu) -> AllocError {
        AllocError::NoSuchCpu {
            cpu: pin.cpu(),
            cpus: self.meta.cpus.len(),
        }
    }

    #[cold]
    #[inline(never)]
    fn allocate_slow(
        &self,
        pin: &PinnedCpu,
        slot: &CpuSlot,
        order: Order,
    ) -> Result<FrameId, AllocError> {
        if let Some(frame) = self.take_any(pin, slot, order) {
            return Ok(frame);
        }
        // What this CPU keeps of the other kind may be what is missing.
        self.drain(pin);
        self.take_any(pin, slot, order)
            .ok_or_else(|| AllocError::Exhausted {
                order,
                free: self.free_frames_exact(),
                cached: self.cached_frames(),
            })
    }

    fn take_any(&self, pin: &PinnedCpu, slot: &CpuSlot, order: Order) -> Option<FrameId> {
        if order == Order::FRAME {
            self.pop_small_slow(pin, slot)
        } else if order == Order::HUGE {
            self.pop_huge_slow(pin, slot)
        } else if is_pair(order) {
            self.find_pair(pin, slot)
        } else {
            self.find_run(pin, slot, order)
        }
    }

    /// Takes back the block of `order` that begins at `pfn`.
    ///
    /// # Errors
    ///
    /// [`FreeError`]: nothing in use begins there, or not of that order, or it is mapped or shared.
    ///
    /// # Safety
    ///
    /// The block is the caller's, from [`Block::into_raw`], and nobody uses it any more. What can be seen to be wrong is
    /// refused, but a frame that somebody else has since been given looks like the caller's own.
    #[inline(always)]
    #[allow(unsafe_code)] // An unsafe fn is how a promise is asked for; its body has no unsafe operation.
    pub unsafe fn free(&self, pin: &PinnedCpu, pfn: Pfn, order: Order) -> Result<(), FreeError> {
        match self.frame(pfn) {
            Some(frame) if frame.is_aligned(order) && self.has_books(frame) => {
                self.free_id(Some(pin), frame, order)
            }
            _ => Err(self.refuse(pfn, order)),
        }
    }

    /// Takes back the mapped block that begins at `pfn`, and says of which order it was. One step from *mapped* to *free*, for who unmaps
    /// and frees many.
    ///
    /// # Errors
    ///
    /// [`FreeError`]: no mapped block begins there, or it is shared.
    ///
    /// # Safety
    ///
    /// The block is the caller's, from [`MappedBlock::into_raw`](super::MappedBlock::into_raw); no page table points to it any more, and no
    /// CPU has a translation to it.
    #[inline(always)]
    #[allow(unsafe_code)] // An unsafe fn is how a promise is asked for; its body has no unsafe operation.
    pub unsafe fn free_mapped(&self, pin: &PinnedCpu, pfn: Pfn) -> Result<Order, FreeError> {
        let frame = self.frame(pfn).filter(|frame| self.has_books(*frame));
        let record = frame.and_then(|frame| self.record(frame));
        let taken = record.and_then(|record| record.take_back_mapped(pin.freed_by));
        match (frame, taken) {
            (Some(frame), Some(order)) => {
                self.keep(self.slot(pin), frame, order);
                Ok(order)
            }
            _ => Err(self.refuse_mapped(pfn)),
        }
    }

    /// Takes a block back, on this CPU's account.
    #[inline(always)]
    pub(super) fn free_id(
        &self,
        pin: Option<&PinnedCpu>,
        frame: FrameId,
        order: Order,
    ) -> Result<(), FreeError> {
        match pin.and_then(|pin| Some((pin, self.slot(pin)?, self.record(frame)?))) {
            Some((pin, slot, record)) => self.free_on(pin, slot, record, frame, order),
            None => self.free_aside(frame, order),
        }
    }

    #[inline(always)]
    pub(super) fn free_on(
        &self,
        pin: &PinnedCpu,
        slot: &CpuSlot,
        record: &Record,
        frame: FrameId,
        order: Order,
    ) -> Result<(), FreeError> {
        if !record.take_back(order, pin.freed_by) {
            return Err(self.refuse(self.pfn(frame), order));
        }
        self.keep(Some(slot), frame, order);
        Ok(())
    }

    /// Puts a block whose record says that it is free where it is taken from next.
    #[inline(always)]
    pub(super) fn keep(&self, slot: Option<&CpuSlot>, frame: FrameId, order: Order) {
        match slot {
            Some(slot) if order == Order::FRAME => {
                if !slot.small.push(frame.get()) {
                    self.push_small_slow(slot, frame);
                }
            }
            Some(slot) if order == Order::HUGE => {
                if !slot.huge.push(frame.get()) {
                    self.push_huge_slow(slot, frame);
                }
            }
            _ => self.give_block_slow(slot, frame, order),
        }
    }

    /// Takes a block back, on no CPU's account.
    #[inline(never)]
    pub(super) fn free_aside(&self, frame: FrameId, order: Order) -> Result<(), FreeError> {
        let record = self.record(frame);
        if !record.is_some_and(|record| record.take_back(order, FreedBy::NOBODY)) {
            return Err(self.refuse(self.pfn(frame), order));
        }
        self.give_block(None, frame, order);
        Ok(())
    }

    #[inline(never)]
    fn give_block_slow(&self, slot: Option<&CpuSlot>, frame: FrameId, order: Order) {
        self.give_block(slot, frame, order);
    }

    /// Why a block cannot be freed, from what is known a moment later.
    #[cold]
    #[inline(never)]
    pub(super) fn refuse(&self, pfn: Pfn, order: Order) -> FreeError {
        let problem = match self.frame(pfn) {
            None => FreeProblem::Outside {
                first: self.start(),
                last: self.pfn(FrameId::new(self.meta.records.len() - 1)),
            },
            Some(frame) if !frame.is_aligned(order) => FreeProblem::Misaligned,
            Some(frame) if !self.has_books(frame) => FreeProblem::Reserved,
            Some(frame) => self.problem_of(frame, order),
        };
        FreeError {
            pfn,
            order,
            problem,
        }
    }

    /// Why a mapped block cannot be freed, from what is known a moment later.
    #[cold]
    #[inline(never)]
    fn refuse_mapped(&self, pfn: Pfn) -> FreeError {
        let history = self.history(pfn);
        let order = match history {
            Some(History::InUse { order, .. }) => order,
            _ => Order::FRAME,
        };
        match history {
            Some(
                history @ History::InUse {
                    flags,
                    references: 1,
                    ..
                },
            ) if !flags.contains(Flags::MAPPED) => FreeError {
                pfn,
                order,
                problem: FreeProblem::NotMapped(history),
            },
            _ => self.refuse(pfn, order),
        }
    }

    fn problem_of(&self, frame: FrameId, order: Order) -> FreeProblem {
        let history = self.record(frame).map(Record::history);
        if let Some(
            history @ History::InUse {
                order: its,
                flags,
                references,
                ..
            },
        ) = history
        {
            return if its != order {
                FreeProblem::WrongOrder(history)
            } else if flags.contains(Flags::MAPPED) {
                FreeProblem::Mapped(history)
            } else if references > 1 {
                FreeProblem::Shared(history)
            } else {
                // In order by now: somebody else allocated it since.
                FreeProblem::AlreadyFree(history)
            };
        }
        if let Some((head, block)) = self.block_around(frame) {
            return FreeProblem::Inside {
                head: self.pfn(head),
                block,
            };
        }
        match history {
            Some(history @ History::Freed { .. }) => FreeProblem::AlreadyFree(history),
            _ if self.is_reserved(frame) => FreeProblem::Reserved,
            _ => FreeProblem::NeverAllocated,
        }
    }

    /// The block in use that a frame lies in without being its first.
    pub(super) fn block_around(&self, frame: FrameId) -> Option<(FrameId, History)> {
        (1..=Order::MAX.get()).map(Order::new).find_map(|order| {
            let head = frame.align_down(order);
            let history = self.record(head)?.history();
            matches!(history, History::InUse { order: its, .. } if its >= order && head != frame)
                .then_some((head, history))
        })
    }

    /// Whether a frame that was never handed out is no memory of the allocator.
    fn is_reserved(&self, frame: FrameId) -> bool {
        if !self.tree(frame.tree()).is_present() {
            return true;
        }
        match self.counter(frame.huge()).fill() {
            Fill::Reserved => true,
            Fill::Free | Fill::Whole => false,
            Fill::Partial(_) | Fill::Full => {
                self.bits(frame.huge()).all_used(frame.in_huge(), 1) && !self.is_kept(frame)
            }
        }
    }

    /// Whether a CPU keeps this single frame, as far as can be seen.
    pub(super) fn is_kept(&self, frame: FrameId) -> bool {
        let kept = |slot: &CpuSlot| slot.small.holds(frame.get());
        self.meta.cpus.iter().any(kept)
    }
}
