//! A zone as Linux showed it, and nothing else: it hands out nothing.

use kspace_frames::zone::ZoneFrames;
use kspace_frames::zone::text::Pageset;
use kspace_frames::{Order, Owner};
use kspace_layout::Pfn;

pub struct Frozen {
    pub managed: u64,
    pub free: u64,
    pub blocks: [u64; Order::COUNT],
    /// What each CPU's list held, and when it would be full, where that was recorded.
    #[allow(dead_code, reason = "each test program uses its own part of this")]
    pub lists: Vec<Pageset>,
}

impl ZoneFrames for Frozen {
    type Cpu = ();
    type Block<'a> = Pfn;

    fn managed_frames(&self) -> u64 {
        self.managed
    }

    fn free_frames(&self) -> u64 {
        self.free
    }

    fn free_frames_exact(&self) -> u64 {
        self.free
    }

    fn drift(&self) -> u64 {
        0
    }

    fn free_blocks(&self) -> [u64; Order::COUNT] {
        self.blocks
    }

    fn allocate(&self, (): &(), _: Order, _: Owner, _: Option<Pfn>) -> Option<Pfn> {
        None
    }

    fn first(block: &Pfn) -> Pfn {
        *block
    }
}
