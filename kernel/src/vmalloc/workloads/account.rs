//! What must be the same before a workload and after it: frames, page tables, addresses.

use kspace::vmalloc::{AreaRequest, Totals};
use kspace_frames::Owner;

use crate::info;
use crate::memory::Memory;
use crate::vmalloc::Areas;

/// Bytes of an area that is no small one any more.
const LARGE: u64 = 2 << 20;

/// All that could be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    free_frames: u64,
    /// Frames of page tables and books.
    tables: u64,
    /// Frames of areas.
    area_frames: u64,
    /// Bytes of the longest free piece of addresses.
    addresses: u64,
    areas: u64,
    used: u64,
    lazy_pages: u64,
    chunks: u64,
    lost_blocks: u64,
}

impl Account {
    /// Makes what the areas keep once they had it: the first frame of the books on large ones.
    pub(super) fn begin(areas: &Areas) {
        if let Ok(large) = areas.allocate(&AreaRequest::new(LARGE)) {
            // SAFETY: made just now, and never used.
            let freed = unsafe { areas.free(large.start()) };
            debug_assert!(freed.is_ok(), "it was made just now");
        }
    }

    /// Purges, and counts. Nobody else uses areas meanwhile.
    pub(super) fn take(areas: &Areas, memory: &Memory) -> Self {
        areas.purge();
        let totals = areas.totals();
        let Totals {
            used,
            largest,
            areas,
            lazy_pages,
            chunks,
            lost_blocks,
            ..
        } = totals;
        Self {
            free_frames: memory.free_frames(),
            tables: memory.blocks_of(Owner::PAGE_TABLE),
            area_frames: memory.blocks_of(Owner::VMALLOC),
            addresses: largest,
            areas,
            used,
            lazy_pages,
            chunks,
            lost_blocks,
        }
    }

    /// Whether nothing was lost; says what was.
    pub(super) fn is_same_as(&self, after: &Self) -> bool {
        if self != after {
            info!("vmalloc: lost something; before {self:?}");
            info!("vmalloc: after {after:?}");
        }
        self == after
    }
}
