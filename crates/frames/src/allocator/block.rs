//! What is owned, as values: holding one says what may be done with the frames, and dropping it frees them.
//!
//! ```text
//!   allocate --> Block --map()--> MappedBlock     page tables point to it: cannot be freed, nor dropped without a trace
//!                  |  <--unmapped()---'
//!                  |
//!                  '--share()--> SharedBlock      several hold it: the last one to be dropped frees it
//! ```
//!
//! The same is in the block's record, so that frames that went through page tables as bare numbers keep it.

use core::fmt;
use core::mem::{ManuallyDrop, forget};

use kspace_layout::{FRAME_SIZE, Pfn, PhysRange};

use super::FrameAllocator;
use super::cache::PinnedCpu;
use super::error::{FreeError, FreeProblem};
use super::index::{FrameId, Order};
use super::record::{Flags, History, Record};

/// A block of 2^order frames that this value owns alone, with no page table pointing to it.
#[must_use = "a block that is dropped is free again"]
pub struct Block<'a> {
    allocator: &'a FrameAllocator<'a>,
    /// Its first frame's record, so that freeing it need not look it up.
    record: Option<&'a Record>,
    frame: FrameId,
    order: Order,
}

impl<'a> Block<'a> {
    #[inline]
    pub(super) fn new(allocator: &'a FrameAllocator<'_>, frame: FrameId, order: Order) -> Self {
        Self {
            allocator,
            record: allocator.record(frame),
            frame,
            order,
        }
    }

    /// Its record.
    #[inline]
    pub(super) fn record(&self) -> Option<&'a Record> {
        self.record
    }

    /// Its first frame.
    #[inline]
    #[must_use]
    pub fn pfn(&self) -> Pfn {
        self.allocator.pfn(self.frame)
    }

    /// Its order.
    #[inline]
    #[must_use]
    pub fn order(&self) -> Order {
        self.order
    }

    /// Its addresses.
    #[must_use]
    pub fn range(&self) -> PhysRange {
        PhysRange::new(self.pfn().start(), self.order.frames() as u64 * FRAME_SIZE)
    }

    /// Whether it is of this allocator.
    #[inline]
    pub(super) fn is_of(&self, allocator: &FrameAllocator<'_>) -> bool {
        core::ptr::eq(
            core::ptr::from_ref(self.allocator).cast::<()>(),
            core::ptr::from_ref(allocator).cast(),
        )
    }

    /// What it is, without the value that frees it.
    #[inline]
    pub(super) fn into_parts(self) -> (Option<&'a Record>, FrameId, Order) {
        let block = ManuallyDrop::new(self);
        (block.record, block.frame, block.order)
    }

    /// Frees it by way of this CPU's own stack. Dropping it does so without: a few locked instructions more.
    ///
    /// # Errors
    ///
    /// [`FreeError`], when the record does not agree: somebody else has freed it, through a bare number.
    #[inline(always)]
    pub fn free(self, pin: &PinnedCpu) -> Result<(), FreeError> {
        let block = ManuallyDrop::new(self);
        let (allocator, frame, order) = (block.allocator, block.frame, block.order);
        match (allocator.slot(pin), block.record) {
            (Some(slot), Some(record)) => allocator.free_on(pin, slot, record, frame, order),
            _ => allocator.free_aside(frame, order),
        }
    }

    /// Gives up the value but not the frames: for page tables, which know only numbers.
    #[must_use = "the frames leak unless they are taken up again"]
    pub fn into_raw(self) -> (Pfn, Order) {
        let raw = (self.pfn(), self.order);
        forget(self);
        raw
    }

    /// Takes up again what [`into_raw`](Self::into_raw) gave up.
    ///
    /// # Errors
    ///
    /// [`FreeError`], when the record says that no such block is in use, or that it is mapped or shared.
    ///
    /// # Safety
    ///
    /// The frames come from `into_raw` of a block of this allocator and this order, and nothing else owns them.
    #[allow(unsafe_code)] // An unsafe fn is how a promise is asked for; its body has no unsafe operation.
    pub unsafe fn from_raw(
        allocator: &'a FrameAllocator<'_>,
        pfn: Pfn,
        order: Order,
    ) -> Result<Self, FreeError> {
        let frame = allocator.expect(pfn, order, Flags::NONE)?;
        Ok(Self::new(allocator, frame, order))
    }

    /// Cuts it into blocks of a smaller order, which are freed one by one.
    ///
    /// # Errors
    ///
    /// The block itself, unchanged, when `order` is not smaller.
    pub fn split(self, order: Order, mut sink: impl FnMut(Block<'a>)) -> Result<(), Self> {
        if order >= self.order {
            return Err(self);
        }
        let whole = ManuallyDrop::new(self);
        let allocator = whole.allocator;
        allocator.split(whole.frame, whole.order, order);
        for index in 0..whole.order.frames() / order.frames() {
            let frame = whole.frame.plus(index * order.frames());
            sink(Block::new(allocator, frame, order));
        }
        Ok(())
    }

    /// Marks it as mapped: from now on it can be freed neither by value nor by number.
    ///
    /// # Errors
    ///
    /// [`FreeError`], when the record does not agree.
    pub fn map(self) -> Result<MappedBlock<'a>, FreeError> {
        let block = ManuallyDrop::new(self);
        block
            .allocator
            .mark(block.frame, block.order, Flags::MAPPED, Flags::NONE)?;
        Ok(MappedBlock { block })
    }

    /// As [`map`](Self::map), for a block that was allocated just now, whose number nobody else has: without a locked instruction, and
    /// without a look at what the record says.
    #[inline]
    pub fn map_new(self) -> MappedBlock<'a> {
        let block = ManuallyDrop::new(self);
        if let Some(record) = block.record {
            record.map_new();
        }
        MappedBlock { block }
    }

    /// Makes it one that can have several holders.
    #[must_use = "a block that is dropped is free again"]
    pub fn share(self) -> SharedBlock<'a> {
        SharedBlock {
            block: ManuallyDrop::new(self),
        }
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        if self
            .allocator
            .free_id(None, self.frame, self.order)
            .is_err()
        {
            self.allocator.count_refused();
        }
    }
}

