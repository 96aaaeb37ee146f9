//! Mapping one run of frames after the other into an area.

use kspace_layout::{FRAME_SIZE, PageSize, Pfn, VirtAddr, VirtRange};
use kspace_paging::{
    Editor, EntryFormat, FrameSource, LeafBits, LeafTable, PhysMemory, Protection, Reason,
};

use crate::vmalloc::AreaRequest;

/// Maps runs into addresses that are the caller's. Runs that are shorter than a page table go into it without a walk from the root, as long
/// as they go to the same one.
pub(super) struct Filler<'a, F: EntryFormat, M, S> {
    tables: Editor<'a, F, M, S>,
    protection: Protection,
    /// Only pages of 4 KiB.
    small: bool,
    bits: LeafBits<F>,
    /// The page table used last, and the first address that it translates.
    last: Option<(VirtAddr, LeafTable<'a, F>)>,
}

/// There is no frame for a page table.
pub(super) struct NoTable {
    /// Pages of the run that are mapped nevertheless.
    pub(super) mapped: u64,
}

impl<'a, F: EntryFormat, M: PhysMemory, S: FrameSource> Filler<'a, F, M, S> {
    pub(super) fn new(tables: Editor<'a, F, M, S>, request: &AreaRequest) -> Self {
        let protection = request.protection;
        Self {
            small: request.small_pages,
            tables,
            protection,
            bits: LeafBits::new(protection, tables.limits()),
            last: None,
        }
    }

    /// Maps `count` frames from `first` on at `at`.
    pub(super) fn map(&mut self, at: VirtAddr, first: Pfn, count: u64) -> Result<(), NoTable> {
        let slots = LeafTable::<F>::SLOTS as u64;
        if count >= slots && !self.small {
            return self.map_long(at, first, count);
        }
        let mut mapped = 0;
        while mapped < count {
            let page = at.as_u64() / FRAME_SIZE + mapped;
            let slot = page % slots;
            let length = (count - mapped).min(slots - slot);
            let address = VirtAddr::new((page - slot) * FRAME_SIZE);
            let table = self.table(address).ok_or(NoTable { mapped })?;
            let frame = Pfn::new(first.as_u64() + mapped);
            table.fill(slot as usize, length as usize, frame, self.bits);
            mapped += length;
        }
        Ok(())
    }

    /// A run that may become large pages.
    fn map_long(&self, at: VirtAddr, first: Pfn, count: u64) -> Result<(), NoTable> {
        let range = VirtRange::new(at, count * FRAME_SIZE);
        self.tables
            .map(range, first.start(), self.protection, PageSize::Size1G)
            .map_err(|error| match error.reason {
                Reason::OutOfFrames { .. } => NoTable { mapped: 0 },
                _ => {
                    panic!("an area's addresses, or its frames, are not what they must be: {error}")
                }
            })
    }

    /// The page table whose first page is at `address`.
    fn table(&mut self, address: VirtAddr) -> Option<LeafTable<'a, F>> {
        if let Some((start, table)) = self.last
            && start == address
        {
            return Some(table);
        }
        let table = match self.tables.leaf_table(address) {
            Ok(table) => table,
            Err(error) if matches!(error.reason, Reason::OutOfFrames { .. }) => return None,
            Err(error) => panic!("an area's page table is not what it must be: {error}"),
        };
        self.last = Some((address, table));
        Some(table)
    }
}
