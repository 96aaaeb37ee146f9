//! The kernel's heap: what `alloc` allocates.
//!
//! ```text
//!   up to 32 KiB   talc, in blocks of 64 KiB from the zones; a block that is empty again goes back
//!   up to 4 MiB    a block of its own
//!   above          refused: no block is larger; such memory is mapped page by page
//! ```
//!
//! talc, because it is kept (version 5.1), builds on stable Rust without `std`, takes memory in pieces that need not touch,
//! says when a piece is empty, and finds most fits by a bitmap, without a search.
//!
//! The lock is held with interrupts off, so a handler may allocate; and never while blocks are taken from the zones or given back,
//! so who waits there for other CPUs keeps nobody from answering. What fails is logged with the zones' state; then `alloc` ends
//! the kernel with a panic, or tells a caller that asked to be told.

mod blocks;

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};

use kspace_frames::zone::{Request, Urgency, ZoneError};
use kspace_frames::{Order, Owner};
use kspace_layout::{FRAME_SIZE, PhysAddr};
use talc::DefaultBinning;
use talc::base::Talc;

use super::{Memory, report};
use crate::arch::{self, Lock};
use crate::info;
use blocks::{Blocks, Empty};

/// The order of the blocks that small pieces are cut from: 64 KiB.
const BLOCK: Order = Order::new(4);

const BLOCK_BYTES: usize = BLOCK.frames() * FRAME_SIZE as usize;

/// The largest small piece. Half a block, so that a block is never asked for in vain.
const LARGEST_SMALL: usize = BLOCK_BYTES / 2;

#[global_allocator]
static HEAP: Heap = Heap(Lock::new(Talc::new(Blocks::NONE)));

struct Heap(Lock<Talc<Blocks, DefaultBinning>>);

impl Heap {
    /// Runs `use_it` with the lock held, and gives blocks that became empty back afterwards.
    fn with<R>(&self, use_it: impl FnOnce(&mut Talc<Blocks, DefaultBinning>) -> R) -> R {
        let (result, empty) = arch::without_interrupts(|| {
            let mut talc = self.0.lock();
            let result = use_it(&mut talc);
            (result, talc.source.take_empty())
        });
        empty.for_each(give_back);
        result
    }

    fn allocate_small(&self, layout: Layout) -> *mut u8 {
        // SAFETY: `GlobalAlloc` is never asked for no bytes.
        let found = self.with(|talc| unsafe { talc.try_allocate(layout) });
        let found = found.or_else(|| self.allocate_with(take(BLOCK, layout)?, layout));
        found.map_or(null_mut(), NonNull::as_ptr)
    }

    /// A small piece, cut from a new block if it is still needed.
    fn allocate_with(&self, block: NonNull<u8>, layout: Layout) -> Option<NonNull<u8>> {
        let mut is_needed = false;
        let found = self.with(|talc| {
            // Another CPU may have brought a block meanwhile, and an unused one would never become empty again.
            // SAFETY: `GlobalAlloc` is never asked for no bytes.
            unsafe { talc.try_allocate(layout) }.or_else(|| {
                is_needed = true;
                talc.source.count();
                // SAFETY: the block is RAM in the direct map, this heap's until it is given back; and as above.
                unsafe {
                    talc.claim(block.as_ptr(), BLOCK_BYTES);
                    talc.try_allocate(layout)
                }
            })
        });
        if !is_needed {
            give_back(Empty {
                start: block,
                order: BLOCK,
            });
        }
        found
    }
}

/// The order of the block that a large piece is; `None` for a small piece.
fn large(layout: Layout) -> Option<Result<Order, ()>> {
    if layout.size() <= LARGEST_SMALL && layout.align() <= FRAME_SIZE as usize {
        return None;
    }
    let bytes = layout.size().max(layout.align());
    let frames = bytes.div_ceil(FRAME_SIZE as usize).next_power_of_two();
    Some(Order::try_new(frames.ilog2()).map_err(|_| ()))
}

// SAFETY: every piece is a part of a block, or a block, that is given to nobody else until it is given back; it is as large and as
// aligned as asked (blocks are aligned to their size); and `layout` alone decides which of the two a piece is.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match large(layout) {
            None => self.allocate_small(layout),
            Some(Ok(order)) => take(order, layout).map_or(null_mut(), NonNull::as_ptr),
            Some(Err(())) => {
                info!(
                    "heap: {} bytes: no block is larger than {}; nothing was allocated",
                    layout.size(),
                    Order::MAX
                );
                null_mut()
            }
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match (large(layout), NonNull::new(pointer)) {
            // SAFETY: the caller's contract: the piece is of this layout, from this heap.
            (None, _) => self.with(|talc| unsafe { talc.deallocate(pointer, layout) }),
            (Some(Ok(order)), Some(start)) => give_back(Empty { start, order }),
            // Never handed out.
            (Some(_), _) => {}
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's contract: with this alignment the size is that of a layout.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        let stays = match (large(layout), large(new)) {
            (None, None) => self.with(|talc| {
                // SAFETY: the caller's contract: the piece is of this layout, from this heap.
                unsafe { talc.try_realloc_in_place(pointer, layout, new_size) }
            }),
            (Some(old), Some(new)) => old == new,
            _ => false,
        };
        if stays {
            return pointer;
        }
        // SAFETY: the caller's contract; the new piece is another one, and both have the bytes that are copied.
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(pointer, layout.size().min(new_size));
                self.dealloc(pointer, layout);
            }
            moved
        }
    }
}

/// A block from the zones, as memory. Logs why there is none.
fn take(order: Order, layout: Layout) -> Option<NonNull<u8>> {
    let memory = super::get()?;
    let urgency = if arch::is_atomic() {
        Urgency::Atomic
    } else {
        Urgency::Usual
    };
    let request = Request::order(order.get().into())
        .owner(Owner::HEAP)
        .urgency(urgency);
    match memory.allocate(&request) {
        Ok(block) => {
            let (first, order) = block.into_raw();
            let bytes = order.frames() as u64 * FRAME_SIZE;
            NonNull::new(memory.window.pointer(first.start(), bytes)?)
        }
        Err(error) => {
            explain(memory, layout, &error);
            None
        }
    }
}

#[cold]
fn explain(memory: &Memory, layout: Layout, error: &ZoneError) {
    info!("heap: {} bytes: {error}", layout.size());
    report::print_zones(memory);
}

/// Gives a block back that [`take`] gave.
fn give_back(empty: Empty) {
    let Some(memory) = super::get() else { return };
    let phys = memory.window.phys_of(empty.start.as_ptr());
    // SAFETY: the block comes from `take`, and nothing in it is in use any more.
    let freed = phys.map(|phys: PhysAddr| unsafe { memory.free_raw(phys.pfn(), empty.order) });
    match freed {
        Some(Ok(())) => {}
        Some(Err(error)) => panic!("heap: {error}"),
        None => panic!("heap: {:p} is in no block of it", empty.start),
    }
}

/// How many frames the heap has for small pieces, whether they are in use or not.
pub(super) fn block_frames() -> u64 {
    let blocks = HEAP.with(|talc| talc.source.claimed());
    blocks * BLOCK.frames() as u64
}
