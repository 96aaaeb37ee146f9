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
