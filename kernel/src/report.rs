//! What the boot log says about memory, in Linux's words where Linux has some.

use kspace_frames::{EarlyFrames, MemoryMap};
use kspace_layout::{Block, FRAME_SIZE, Layout, SectionKind, VirtAddr};

use crate::info;

/// The line before the block, after Linux's `mem_init_print_info` (mm/mm_init.c).
pub fn memory(map: &MemoryMap, layout: &Layout, frames: &EarlyFrames) {
    let section = |kind| {
        let image = layout.image();
        image
            .and_then(|image| image.section(kind))
            .map_or(0, |range| range.size() / 1024)
    };
    let total = map.ram_bytes() / 1024;
    let counts = frames.counts();
    let reserved: u64 = map.reserved().map(|range| range.size() / 1024).sum();
    let used = reserved + counts.in_use * FRAME_SIZE / 1024;
    info!(
        "Memory: {}K/{total}K available ({}K kernel code, {}K rwdata, {}K rodata, {}K init, {}K bss, {used}K reserved)",
        total.saturating_sub(used),
        section(SectionKind::Text),
        section(SectionKind::Data),
        section(SectionKind::Rodata),
        section(SectionKind::InitText) + section(SectionKind::InitData),
        section(SectionKind::Bss),
    );
    info!(
        "page tables and entry stacks: {}K",
        counts.in_use * FRAME_SIZE / 1024
    );
}

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
