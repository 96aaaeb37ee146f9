//! Lists of table frames that need no memory of their own: each frame holds the number of the next.
//!
//! The number lies in bits 9 to 11 of the frame's first 14 entries, three bits in each:
//!
//! ```text
//!   entry   0      1      2            13
//!   bits    11..9  11..9  11..9        11..9
//!   link    2..0   5..3   8..6   ...   41..39
//! ```
//!
//! Bits 0 to 39 of the link are the next frame's number, and bit 40 says that its entries have four bytes, not eight: a list
//! may hold tables of different modes. All ones is the end of the list.
//!
//! Why so: a CPU may still walk a table that was just taken out, through a paging-structure cache, until the flush. It must then
//! find every entry as it was. Bits 9 to 11 are ignored in every entry, present or not, of every format (Intel SDM vol. 3,
//! tables 5-4 to 5-20), so the list is invisible to it.

use kspace_layout::{Pfn, PhysAddr};

use crate::entry::SOFTWARE_SHIFT;
use crate::{EntryFormat, FrameSource, PhysMemory, RawEntry};

/// Entries that hold a link.
const LINK_ENTRIES: usize = 14;
/// Bits of the link in each.
const LINK_BITS: u32 = 3;
const LINK_MASK: u64 = (1 << LINK_BITS) - 1;
/// Set in a link to a frame of 4-byte entries; frame numbers have 40 bits.
const NARROW: u64 = 1 << 40;
/// No next frame.
const END: u64 = (1 << (LINK_ENTRIES as u32 * LINK_BITS)) - 1;

/// A list of frames, none of which any page table refers to.
///
/// It has no `Drop`: whoever holds one says what becomes of the frames.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameList {
    ends: Option<Ends>,
    count: usize,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    first: Member,
    last: Member,
}

/// A frame in a list.
#[derive(Clone, Copy, Debug)]
struct Member {
    frame: PhysAddr,
    /// Its entries have four bytes, not eight.
    narrow: bool,
}

impl Member {
    const fn link(self) -> u64 {
        let pfn = self.frame.pfn().as_u64();
        if self.narrow { pfn | NARROW } else { pfn }
    }

    /// The member that a link leads to; `None` at the end.
    fn at(link: u64) -> Option<Self> {
        let pfn = Pfn::try_new(link & !NARROW).ok()?;
        Some(Self {
            frame: pfn.start(),
            narrow: link & NARROW != 0,
        })
    }
}

impl FrameList {
    pub(crate) const EMPTY: Self = Self {
        ends: None,
        count: 0,
    };

    /// How many frames it holds.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// Puts a frame in front. Returns false, and leaves the list as it was, when `memory` cannot reach the frame.
    pub(crate) fn push<F: EntryFormat>(
        &mut self,
        frame: PhysAddr,
        memory: &impl PhysMemory,
    ) -> bool {
        let new = Member {
            frame,
            narrow: F::FORMAT.entry_bytes() == 4,
        };
        let next = self.ends.map_or(END, |ends| ends.first.link());
        if !write_link(new, next, memory) {
            return false;
        }
        let last = self.ends.map_or(new, |ends| ends.last);
        self.ends = Some(Ends { first: new, last });
        self.count += 1;
        true
    }

    /// Takes the first frame out, with its link bits clear again.
    pub(crate) fn pop(&mut self, memory: &impl PhysMemory) -> Option<PhysAddr> {
        let ends = self.ends?;
        let next = read_link(ends.first, memory)?;
        write_link(ends.first, 0, memory);
        self.count -= 1;
        self.ends = Member::at(next).map(|first| Ends { first, ..ends });
        Some(ends.first.frame)
    }

    /// Adds all frames of `other`, behind those of this one.
    pub(crate) fn append(&mut self, other: Self, memory: &impl PhysMemory) {
        let Some(theirs) = other.ends else { return };
        match &mut self.ends {
            None => *self = other,
            Some(ours) => {
                write_link(ours.last, theirs.first.link(), memory);
                ours.last = theirs.last;
                self.count += other.count;
            }
        }
    }

    /// Gives every frame back.
    pub(crate) fn release(mut self, memory: &impl PhysMemory, frames: &impl FrameSource) {
        while let Some(frame) = self.pop(memory) {
            frames.release(frame);
        }
    }
}

fn write_link(member: Member, link: u64, memory: &impl PhysMemory) -> bool {
    if member.narrow {
        write_link_as::<u32>(member.frame, link, memory)
    } else {
        write_link_as::<u64>(member.frame, link, memory)
    }
}

fn read_link(member: Member, memory: &impl PhysMemory) -> Option<u64> {
    if member.narrow {
        read_link_as::<u32>(member.frame, memory)
    } else {
        read_link_as::<u64>(member.frame, memory)
    }
}

fn write_link_as<E: RawEntry>(frame: PhysAddr, link: u64, memory: &impl PhysMemory) -> bool {
    let Some(slots) = memory.entries::<E>(frame, LINK_ENTRIES) else {
        return false;
    };
    for (index, slot) in slots.iter().enumerate() {
        let part = (link >> (index as u32 * LINK_BITS)) & LINK_MASK;
        // A CPU that still walks the table may set an accessed bit meanwhile; whether that is lost does not matter any more.
        let rest = E::load(slot) & !(LINK_MASK << SOFTWARE_SHIFT);
        E::store(slot, rest | part << SOFTWARE_SHIFT);
    }
    true
}

fn read_link_as<E: RawEntry>(frame: PhysAddr, memory: &impl PhysMemory) -> Option<u64> {
    let slots = memory.entries::<E>(frame, LINK_ENTRIES)?;
    Some(slots.iter().enumerate().fold(0, |link, (index, slot)| {
        link | ((E::load(slot) >> SOFTWARE_SHIFT) & LINK_MASK) << (index as u32 * LINK_BITS)
    }))
}
