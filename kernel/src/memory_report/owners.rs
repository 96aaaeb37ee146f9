//! What frames in use are used for, by the books on frames.

use kspace_frames::zone::Zones;
use kspace_frames::{FrameAllocator, Owner};

/// Frames by owner: exact as far as nobody allocates meanwhile.
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
        let frames_of = |owner| {
            let zones = zones.as_slice().iter();
            zones
                .map(|zone| zone.frames().frames_of(owner) as u64)
                .sum()
        };
        Self {
            page_tables: frames_of(Owner::PAGE_TABLE),
            stacks: frames_of(Owner::STACK),
        }
    }
}
