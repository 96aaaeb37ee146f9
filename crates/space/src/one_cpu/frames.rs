//! All RAM as one source of frames, for a machine without nodes and zones.
//!
//! ```text
//!   EarlyFrames  --- what boot left, once --->  FrameAllocator
//!                                                 its books: 4.13 bytes for each frame up to the end of RAM, holes too
//! ```

use core::ptr::NonNull;

use kspace_frames::{
    AddError, EarlyFrames, FrameAllocator, FreeProblem, MemoryMap, Metadata, MetadataSize, Order,
    Owner, PinnedCpu,
};
use kspace_layout::{FRAME_SIZE, PHYS_ADDR_BITS, Pfn, PhysAddr, PhysRange};
use kspace_paging::{FrameSource, LinearMemory, PhysMemory, RawEntry};

use super::{Error, OneCpu, OneCpuOff};
use crate::platform::Interrupts;
use crate::vmalloc::{AreaFrames, Pinned, Want};

/// 8-byte words in a frame.
const WORDS: usize = 512;

/// All frames of RAM, and the one CPU that takes them.
#[derive(Debug)]
pub struct AllFrames {
    frames: FrameAllocator<'static>,
    memory: LinearMemory,
    platform: OneCpu,
}

impl AllFrames {
    /// Takes over what `early` has left, and all RAM of `map` besides that `memory` reaches and `early` did not.
    ///
    /// # Errors
    ///
    /// [`Error`], when there is no room for the books, or `early` has been handed over before.
    ///
    /// # Safety
    ///
    /// `map` is true and has everything in use reserved, `early` was made of it, and `memory` is mapped for good.
    pub unsafe fn take_over(
        map: &MemoryMap,
        early: &EarlyFrames,
        memory: LinearMemory,
        platform: OneCpu,
    ) -> Result<Self, Error> {
        take_in_all(map, early, &memory)?;
        let spanned = map.max_pfn() as usize;
        let size = MetadataSize::new(Pfn::new(0), spanned, 1);
        let books = zeroed_room(early, &memory, size.bytes() as u64)?;
        // SAFETY: fresh frames of zeros, aligned as every frame is, mapped for good and nobody else's.
        let books = unsafe { Metadata::from_zeroed(books, size) };
        let frames = FrameAllocator::new(Pfn::new(0), spanned, books)?;
        let mut added: Result<(), AddError> = Ok(());
        early.hand_over(|range| {
            let count = (range.size() / FRAME_SIZE) as usize;
            added = added.and(frames.add(range.start().pfn(), count));
        });
        added?;
        Ok(Self {
            frames,
            memory,
            platform,
        })
    }

    /// The allocator, which counts.
    #[must_use]
    pub const fn allocator(&self) -> &FrameAllocator<'static> {
        &self.frames
    }

    /// A block whose value is given up, and its frames zeroed if they are to be.
    fn take_block(&self, pin: &PinnedCpu, order: Order, want: Want) -> Option<Pfn> {
        let block = self.frames.allocate(pin, order, want.owner).ok()?;
        let zeroed = !want.zeroed || zero(&self.memory, block.pfn(), order.frames() as u64);
        // A block that cannot be reached goes back as it is dropped.
        zeroed.then(|| block.map_new().into_raw().0)
    }
}

/// All physical addresses.
const EVERYWHERE: PhysRange = PhysRange::new(PhysAddr::ZERO, 1 << PHYS_ADDR_BITS);

/// Adds the RAM of `map` to `early` that is not in it yet.
pub(super) fn take_in_all(
    map: &MemoryMap,
    early: &EarlyFrames,
    memory: &LinearMemory,
) -> Result<(), Error> {
    let (last_ram, reached) = (map.ram_last(), memory.phys());
    if !reached.contains(last_ram) {
        return Err(Error::OutOfReach { last_ram, reached });
    }
    Ok(early.widen(map, EVERYWHERE)?)
}

/// `bytes` bytes of zeros in frames that `early` gives for good.
pub(super) fn zeroed_room(
    early: &EarlyFrames,
    memory: &LinearMemory,
    bytes: u64,
) -> Result<NonNull<u8>, Error> {
    let frames = bytes.div_ceil(FRAME_SIZE);
    let first = early.allocate_run(frames, 1);
    let first = first.filter(|first| zero(memory, *first, frames));
    first
        .and_then(|first| NonNull::new(memory.pointer(first.start(), bytes)?))
        .ok_or(Error::NoRoom { frames })
}

/// Fills frames with zeros; `false` when `memory` does not reach them.
fn zero(memory: &LinearMemory, first: Pfn, frames: u64) -> bool {
    (first.as_u64()..).take(frames as usize).all(|frame| {
        let frame = Pfn::try_new(frame).map(Pfn::start).ok();
        let words = frame.and_then(|frame| memory.entries::<u64>(frame, WORDS));
        words.is_some_and(|words| {
            words
                .iter()
                .for_each(|word| <u64 as RawEntry>::store(word, 0));
            true
        })
    })
}

// SAFETY: the allocator hands out whole frames of RAM that nobody else has until they are given back; they are zeroed here.
unsafe impl FrameSource for AllFrames {
    fn allocate(&self) -> Option<PhysAddr> {
        let off = self.platform.interrupts_off();
        let block = self
            .frames
            .allocate(off.pin(), Order::FRAME, Owner::PAGE_TABLE)
            .ok()?;
        let zeroed = zero(&self.memory, block.pfn(), 1);
        zeroed.then(|| block.into_raw().0.start())
    }

    fn release(&self, frame: PhysAddr) {
        let off = self.platform.interrupts_off();
        // SAFETY: the caller's contract: it came from `allocate`, or is a table that boot made.
        let freed = unsafe { self.frames.free(off.pin(), frame.pfn(), Order::FRAME) };
        match freed {
            // Boot's tables were taken before there was an allocator: from now on the frame is its.
            Err(error) if error.problem() == FreeProblem::Reserved => {
                if let Err(error) = self.frames.add(frame.pfn(), 1) {
                    panic!("{error}");
                }
            }
            Err(error) => panic!("{error}"),
            Ok(()) => {}
        }
    }
}

// SAFETY: as above; blocks are as large as asked for, and aligned to that. There is nobody to wait for.
unsafe impl AreaFrames for AllFrames {
    type Guard = OneCpuOff;

    fn total(&self) -> u64 {
        self.frames.managed_frames() as u64
    }

    fn take(&self, off: &OneCpuOff, order: Order, want: Want) -> Option<Pfn> {
        self.take_block(off.pin(), order, want)
    }

    unsafe fn give(&self, off: &OneCpuOff, first: Pfn) -> Option<Order> {
        // SAFETY: the caller's contract: it came from `take`, which gave up the value, and nothing leads to it any more.
        unsafe { self.frames.free_mapped(off.pin(), first) }.ok()
    }
}
