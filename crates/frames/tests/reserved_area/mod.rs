//! Host memory that stands for area vmemmap: reserved whole, of which only what a plan backs can be touched. Anything else ends the
//! test by a fault, as it would a kernel.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};

use kspace_frames::zone::{NodeId, Vmemmap, VmemmapRun, ZoneKind};
use kspace_frames::{FirmwareEntry, MemoryMap, Metadata};

// mmap(2) and mprotect(2) of Linux on x86-64, which std links but does not offer.
unsafe extern "C" {
    fn mmap(
        at: *mut c_void,
        size: usize,
        rights: i32,
        flags: i32,
        file: i32,
        offset: i64,
    ) -> *mut c_void;
    fn mprotect(at: *mut c_void, size: usize, rights: i32) -> i32;
    fn munmap(at: *mut c_void, size: usize) -> i32;
}

const NO_RIGHTS: i32 = 0;
const READ_WRITE: i32 = 3;
/// `MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE`.
const RESERVE: i32 = 0x2 | 0x20 | 0x4000;

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

pub struct ReservedArea {
    start: NonNull<u8>,
    size: usize,
}

impl ReservedArea {
    pub fn new(bytes: u64) -> Self {
        let size = usize::try_from(bytes).expect("a 64-bit host");
        // SAFETY: new addresses, of nobody's.
        let start = unsafe { mmap(null_mut(), size, NO_RIGHTS, RESERVE, -1, 0) };
        assert_ne!(
            start as isize, -1,
            "the host has no {size} bytes of addresses"
        );
        Self {
            start: NonNull::new(start.cast()).expect("not page zero"),
            size,
        }
    }

    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Lets a part be touched; it is all zero.
    pub fn back(&self, run: VmemmapRun) {
        let (offset, size) = (run.offset() as usize, run.size() as usize);
        assert!(offset + size <= self.size, "{run} is not in the area");
        // SAFETY: in the area, which is ours.
        let done = unsafe { mprotect(self.start.add(offset).as_ptr().cast(), size, READ_WRITE) };
        assert_eq!(done, 0, "the host refuses {run}");
    }

    /// A zone's books. For one allocator.
    pub fn metadata(&self, vmemmap: &Vmemmap, node: NodeId, kind: ZoneKind) -> Metadata<'_> {
        // SAFETY: reserved as long as `self`; zero where it is backed; what is not is never mapped to anything else.
        unsafe { vmemmap.metadata(self.start, node, kind) }.expect("such a zone")
    }
}

impl Drop for ReservedArea {
    fn drop(&mut self) {
        // SAFETY: ours, and what borrows it is gone.
        unsafe { munmap(self.start.as_ptr().cast(), self.size) };
    }
}

/// A map of RAM from and up to these addresses.
pub fn map_of(ram: &[(u64, u64)]) -> MemoryMap {
    let entries = ram.iter().map(|(start, end)| FirmwareEntry {
        start: *start,
        size: end - start,
        kind: 1,
    });
    MemoryMap::from_firmware(entries, 52, |_| ()).expect("a usable map")
}
