//! The zones as an editor's source of page tables.

use kspace_frames::Owner;
use kspace_frames::zone::Request;
use kspace_layout::PhysAddr;
use kspace_paging::FrameSource;

use super::Memory;

const TABLE: Request = Request::order(0).zeroed().owner(Owner::PAGE_TABLE);

/// Zeroed frames for page tables.
#[derive(Clone, Copy, Debug)]
pub struct ZoneTables(&'static Memory);

impl Memory {
    /// Frames for page tables.
    #[must_use]
    pub fn tables(&'static self) -> ZoneTables {
        ZoneTables(self)
    }
}

/// The last byte that 32 bits can name.
const LAST_OF_32_BITS: PhysAddr = PhysAddr::new(u32::MAX as u64);

impl ZoneTables {
    /// A zeroed frame for a top table that is loaded into CR3 in 32-bit mode.
    #[must_use]
    pub fn allocate_below_4_gib(&self) -> Option<PhysAddr> {
        let block = self.0.allocate(&TABLE.below(LAST_OF_32_BITS)).ok()?;
        Some(block.into_raw().0.start())
    }
}

// SAFETY: the zones hand out whole frames of RAM that nobody else uses, until they are given back, and zero them.
unsafe impl FrameSource for ZoneTables {
    fn allocate(&self) -> Option<PhysAddr> {
        let block = self.0.allocate(&TABLE).ok()?;
        Some(block.into_raw().0.start())
    }

    fn release(&self, frame: PhysAddr) {
        // SAFETY: the caller's contract: it comes from `allocate`, or from boot's frames, which were handed over.
        if let Err(error) = unsafe { self.0.free_table(frame.pfn()) } {
            panic!("{error}");
        }
    }
}
