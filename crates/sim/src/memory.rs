//! Simulated physical memory: as large as x86 allows, of which only the frames in use take space.
//!
//! Two kinds: *sparse* frames, one by one anywhere in 2^52 bytes; and an *arena*, one contiguous piece, whose frames are found
//! by an addition. A memory can have both.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};

use kspace_layout::{FRAME_SIZE, Pfn, PhysAddr, PhysRange};
use kspace_paging::{PhysMemory, RawEntry};

/// Alignment of the arena on the host, so that host offsets and simulated ones are alike.
const ARENA_ALIGN: usize = 2 << 20;

/// One frame's content.
#[repr(C, align(4096))]
struct Frame([AtomicU64; 512]);

/// Simulated physical memory. Reading a frame that was never added is a miss, as in a dump.
#[derive(Default)]
pub struct SimMemory {
    arena: Option<Arena>,
    /// Frames are only ever added, and boxed: so a reference to one outlives the lock.
    sparse: RwLock<HashMap<Pfn, Box<Frame>>>,
}

struct Arena {
    range: PhysRange,
    host: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the pointer is to memory that the arena owns alone, and that is only used as atomics.
unsafe impl Send for Arena {}
// SAFETY: as above; atomics may be shared.
unsafe impl Sync for Arena {}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: `host` came from `alloc_zeroed` with this layout, and references into it cannot outlive the memory.
        unsafe { dealloc(self.host.as_ptr(), self.layout) };
    }
}

impl SimMemory {
    /// Memory without frames; [`add`](Self::add) them one by one.
    #[must_use]
    pub fn sparse() -> Self {
        Self::default()
    }

    /// Memory with one contiguous piece of zeros at `range`. The host provides each page on first use.
    ///
    /// # Panics
    ///
    /// When `range` is not made of whole frames.
    #[must_use]
    pub fn arena(range: PhysRange) -> Self {
        assert!(
            range.is_aligned(FRAME_SIZE),
            "the arena {range} is not made of whole frames"
        );
        let size = usize::try_from(range.size()).expect("the arena is too large for the host");
        let layout = Layout::from_size_align(size, ARENA_ALIGN).expect("the arena is too large");
        // SAFETY: a `PhysRange` is never empty, so the layout has a size.
        let host = unsafe { alloc_zeroed(layout) };
        let Some(host) = NonNull::new(host) else {
            handle_alloc_error(layout)
        };
        Self {
            arena: Some(Arena {
                range,
                host,
                layout,
            }),
            sparse: RwLock::default(),
        }
    }

    /// Where the arena lies on the host: for peers that want "physical memory at an offset".
    #[must_use]
    pub fn arena_host(&self) -> Option<NonNull<u8>> {
        self.arena.as_ref().map(|arena| arena.host)
    }

    /// Adds a sparse frame of zeros, unless it exists already.
    ///
    /// # Panics
    ///
    /// Only when another thread panicked inside this memory.
    pub fn add(&self, frame: Pfn) {
        if self.frame(frame).is_none() {
            let zeros = Box::new(Frame([const { AtomicU64::new(0) }; 512]));
            self.sparse
                .write()
                .expect("lock")
                .entry(frame)
                .or_insert(zeros);
        }
    }

    /// Fills a frame with zeros.
    ///
    /// # Panics
    ///
    /// When the frame does not exist.
    pub fn clear(&self, frame: Pfn) {
        for word in self.words(frame) {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// A frame's content, as 64-bit words.
    ///
    /// # Panics
    ///
    /// When the frame does not exist.
    #[must_use]
    pub fn words(&self, frame: Pfn) -> &[AtomicU64] {
        let start = self
            .frame(frame)
            .unwrap_or_else(|| panic!("there is no frame {frame}"));
        // SAFETY: `frame` returns 4 KiB, aligned, alive as long as `self`.
        unsafe { core::slice::from_raw_parts(start.cast().as_ptr(), 512) }
    }

    /// A copy of a frame's content.
    #[must_use]
    pub fn snapshot(&self, frame: Pfn) -> Vec<u64> {
        self.words(frame)
            .iter()
            .map(|word| word.load(Ordering::Relaxed))
            .collect()
    }

    /// Where a frame's content is on the host: 4 KiB, aligned to that, alive and in place as long as `self`.
    fn frame(&self, frame: Pfn) -> Option<NonNull<u8>> {
        if let Some(arena) = &self.arena
            && arena.range.contains(frame.start())
        {
            let offset = frame.start().as_u64() - arena.range.start().as_u64();
            // SAFETY: the offset is inside the arena, which is as large as its range.
            return Some(unsafe { arena.host.add(offset as usize) });
        }
        let sparse = self.sparse.read().expect("lock");
        sparse
            .get(&frame)
            .map(|frame| NonNull::from(&frame.0).cast())
    }
}

// SAFETY: a frame's content never moves, is its own, and is only used through atomics. (Tests use each frame with one width.)
unsafe impl PhysMemory for SimMemory {
    #[inline]
    fn entries<E: RawEntry>(&self, table: PhysAddr, count: usize) -> Option<&[E::Atomic]> {
        let start = self.frame(table.pfn())?;
        let offset = (table.as_u64() % FRAME_SIZE) as usize;
        let size = size_of::<E::Atomic>();
        assert!(
            offset.is_multiple_of(size),
            "an entry at {table} is not aligned"
        );
        assert!(
            offset + count * size <= FRAME_SIZE as usize,
            "{count} entries at {table}"
        );
        // SAFETY: the entries are inside the frame and aligned, by the two checks above.
        Some(unsafe { core::slice::from_raw_parts(start.add(offset).cast().as_ptr(), count) })
    }
}
