//! What a zone needs of the allocator below it.

use core::ops::Range;

use kspace_layout::Pfn;

use crate::{Block, Constraint, FrameAllocator, Order, Owner, PinnedCpu};

/// An allocator of the frames of one zone.
pub trait ZoneFrames {
    /// Proof of the CPU that allocates.
    type Cpu;
    /// An owned block.
    type Block<'a>
    where
        Self: 'a;

    /// Frames that it manages, free or not.
    fn managed_frames(&self) -> u64;

    /// Frames that are free, as far as one load tells: wrong by up to [`drift`](Self::drift).
    fn free_frames(&self) -> u64;

    /// Frames that are free, exactly as long as nobody allocates or frees. It may take a look at each CPU.
    fn free_frames_exact(&self) -> u64;

    /// By how much [`free_frames`](Self::free_frames) may be wrong. Near a mark the exact count decides, as in Linux
    /// (`percpu_drift_mark`): else small zones would be emptied by what CPUs have not counted yet.
    fn drift(&self) -> u64;

    /// Frames that CPUs keep for themselves, about. They are not among the free ones.
    fn cached_frames(&self) -> u64 {
        0
    }

    /// How many free blocks of each order there are, by the order's number, as a buddy allocator would hold them.
    fn free_blocks(&self) -> [u64; Order::COUNT];

    /// A block of 2^order frames with unknown content; none above the frame `last`, if that is given.
    fn allocate(
        &self,
        cpu: &Self::Cpu,
        order: Order,
        owner: Owner,
        last: Option<Pfn>,
    ) -> Option<Self::Block<'_>>;

    /// A block that this CPU keeps for itself, of a low order: [`free_frames`](Self::free_frames) counts it as used already, so nothing is
    /// less free than before. `None` says nothing.
    #[inline]
    fn allocate_kept(
        &self,
        _cpu: &Self::Cpu,
        _order: Order,
        _owner: Owner,
    ) -> Option<Self::Block<'_>> {
        None
    }

    /// The frames that have a number in its books, whether it has been given them or not. They never change. `None`: it does not say.
    fn numbered(&self) -> Option<Range<u64>> {
        None
    }

    /// The first frame of a block.
    fn first(block: &Self::Block<'_>) -> Pfn;
}

impl ZoneFrames for FrameAllocator<'_> {
    type Cpu = PinnedCpu;
    type Block<'a>
        = Block<'a>
    where
        Self: 'a;

    #[inline]
    fn managed_frames(&self) -> u64 {
        Self::managed_frames(self) as u64
    }

    #[inline]
    fn free_frames(&self) -> u64 {
        Self::free_frames(self) as u64
    }

    fn free_frames_exact(&self) -> u64 {
        Self::free_frames_exact(self) as u64
    }

    #[inline]
    fn drift(&self) -> u64 {
        Self::drift(self) as u64
    }

    fn cached_frames(&self) -> u64 {
        Self::cached_frames(self) as u64
    }

    fn free_blocks(&self) -> [u64; Order::COUNT] {
        Self::free_blocks(self).map(|count| count as u64)
    }

    #[inline]
    fn allocate(
        &self,
        cpu: &PinnedCpu,
        order: Order,
        owner: Owner,
        last: Option<Pfn>,
    ) -> Option<Block<'_>> {
        let Some(last) = last else {
            return Self::allocate(self, cpu, order, owner).ok();
        };
        let within = Constraint {
            align: order.frames(),
            last,
        };
        let range = self.allocate_contiguous(cpu, order.frames(), within, owner);
        let mut only = None;
        // A range of that length and alignment is one block.
        range.ok()?.into_blocks(|block| only = Some(block));
        only
    }

    #[inline(always)]
    fn allocate_kept(&self, cpu: &PinnedCpu, order: Order, owner: Owner) -> Option<Block<'_>> {
        self.local(cpu).ok()?.allocate_kept(order, owner)
    }

    fn numbered(&self) -> Option<Range<u64>> {
        Some(Self::numbered(self))
    }

    #[inline]
    fn first(block: &Block<'_>) -> Pfn {
        block.pfn()
    }
}
