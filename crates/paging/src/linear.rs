//! Physical memory that is mapped in one piece, all of it at one distance: what a boot loader maps to itself, and later a direct map.
//!
//! ```text
//!   virtual    |......[ at                        ]......|
//!                     |                           |           distance: at - phys.start
//!   physical   |..[ phys.start         phys.last  ]..........|
//! ```

use core::ptr::{self, NonNull};

use kspace_layout::{PhysAddr, PhysRange, VirtAddr};

use crate::{PhysMemory, RawEntry};

/// A range of physical memory, mapped in one piece. Page tables in it can be read and edited.
///
/// # Invariants
///
/// What is RAM in the range is mapped, writable and write-back, in the order of its addresses from `at` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearMemory {
    phys: PhysRange,
    at: VirtAddr,
}

impl LinearMemory {
    /// The memory `phys`, whose first byte is mapped at `at`: at zero, when a range from zero on is mapped to itself.
    ///
    /// # Safety
    ///
    /// The RAM in `phys` is mapped there, in one piece, writable and write-back, by the tables that the CPU uses; and stays so as long as
    /// this value or a copy of it is used.
    #[must_use]
    pub const unsafe fn new(phys: PhysRange, at: VirtAddr) -> Self {
        Self { phys, at }
    }

    /// The physical memory that it is.
    #[must_use]
    pub const fn phys(&self) -> PhysRange {
        self.phys
    }

    /// Where `bytes` bytes from `phys` on can be reached, if they lie in it. Whether they are RAM, the memory map knows.
    #[inline]
    #[must_use]
    pub fn pointer(&self, phys: PhysAddr, bytes: u64) -> Option<*mut u8> {
        let offset = phys.offset_from(self.phys.start())?;
        if offset.checked_add(bytes)? > self.phys.size() {
            return None;
        }
        let address = self.at.as_u64().wrapping_add(offset);
        Some(ptr::with_exposed_provenance_mut(
            usize::try_from(address).ok()?,
        ))
    }
}

// SAFETY: at one distance, one address always gives the same pointer and two frames never share one; what is stored there is what the CPU's
// walk reads, as the mapping is write-back and x86 coherent.
unsafe impl PhysMemory for LinearMemory {
    #[inline]
    fn entries<E: RawEntry>(&self, table: PhysAddr, count: usize) -> Option<&[E::Atomic]> {
        let bytes = count.checked_mul(size_of::<E::Atomic>())?;
        // The first frame of memory that is mapped to itself is at the null pointer, which no reference can be.
        let pointer = NonNull::new(self.pointer(table, bytes as u64)?)?;
        // SAFETY: mapped, by the type's invariant, and entries of page tables are only ever used as atomics of this width.
        Some(unsafe { NonNull::slice_from_raw_parts(pointer.cast::<E::Atomic>(), count).as_ref() })
    }
}
