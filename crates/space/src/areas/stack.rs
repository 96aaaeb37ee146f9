//! Kernel stacks: an unmapped page below, into which one that is too deep runs, and one above.
//!
//! ```text
//!   | guard of whatever is below, or nothing | stack: a power of two, at a multiple of itself | guard |
//!                                            bottom                              top (first push goes below)
//! ```
//!
//! Every area ends at a page that is never mapped. So the page below an area is unmapped too: it is another area's guard, free, or outside
//! the areas. That the stack above is named when it is touched is the work of [`fault`](crate::fault).

use core::fmt;

use kspace_frames::zone::NodeId;
use kspace_layout::{FRAME_SIZE, VirtAddr, VirtRange};

use super::OwnedArea;
use crate::vmalloc::{AreaError, AreaRequest, Kernel, Kind, Vmalloc};

/// A kernel stack. Dropping it frees it.
#[must_use = "a stack that is dropped is free again"]
pub struct KernelStack<'v, 'a, K: Kernel, const CPUS: usize> {
    area: OwnedArea<'v, 'a, K, CPUS>,
}

impl<'v, 'a, K: Kernel, const CPUS: usize> KernelStack<'v, 'a, K, CPUS> {
    /// The size of Linux's stacks on x86-64: `THREAD_SIZE` without KASAN (arch/x86/include/asm/page_64_types.h).
    pub const LINUX_BYTES: u64 = 16 << 10;

    /// A stack of at least so many bytes, rounded up to a power of two of pages, filled with zeros, at a multiple of its size.
    ///
    /// # Errors
    ///
    /// [`AreaError`].
    #[track_caller]
    pub fn new(areas: &'v Vmalloc<'a, K, CPUS>, bytes: u64) -> Result<Self, AreaError> {
        Self::of(areas, bytes, AreaRequest::new)
    }

    /// As [`new`](Self::new), in memory near to `node`: for a thread that will run there (Linux: `alloc_thread_stack_node`, kernel/fork.c).
    ///
    /// # Errors
    ///
    /// [`AreaError`].
    #[track_caller]
    pub fn near(
        areas: &'v Vmalloc<'a, K, CPUS>,
        bytes: u64,
        node: NodeId,
    ) -> Result<Self, AreaError> {
        Self::of(areas, bytes, |size| AreaRequest::new(size).node(node))
    }

    #[track_caller]
    fn of(
        areas: &'v Vmalloc<'a, K, CPUS>,
        bytes: u64,
        request: impl Fn(u64) -> AreaRequest,
    ) -> Result<Self, AreaError> {
        if bytes == 0 {
            return Err(AreaError::Empty);
        }
        let within = areas.area();
        let Some(size) = bytes.max(FRAME_SIZE).checked_next_power_of_two() else {
            return Err(AreaError::TooLarge { bytes, within });
        };
        let request = request(size).kind(Kind::Stack).aligned(size).zeroed();
        let area = OwnedArea::allocate(areas, &request)?;
        Ok(Self { area })
    }

    /// Its addresses.
    #[must_use]
    pub const fn range(&self) -> VirtRange {
        self.area.range()
    }

    /// The lowest address: what lies below is the guard.
    #[must_use]
    pub const fn bottom(&self) -> VirtAddr {
        self.area.start()
    }

    /// What the stack pointer starts with: the address behind the last byte, which is the guard's.
    ///
    /// # Panics
    ///
    /// Never: a guard page follows.
    #[must_use]
    pub fn top(&self) -> VirtAddr {
        let last = self.area.range().last();
        last.checked_add(1).expect("a guard page follows")
    }

    /// Frees it, in the caller's name.
    #[track_caller]
    pub fn free(self) {
        self.area.free();
    }
}

impl<K: Kernel, const CPUS: usize> fmt::Debug for KernelStack<'_, '_, K, CPUS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KernelStack({})", self.area.range())
    }
}
