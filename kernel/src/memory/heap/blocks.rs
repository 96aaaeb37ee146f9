//! The blocks under the heap's small pieces, as talc sees them.
//!
//! ```text
//!   block   |base|  pieces, gaps                    |      talc keeps a tag in the first unit
//!           |base|next| empty .......................|      an empty block waits in a list that lies in the blocks themselves
//! ```

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use kspace_frames::Order;
use talc::base::binning::Binning;
use talc::base::{CHUNK_UNIT, Talc};
use talc::source::Source;

use super::{BLOCK, BLOCK_BYTES};

/// A block that is no longer used.
pub(super) struct Empty {
    pub(super) start: NonNull<u8>,
    pub(super) order: Order,
}

/// The blocks that talc has, as a number, and those that it has just given up.
#[derive(Debug)]
pub(super) struct Blocks {
    claimed: u64,
    empty: *mut Link,
}

/// Stands at the second unit of an empty block.
struct Link {
    next: *mut Link,
}

// SAFETY: the list is reached only through the value, and its blocks are nobody else's.
unsafe impl Send for Blocks {}

impl Blocks {
    pub(super) const NONE: Self = Self {
        claimed: 0,
        empty: ptr::null_mut(),
    };

    /// How many blocks talc has.
    pub(super) fn claimed(&self) -> u64 {
        self.claimed
    }

    /// Takes note that talc was given one more.
    pub(super) fn count(&mut self) {
        self.claimed += 1;
    }

    /// The blocks that were given up since the last call.
    pub(super) fn take_empty(&mut self) -> impl Iterator<Item = Empty> + use<> {
        let mut next = core::mem::replace(&mut self.empty, ptr::null_mut());
        core::iter::from_fn(move || {
            let link = NonNull::new(next)?;
            // SAFETY: `resize` wrote it into a block that is nobody's.
            next = unsafe { link.read().next };
            // SAFETY: a unit behind the start of its block.
            let start = unsafe { link.cast::<u8>().sub(CHUNK_UNIT) };
            Some(Empty {
                start,
                order: BLOCK,
            })
        })
    }
}

// SAFETY: nothing here allocates, and a block is given up only when talc has nothing in it.
unsafe impl Source for Blocks {
    /// Blocks come while the lock is not held, so never here.
    fn acquire<B: Binning>(_: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        Err(())
    }

    const TRACK_HEAP_END: bool = true;

    unsafe fn resize(&mut self, chunk: *mut u8, end: *mut u8, is_whole: bool) -> *mut u8 {
        if !is_whole {
            return end;
        }
        let start = chunk.map_addr(|address| (address - 1) & !(BLOCK_BYTES - 1));
        // SAFETY: the block is empty and has room for the link, which is aligned, as `start` is.
        unsafe {
            let link = start.add(CHUNK_UNIT).cast::<Link>();
            link.write(Link { next: self.empty });
            self.empty = link;
        }
        self.claimed -= 1;
        chunk
    }
}
