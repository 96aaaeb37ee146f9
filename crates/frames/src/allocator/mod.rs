//! The frame allocator: hands out physical memory, to all CPUs at once, without locks.
//!
//! ```text
//!   CPU 0 [stack]  CPU 1 [stack]  ...    single and huge frames each CPU keeps     cache       most calls end here
//!      |              |
//!   reserved tree  reserved tree         where to look                             search
//!      v              v
//!   Tree      |whole 12, partial 3|...   32 huge frames, 64 MiB                    tree        hints, may lag
//!   HugePair  |  37 |  512 | ... |       frames used of each huge frame            huge        what may be taken
//!   BitWord   |01101...|...|...|         one bit a frame                           bits        what is taken
//!   Record    |in use, order 0, ...|     4 bytes a frame                           record      who has it: checked on each free
//! ```
//!
//! Read `huge` for the protocol that all else stands on, `cache` for the way of a single frame, `record` for what makes a
//! double free impossible to miss, and `search` for how whole huge frames are kept whole.
//!
//! Everything above `metadata::from_zeroed` is safe code: memory is named by number here, never touched.

mod add;
mod allocate;
mod bits;
mod block;
mod cache;
mod contiguous;
mod error;
mod free_blocks;
mod give;
mod huge;
mod index;
mod mapped;
mod metadata;
#[cfg(all(test, feature = "loom"))]
mod models;
mod pause;
mod record;
mod runs;
mod search;
mod span;
mod sync;
mod take;
mod tree;

pub use add::AddError;
pub use allocate::Local;
pub use bits::BitWord;
pub use block::{Block, MappedBlock, SharedBlock};
pub use cache::{CpuSlot, PinnedCpu};
pub use contiguous::{Constraint, Contiguous};
pub use error::{AllocError, FreeError, FreeProblem};
pub use huge::HugePair;
pub use index::{
    FrameId, HUGE_FRAMES, HugeId, Order, OrderTooLarge, TREE_FRAMES, TREE_HUGES, TreeId,
};
pub use mapped::LONGEST_ROW;
pub use metadata::{Metadata, MetadataSize, NewError};
pub use record::{Flags, History, MAX_REFERENCES, Owner, Record};
pub use span::FrameAllocator;
pub use tree::Tree;