/// A block that page tables point to. Dropping the value leaves the frames in use, marked as mapped.
#[must_use = "the frames stay in use until the block is unmapped and freed"]
pub struct MappedBlock<'a> {
    block: ManuallyDrop<Block<'a>>,
}

impl<'a> MappedBlock<'a> {
    /// Of a block whose record says that it is mapped.
    #[inline(always)]
    pub(super) fn new(block: Block<'a>) -> Self {
        Self {
            block: ManuallyDrop::new(block),
        }
    }

    /// Its first frame.
    #[inline]
    #[must_use]
    pub fn pfn(&self) -> Pfn {
        self.block.pfn()
    }

    /// Its order.
    #[inline]
    #[must_use]
    pub fn order(&self) -> Order {
        self.block.order()
    }

    /// Gives up the value: the page tables are all that knows the frames now.
    #[inline]
    pub fn into_raw(self) -> (Pfn, Order) {
        (self.pfn(), self.order())
    }

    /// Takes up again what [`into_raw`](Self::into_raw) gave up.
    ///
    /// # Errors
    ///
    /// [`FreeError`], when the record says that no such block is in use and mapped.
    ///
    /// # Safety
    ///
    /// The frames come from `into_raw` of a mapped block of this allocator and this order, and nothing else owns them.
    #[allow(unsafe_code)] // An unsafe fn is how a promise is asked for; its body has no unsafe operation.
    pub unsafe fn from_raw(
        allocator: &'a FrameAllocator<'_>,
        pfn: Pfn,
        order: Order,
    ) -> Result<Self, FreeError> {
        let frame = allocator.expect(pfn, order, Flags::MAPPED)?;
        Ok(Self {
            block: ManuallyDrop::new(Block::new(allocator, frame, order)),
        })
    }

    /// The block, free to be freed.
    ///
    /// # Errors
    ///
    /// [`FreeError`], when the record does not agree.
    ///
    /// # Safety
    ///
    /// No page table points to it any more, and no CPU has a translation to it: the flush is done.
    #[allow(unsafe_code)] // An unsafe fn is how a promise is asked for; its body has no unsafe operation.
    pub unsafe fn unmapped(self) -> Result<Block<'a>, FreeError> {
        let block = &self.block;
        block
            .allocator
            .mark(block.frame, block.order, Flags::NONE, Flags::MAPPED)?;
        Ok(ManuallyDrop::into_inner(self.block))
    }
}

