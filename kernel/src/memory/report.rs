//! What the log says of memory, in Linux's words where Linux has some.

use kspace_frames::{History, MemoryMap, Owner};
use kspace_layout::{FRAME_SIZE, Layout, Pfn, SectionKind};

use super::{FrameZone, Memory};
use crate::info;

/// The line before the block, after Linux's `mem_init_print_info` (mm/mm_init.c): what is free, of all RAM; and what is in no zone,
/// because it was reserved or in use before there were any.
pub fn available(memory: &Memory, map: &MemoryMap, layout: &Layout) {
    let section = |kind| {
        let image = layout.image();
        image
            .and_then(|image| image.section(kind))
            .map_or(0, |range| range.size() / 1024)
    };
    let kib = |frames: u64| frames * FRAME_SIZE / 1024;
    let total = map.ram_bytes() / 1024;
    info!(
        "Memory: {}K/{total}K available ({}K kernel code, {}K rwdata, {}K rodata, {}K init, {}K bss, {}K reserved)",
        kib(memory.free_frames()),
        section(SectionKind::Text),
        section(SectionKind::Data),
        section(SectionKind::Rodata),
        section(SectionKind::InitText) + section(SectionKind::InitData),
        section(SectionKind::Bss),
        total.saturating_sub(kib(memory.zones.managed_frames())),
    );
    info!(
        "page tables, entry stacks and books on all frames: {}K",
        kib(memory.taken_by_boot)
    );
}

/// One line for each zone, as Linux's `show_free_areas` prints them when memory runs out (mm/show_mem.c).
pub fn print_zones(memory: &Memory) {
    memory.zones.as_slice().iter().for_each(print_zone);
}

fn print_zone(zone: &FrameZone) {
    let kib = |frames: u64| frames * FRAME_SIZE / 1024;
    let (marks, frames) = (zone.watermarks(), zone.frames());
    info!(
        "Node {} {} free:{}kB min:{}kB low:{}kB high:{}kB present:{}kB managed:{}kB kept by CPUs:{}kB",
        zone.node(),
        zone.kind(),
        kib(frames.free_frames_exact() as u64),
        kib(marks.min),
        kib(marks.low),
        kib(marks.high),
        kib(zone.span().present()),
        kib(frames.managed_frames() as u64),
        kib(frames.cached_frames() as u64),
    );
}

impl Memory {
    /// How many blocks are in use for this. Looks at every frame of RAM.
    #[must_use]
    pub fn blocks_of(&self, wanted: Owner) -> u64 {
        let is_one = |frame: &Pfn| {
            let history = self.zone_of(*frame).frames().history(*frame);
            matches!(history, Some(History::InUse { owner, .. }) if owner == wanted)
        };
        self.nodes
            .blocks()
            .map(|block| {
                let (first, end) = block.frames();
                let frames = (first.as_u64()..end).map(Pfn::new);
                frames.filter(is_one).count() as u64
            })
            .sum()
    }

    /// Frames that can be handed out, those that CPUs keep included: exact while nobody allocates or frees.
    #[must_use]
    pub fn free_frames(&self) -> u64 {
        let free = |zone: &FrameZone| {
            (zone.frames().free_frames_exact() + zone.frames().cached_frames()) as u64
        };
        self.zones.as_slice().iter().map(free).sum()
    }
}
