//! What the boot log says about the layout.

use kspace_frames::MemoryMap;
use kspace_layout::{Block, FRAME_SIZE, Layout, VirtAddr};

use crate::info;

/// The block, each line a record of its own.
pub fn layout(layout: &Layout) {
    info!("{}", Block::HEADING);
    for row in layout.block().rows() {
        info!("{row}");
    }
}

/// An address of the direct map whose frame is not RAM and lies above the first MiB, which is mapped whole.
pub fn hole_in_ram(map: &MemoryMap, layout: &Layout) -> Option<VirtAddr> {
    let first_mib = kspace::direct_map::FIRST_MIB;
    let mut ends = map
        .ram()
        .map(|ram| ram.last())
        .filter(|last| !first_mib.contains(*last));
    ends.find_map(|last| {
        let hole = last.checked_add(1).ok()?;
        let base = layout.phys_to_virt(kspace_layout::PhysAddr::ZERO).ok()?;
        (!map.is_ram(kspace_layout::PhysRange::try_new(hole, FRAME_SIZE).ok()?))
            .then(|| base.checked_add(hole.as_u64()).ok())?
    })
}
