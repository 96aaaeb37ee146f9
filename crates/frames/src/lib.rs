//! Physical memory: what the firmware says exists, whole frames taken from it during boot, and the allocator of frames
//! after that ([`FrameAllocator`]).
//!
//! ```text
//!   firmware's entries          MemoryMap                    EarlyFrames
//!   unsorted, overlapping,      sorted, disjoint, RAM in     hands out 4 KiB frames of RAM
//!   perhaps nonsense       -->  whole pages; every repair -> that nobody reserved, from the
//!   (start, size, type)         was reported                 top of a window downwards
//! ```
//!
//! ```
//! use kspace_frames::{EarlyFrames, FirmwareEntry, MemoryMap};
//! use kspace_layout::{PhysAddr, PhysRange};
//!
//! // Code 1 is RAM, 2 reserved. The second entry overlaps the first; such things are repaired, and said.
//! let said = [FirmwareEntry::new(0, 0x9_fc00, 1), FirmwareEntry::new(0x9_f000, 0x1000, 2), FirmwareEntry::new(1 << 20, 31 << 20, 1)];
//! let mut map = MemoryMap::from_firmware(said, 40, |repair| println!("{repair}"))?;
//! assert_eq!(map.ram_bytes(), 0x9_f000 + (31 << 20));
//!
//! let kernel = PhysRange::new(PhysAddr::new(2 << 20), 3 << 20);
//! map.reserve(kernel)?;
//! let frames = EarlyFrames::new(&map, PhysRange::new(PhysAddr::ZERO, 1 << 30));
//! let frame = frames.allocate().expect("there is RAM");
//! assert_eq!(frame.start(), PhysAddr::new((32 << 20) - 4096), "from the top down");
//! # Ok::<(), kspace_frames::MapError>(())
//! ```
//!
//! This crate knows no page tables and maps nothing. Everything is a plain value of fixed size: no allocation, no
//! pointers inside, so a kernel that moves itself during boot may copy a [`MemoryMap`] as bytes.
//!
//! A firmware map is hostile input. Nothing here panics on one: it is repaired and each repair is reported as a
//! [`Repair`], or refused with a [`MapError`] that says what was wrong.

#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

mod allocator;
mod early;
mod entry;
mod error;
mod map;
mod pieces;
mod repair;
mod reserved;
mod sanitise;
mod size;
pub mod zone;

pub use allocator::{
    AddError, AllocError, BitWord, Block, Constraint, Contiguous, CpuSlot, Flags, FrameAllocator,
    FrameId, FreeError, FreeProblem, HUGE_FRAMES, History, HugeId, HugePair, LONGEST_ROW, Local,
    MAX_REFERENCES, MappedBlock, Metadata, MetadataSize, NewError, Order, OrderTooLarge, Owner,
    PinnedCpu, Record, SharedBlock, TREE_FRAMES, TREE_HUGES, Tree, TreeId,
};
pub use early::{Counts, EarlyFrames, ReleaseError, WidenError};
pub use entry::{FirmwareEntry, MemoryEntry, MemoryKind};
pub use error::MapError;
pub use map::{Free, MAX_ENTRIES, MemoryMap};
pub use repair::Repair;
pub use reserved::MAX_RESERVATIONS;
pub use sanitise::MAX_FIRMWARE_ENTRIES;
pub use size::{SizeError, parse_size};
