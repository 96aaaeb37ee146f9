//! What areas are built on: the machine, its memory, and where frames come from.

use kspace_frames::zone::NodeId;
use kspace_frames::{Order, Owner};
use kspace_layout::Pfn;
use kspace_paging::{EntryFormat, FrameSource, PhysMemory};

use crate::platform::{Interrupts, Tlb};
use crate::shootdown::Probe;

/// What a kernel is made of, as far as its areas are concerned: one type that names all the others.
pub trait Kernel {
    /// The CPUs.
    type Platform: Interrupts + Tlb;
    /// The memory that page tables and books are in.
    type Memory: PhysMemory;
    /// The format of the page tables.
    type Format: EntryFormat;
    /// Where frames come from.
    type Frames: AreaFrames<Guard = <Self::Platform as Interrupts>::Off>;
    /// What looks into the shootdown: [`Unprobed`](crate::shootdown::Unprobed), but in tests.
    type Probe: Probe;
}

/// What a block of frames is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Whose it will be.
    pub owner: Owner,
    /// The node it should be near to; `None`: this CPU's.
    pub node: Option<NodeId>,
    /// Whether it must be of that node.
    pub strict: bool,
    /// Whether it is to be filled with zeros.
    pub zeroed: bool,
}

/// Where the frames of areas come from; and, as a [`FrameSource`], zeroed ones for page tables and books.
///
/// # Safety
///
/// Beside what [`FrameSource`] asks for:
/// - a block from [`take`](Self::take) is RAM at a multiple of its size, which nobody else uses until [`give`](Self::give);
/// - no call waits for another CPU, or takes a lock that is held over a call into this crate: some are made with a lock held.
pub unsafe trait AreaFrames: FrameSource {
    /// Proof that interrupts are off.
    type Guard;

    /// How many frames there are, free or not: no area is larger.
    fn total(&self) -> u64;

    /// A block of 2^`order` frames, marked as mapped in the books on frames, if there are any; `None` when there is none to be had at
    /// once.
    fn take(&self, guard: &Self::Guard, order: Order, want: Want) -> Option<Pfn>;

    /// Up to `frames` single frames, from anywhere, as [`take`](Self::take) gives them: `each` is told each one. Returns how many there were:
    /// fewer when there are no more.
    #[inline(always)]
    fn take_singles(
        &self,
        guard: &Self::Guard,
        frames: u64,
        want: Want,
        mut each: impl FnMut(Pfn),
    ) -> u64 {
        let mut taken = 0;
        while taken < frames
            && let Some(frame) = self.take(guard, Order::FRAME, want)
        {
            each(frame);
            taken += 1;
        }
        taken
    }

    /// Takes back the block that begins at `first`, whose order is in the books on frames; returns that order. `None` when the books say
    /// that no such block is in use: then it stays lost.
    ///
    /// # Safety
    ///
    /// `first` came from [`take`](Self::take), no table leads to the block any more, and no CPU has a translation to it.
    unsafe fn give(&self, guard: &Self::Guard, first: Pfn) -> Option<Order>;

    /// Up to `frames` frames, one at least, in as few runs of consecutive ones as are cheap to find: `each` is told the first frame of each run,
    /// and how many it has. They are marked as those of [`take`](Self::take). Returns how many there were: fewer when there are no more.
    fn take_run(
        &self,
        guard: &Self::Guard,
        frames: u64,
        want: Want,
        each: &mut impl FnMut(Pfn, u64),
    ) -> u64 {
        let mut left = frames;
        let mut order = Order::largest_in(frames as usize);
        while let Some(now) = order {
            match self.take(guard, now, want) {
                Some(first) => {
                    each(first, now.frames() as u64);
                    left -= now.frames() as u64;
                    order = Order::largest_in(left as usize).map(|fits| fits.min(now));
                }
                None => order = now.smaller(),
            }
        }
        frames - left
    }

    /// Takes back `frames` consecutive frames from `first` on: whole blocks, of whatever orders they were taken in. Returns how many were
    /// given back; about the others the books on frames say that they are no blocks in use, and they stay lost.
    ///
    /// # Safety
    ///
    /// As for [`give`](Self::give), for every block.
    unsafe fn give_run(&self, guard: &Self::Guard, first: Pfn, frames: u64) -> u64 {
        let (mut done, mut given) = (0, 0);
        while done < frames {
            // SAFETY: the caller's contract: a block that was taken begins here.
            let order = unsafe { self.give(guard, Pfn::new(first.as_u64() + done)) };
            let block = order.map_or(0, |order| order.frames() as u64);
            given += block;
            done += block.max(1);
        }
        given
    }

    /// `frames` consecutive frames, the first at a multiple of their number, a power of two: for a page that is larger than any block. Their
    /// content is unknown, whatever `want` says: see [`clear_aligned`](Self::clear_aligned). They come back as the blocks that they are made of.
    /// `None` when there are none to be had at once; a source may have none ever.
    fn take_aligned(&self, _: &Self::Guard, _frames: u64, _: Want) -> Option<Pfn> {
        None
    }

    /// Fills a part of what [`take_aligned`](Self::take_aligned) gave with zeros.
    fn clear_aligned(&self, _first: Pfn, _frames: u64) {}

    /// Sees to it that no block in use has frames on both sides of the border before `at`: one that has is made into smaller ones. `false`
    /// when it cannot be cut there.
    fn cut(&self, _: &Self::Guard, _at: Pfn) -> bool {
        false
    }

    /// Takes back single frames, or whole blocks by their first frames, that lie anywhere; the other frames of a block may follow its first, in
    /// order. Returns how many frames were given back, and how many of those named stay lost.
    ///
    /// # Safety
    ///
    /// As for [`give`](Self::give), for every block.
    unsafe fn give_many(&self, guard: &Self::Guard, blocks: &[Pfn]) -> (u64, u64) {
        let (mut rest, mut given, mut lost) = (blocks, 0, 0);
        while let Some(first) = rest.first() {
            // SAFETY: the caller's contract.
            let order = unsafe { self.give(guard, *first) };
            match order {
                Some(order) => given += order.frames() as u64,
                None => lost += 1,
            }
            rest = behind(rest, order.unwrap_or(Order::FRAME));
        }
        (given, lost)
    }
}

/// What comes behind the block that `frames`, which are not empty, begin with, as [`AreaFrames::give_many`] is told blocks.
pub(super) fn behind(frames: &[Pfn], order: Order) -> &[Pfn] {
    let block = frames.iter().take(order.frames());
    let named = block.zip(frames[0].as_u64()..);
    let named = named.take_while(|(frame, number)| frame.as_u64() == *number);
    &frames[named.count()..]
}
