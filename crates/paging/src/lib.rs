//! Page tables of every x86 paging mode: reading them, and changing them safely while CPUs use them.
//!
//! Two halves over one set of entry formats:
//!
//! ```text
//!   Walker   any mode, chosen at run time; any memory, a dump too     one address: every entry, and the fault an access raises
//!                                                                     a range: runs of mappings
//!   Editor   one format, chosen at compile time; live memory          map, unmap, protect, adjust, merge, purge, all or nothing
//!                                                                     what it takes away is owned by a Flush until it is flushed
//!   LeafTable                   one table of 4 KiB pages              the same for single pages, in a few instructions
//! ```
//!
//! ```
//! use kspace_layout::{PageSize, PagingMode, PhysAddr, PhysRange, VirtAddr, VirtRange};
//! use kspace_paging::{Editor, FrameSource, Invalidation, Limits, LinearMemory, LongMode, Protection, Tlb, Walker};
//! # use std::cell::Cell;
//!
//! // Frames for tables. Here one after the other; a kernel asks its allocator.
//! struct Frames(Cell<u64>);
//!
//! // SAFETY: each is handed out once, of memory that begins as zeros.
//! unsafe impl FrameSource for Frames {
//!     fn allocate(&self) -> Option<PhysAddr> {
//!         PhysAddr::try_new(self.0.replace(self.0.get() + 4096)).ok()
//!     }
//!     fn release(&self, _frame: PhysAddr) {}
//! }
//!
//! // What flushes. Here nothing, as no CPU uses these tables; a kernel executes INVLPG, here and on other CPUs.
//! struct NoCpu;
//!
//! // SAFETY: see above.
//! unsafe impl Tlb for NoCpu {
//!     fn invalidate(&self, _what: &Invalidation) {}
//! }
//!
//! # let bytes = std::alloc::Layout::from_size_align(1 << 20, 4096).expect("sound");
//! # let zeros = VirtAddr::new(unsafe { std::alloc::alloc_zeroed(bytes) }.expose_provenance() as u64);
//! // SAFETY: a MiB of zeros, which stays.
//! let memory = unsafe { LinearMemory::new(PhysRange::new(PhysAddr::ZERO, 1 << 20), zeros) };
//! let frames = Frames(Cell::new(0));
//! let root = frames.allocate().expect("there are frames");
//! let mode = PagingMode::FourLevel;
//! // SAFETY: nobody else edits these tables.
//! let editor = unsafe { Editor::<LongMode, _, _>::new(mode, root, Limits::WIDEST, &memory, &frames)? };
//!
//! let range = VirtRange::new(VirtAddr::new(0xffff_c000_0000_0000), 4 << 20);
//! editor.map(range, PhysAddr::new(6 << 20), Protection::KERNEL_DATA, PageSize::Size2M)?;
//! let walker = Walker::new(mode, root, &memory);
//! assert_eq!(walker.translate(range.last()), Some(PhysAddr::new((10 << 20) - 1)));
//!
//! // What is taken away stays owned until the CPUs have forgotten it.
//! editor.unmap(range)?.flush(&NoCpu, &memory, &frames);
//! assert_eq!(walker.translate(range.start()), None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! This crate knows no CPUs: it never executes a privileged instruction. What it needs of the machine are two traits, [`PhysMemory`]
//! (reach a page table) and [`FrameSource`] (a frame for a new one), and for flushing [`Tlb`].
//!
//! Writable and executable together cannot be asked for ([`Protection`]), only found ([`Attributes`]).

#![no_std]

pub mod access;
mod cache;
pub mod editor;
mod entry;
pub mod flush;
mod frame_list;
mod hidden;
pub mod leaf_table;
mod limits;
mod linear;
mod memory;
mod parked;
mod protection;
mod runs;
mod walker;

pub use access::{Controls, Fault, FaultCause, Intent, Operation};
pub use cache::{CacheType, Pat};
pub use editor::{Adjustment, Edit, EditError, Editor, Reason, RootError, Unmapped};
pub use entry::{EntryFormat, Format, LongMode, Pae, TwoLevel};
pub use flush::{Flush, Invalidation, Leak, Stale, Tlb, leaked_tokens, on_leak};
pub use leaf_table::{LeafBits, LeafSlot, LeafTable};
pub use limits::Limits;
pub use linear::LinearMemory;
pub use memory::{EntryRead, FrameSource, PhysMemory, RawEntry};
pub use protection::{Access, Attributes, Protection};
pub use runs::{Merge, Obstacle, Run, Runs};
pub use walker::{End, Page, Refusal, Step, Walk, Walker};
