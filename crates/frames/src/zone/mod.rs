//! Nodes and zones: which memory is near to whom, what each part of it is kept for, and who may have it.
//!
//! ```text
//!   MemoryMap + affinities --> Nodes --------> ZoneSpan per node and kind ----> Zone (an allocator, marks) --> Zones
//!                              |  |                                               ^
//!                              |  '--> Vmemmap: where the allocators' books are  Reserves: min, low, high, protection
//!                              '-----> sections of 128 MiB
//! ```
//!
//! All that is counted, kept back and printed follows Linux: zone names and limits, spanned, present and managed frames,
//! watermarks, fallback order, and the texts of `/proc/zoneinfo`, `buddyinfo`, `iomem` and `meminfo` (module [`text`]). What is
//! known of a Linux machine holds here, and its tools can read it.
//!
//! Nothing here touches memory, and nothing allocates; a zone works with any allocator that is [`ZoneFrames`].

mod affinity;
mod allocate;
mod error;
mod frames;
mod kind;
mod node;
mod pageset;
mod possible;
mod request;
mod reserves;
mod section;
mod span;
pub mod text;
mod vmemmap;
mod zonelist;
mod zones;

pub use affinity::{Affinity, MAX_AFFINITIES, MAX_BLOCKS, NodeRepair};
pub use allocate::{Hooks, Shortage};
pub use error::{Mark, NotEnoughRam, ZoneError, ZoneProblem, ZoneState, ZonesError};
pub use frames::ZoneFrames;
pub use kind::{ZoneKind, ZoneLimits};
pub use node::{MAX_NODES, NodeBlock, NodeError, NodeId, Nodes};
pub use pageset::{batch, stat_threshold};
pub use possible::PossibleZone;
pub use request::{Fallback, Request, Urgency};
pub use reserves::{Protection, Reserves, Tuning, TuningError, Watermarks, ZoneShare};
pub use section::{SECTION_BYTES, Section};
pub use span::ZoneSpan;
pub use vmemmap::{MAX_ZONES, RECORD_BYTES, Vmemmap, VmemmapError, VmemmapPlan, VmemmapRun};
pub use zonelist::{LOCAL_DISTANCE, NodeOrder, REMOTE_DISTANCE};
pub use zones::{Zone, Zones};
