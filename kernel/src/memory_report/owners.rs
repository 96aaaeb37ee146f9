//! What frames in use are used for, by the books on frames.

use kspace_frames::zone::Zones;
use kspace_frames::{FrameAllocator, History, Owner};
use kspace_layout::Pfn;

/// Frames by owner, counted one by one: exact as far as nobody allocates meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct Owned {
    /// Page tables, and the books of areas, which have the same owner. The first ones, of the boot, are of no zone, as in Linux.
    pub page_tables: u64,
    /// Stacks that are areas.
    pub stacks: u64,
}

impl Owned {
    /// What there is in `zones`.
    pub fn of<'z>(zones: &Zones<'z, FrameAllocator<'z>>) -> Self {
        let mut owned = Self::default();
        for zone in zones.as_slice() {
            let frames = zone.frames();
            let (mut frame, count) = (frames.start().as_u64(), frames.spanned_frames() as u64);
            let end = frame + count;
            while frame < end {
                let (length, owner) = block_at(frames, frame);
                match owner {
                    Some(Owner::PAGE_TABLE) => owned.page_tables += length,
                    Some(Owner::STACK) => owned.stacks += length,
                    _ => {}
                }
                frame += length;
            }
        }
        owned
    }
}

/// The frames of the block that begins at a frame, and whose it is: one, and nobody's, where no block in use begins.
fn block_at(frames: &FrameAllocator<'_>, frame: u64) -> (u64, Option<Owner>) {
    match Pfn::try_new(frame)
        .ok()
        .and_then(|frame| frames.history(frame))
    {
        Some(History::InUse { order, owner, .. }) => (order.frames() as u64, Some(owner)),
        _ => (1, None),
    }
}
