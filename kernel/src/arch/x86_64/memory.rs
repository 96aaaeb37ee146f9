//! Physical memory as the kernel reaches it: at one fixed distance from its addresses.
//!
//! Before the kernel's own tables stand, the early tables map the first 4 GiB to themselves: the distance is zero. Afterwards
//! it is the base of the direct map, and every byte of RAM is in reach. A [`Window`] is one of the two.

use core::arch::asm;
use core::ptr::NonNull;

use kspace::kmap::{FrameWindow, Kmap};
use kspace_layout::{FRAME_SIZE, Layout, PhysAddr, PhysRange};
use kspace_paging::{PhysMemory, RawEntry};

use super::shootdown::Machine;
use crate::acpi::Reach;
use crate::start_info::PhysBytes;

/// What the early tables map to itself: 4 GiB.
pub const IDENTITY_END: u64 = 1 << 32;

/// A part of physical memory, from address zero on, that is mapped at a fixed distance.
///
/// # Invariants
///
/// Physical bytes `0..end`, where they are RAM, are mapped writable at `base`, or will be before they are used.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    base: u64,
    end: u64,
}

impl Window {
    /// The first 4 GiB, mapped to themselves.
    ///
    /// # Safety
    ///
    /// The early tables must be in use for as long as the window is.
    pub const unsafe fn identity() -> Self {
        Self {
            base: 0,
            end: IDENTITY_END,
        }
    }

    /// RAM through the direct map of `layout`; `None` for a layout without one.
    ///
    /// # Safety
    ///
    /// The direct map must be built and its tables in use for as long as the window is.
    pub unsafe fn direct_map(layout: &Layout) -> Option<Self> {
        let base = layout.phys_to_virt(PhysAddr::ZERO).ok()?.as_u64();
        Some(Self {
            base,
            end: layout.direct_mapped()?.end_u64(),
        })
    }

    /// Frames through this window, as code reaches them that is the same where not all RAM is mapped.
    pub const fn kmap(&self) -> Kmap<Machine, Self> {
        Kmap::new(Machine, *self)
    }

    /// The physical address behind a pointer into the window; `None` for any other.
    pub fn phys_of(&self, pointer: *const u8) -> Option<PhysAddr> {
        let distance = (pointer as u64).checked_sub(self.base)?;
        PhysAddr::try_new(distance)
            .ok()
            .filter(|_| distance < self.end)
    }

    /// Where `size` bytes from `phys` on can be reached; `None` when they do not lie in the window.
    pub fn pointer(&self, phys: PhysAddr, size: u64) -> Option<*mut u8> {
        let end = phys.as_u64().checked_add(size)?;
        (end <= self.end).then(|| (self.base + phys.as_u64()) as *mut u8)
    }
}

// SAFETY: one address always gives the same pointer, different frames different ones (a fixed distance), and what is stored there
// is what the CPU's walk reads: x86 is coherent and the mappings are write-back.
unsafe impl PhysMemory for Window {
    #[inline]
    fn entries<E: RawEntry>(&self, table: PhysAddr, count: usize) -> Option<&[E::Atomic]> {
        let pointer = self.pointer(table, (count * size_of::<E::Atomic>()) as u64)?;
        // SAFETY: the type's invariant: mapped. Table entries are only ever used as atomics of this width.
        Some(unsafe { core::slice::from_raw_parts(pointer.cast::<E::Atomic>(), count) })
    }
}

// SAFETY: the type's invariant, for as long as the window is used.
unsafe impl FrameWindow for Window {
    type Opened = ();

    const LONGEST: u64 = !(FRAME_SIZE - 1);

    #[inline]
    fn open(&self, range: PhysRange) -> Option<(NonNull<u8>, ())> {
        let pointer = self.pointer(range.start(), range.size())?;
        Some((NonNull::new(pointer)?, ()))
    }

    #[inline(always)]
    unsafe fn clear(start: NonNull<u8>, bytes: usize) {
        if !bytes.is_multiple_of(size_of::<u64>()) {
            // SAFETY: the caller's contract.
            return unsafe { start.write_bytes(0, bytes) };
        }
        // In line: a call, and its care for odd bytes, cost as much as an allocation does.
        // SAFETY: the caller's contract; whole words, upwards, as the direction flag says in all code.
        unsafe {
            asm!(
                "rep stosq",
                inout("rcx") bytes / size_of::<u64>() => _,
                inout("rdi") start.as_ptr() => _,
                in("rax") 0_u64,
                options(nostack, preserves_flags)
            );
        }
    }
}

impl PhysBytes for Window {
    fn read(&self, at: PhysAddr, buffer: &mut [u8]) -> bool {
        let Some(pointer) = self.pointer(at, buffer.len() as u64) else {
            return false;
        };
        for (index, byte) in buffer.iter_mut().enumerate() {
            // SAFETY: inside the window. Volatile, because a loader and not Rust wrote it; a place without memory reads as
            // something, and the reader checks what it gets.
            *byte = unsafe { pointer.add(index).read_volatile() };
        }
        true
    }
}

impl Reach for Window {
    fn reach(&self, phys: PhysAddr, size: u64) -> Option<NonNull<u8>> {
        // The null page is no place for a table, and a null pointer no pointer.
        NonNull::new(self.pointer(phys, size)?)
    }
}