/// A block with one or more holders.
#[must_use = "a block that is dropped is free again"]
pub struct SharedBlock<'a> {
    block: ManuallyDrop<Block<'a>>,
}

impl<'a> SharedBlock<'a> {
    /// Its first frame.
    #[must_use]
    pub fn pfn(&self) -> Pfn {
        self.block.pfn()
    }

    /// Its order.
    #[must_use]
    pub fn order(&self) -> Order {
        self.block.order()
    }

    /// One more holder; `None` when there are [`MAX_REFERENCES`](super::MAX_REFERENCES) already.
    #[must_use]
    pub fn try_clone(&self) -> Option<Self> {
        let Block {
            allocator,
            frame,
            order,
            ..
        } = *self.block;
        allocator.record(frame)?.share().ok()?;
        Some(Block::new(allocator, frame, order).share())
    }

    /// The block, if this is its only holder.
    ///
    /// # Errors
    ///
    /// The value itself, when there are others.
    pub fn try_unique(self) -> Result<Block<'a>, Self> {
        let block = &self.block;
        match block.allocator.history(block.pfn()) {
            Some(History::InUse { references: 1, .. }) => {
                let Block {
                    allocator,
                    frame,
                    order,
                    ..
                } = **block;
                forget(self);
                Ok(Block::new(allocator, frame, order))
            }
            _ => Err(self),
        }
    }
}

impl Drop for SharedBlock<'_> {
    fn drop(&mut self) {
        let Block {
            allocator,
            frame,
            order,
            ..
        } = *self.block;
        match allocator.record(frame).map(super::record::Record::unshare) {
            Some(Ok(true)) => {}
            _ => drop(Block::new(allocator, frame, order)),
        }
    }
}

macro_rules! show {
    ($($type:ident)*) => {$(
        impl fmt::Debug for $type<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({}, {})"), self.pfn().start(), self.order())
            }
        }
    )*};
}

show! { Block MappedBlock SharedBlock }

impl FrameAllocator<'_> {
    /// The number of a block in use, held once, with exactly these flags.
    fn expect(&self, pfn: Pfn, order: Order, flags: Flags) -> Result<FrameId, FreeError> {
        if let Some(frame) = self.frame(pfn)
            && let Some(History::InUse {
                order: its,
                flags: set,
                references: 1,
                ..
            }) = self.history(pfn)
            && its == order
            && set.contains(Flags::MAPPED) == flags.contains(Flags::MAPPED)
        {
            return Ok(frame);
        }
        Err(match self.history(pfn) {
            Some(
                history @ History::InUse {
                    order: its,
                    flags: set,
                    ..
                },
            ) if its == order && flags.contains(Flags::MAPPED) && !set.contains(Flags::MAPPED) => {
                FreeError {
                    pfn,
                    order,
                    problem: FreeProblem::NotMapped(history),
                }
            }
            _ => self.refuse(pfn, order),
        })
    }

    fn mark(
        &self,
        frame: FrameId,
        order: Order,
        set: Flags,
        clear: Flags,
    ) -> Result<(), FreeError> {
        let done = self
            .record(frame)
            .map(|record| record.set_flags(set, clear));
        if matches!(done, Some(Ok(()))) {
            Ok(())
        } else {
            Err(self.refuse(self.pfn(frame), order))
        }
    }

    /// Makes blocks of order `to` of one in use of order `from`.
    fn split(&self, frame: FrameId, from: Order, to: Order) {
        let owner = match self.record(frame).map(super::record::Record::history) {
            Some(History::InUse { owner, .. }) => owner,
            _ => super::Owner::KERNEL,
        };
        if from >= Order::HUGE && to < Order::HUGE {
            for index in 0..from.frames() / Order::HUGE.frames() {
                let huge = frame.plus(index * Order::HUGE.frames()).huge();
                // The frames are ours and the counter says so: nobody looks at the bits.
                self.bits(huge).set_all();
                self.tree(huge.tree())
                    .note(self.counter(huge).break_whole());
            }
        }
        for start in (0..from.frames()).step_by(to.frames()) {
            if let Some(record) = self.record(frame.plus(start)) {
                record.hand_out(to, owner);
            }
        }
    }
}
