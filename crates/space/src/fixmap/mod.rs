//! The fixmap's slots: pages at addresses that are known when the kernel is compiled, set and cleared while it runs.
//!
//! ```text
//!   ffffffffff600000 .---------------------.
//!                    | debug port, console |
//!                    | local APIC          |  permanent: seen by every CPU, until they are cleared
//!                    | I/O APIC 0 … 127    |     set      fill the entry
//!   ffffffffff57c000 |---------------------|     clear    take it out, every CPU forgets (a shootdown)
//!                    |        …            |
//!   ffffffffff400000 |---------------------|
//!                    | mapping 7           |  temporary: used by the CPU that maps, while a guard keeps it there
//!                    |   …                 |     map_here fill up to 64 entries, forget here
//!                    | mapping 0           |     drop     take them out, forget here
//!   ffffffffff200000 '---------------------'
//! ```
//!
//! Two page tables hold all of it. They are made when the kernel's tables are built ([`build`]) and stay: setting and clearing allocate
//! nothing and take no lock.
//!
//! # Why forgetting here is enough for temporary slots
//!
//! Every CPU walks these tables, so while a temporary slot is set any CPU may take its translation in by speculation, and keep it long
//! after it is cleared. But only the CPU that maps accesses the address; another one accesses it only when it has mapped the slot
//! itself, and then it has forgotten, after it filled the entry and before the first access, whatever it had of it. So no access
//! ever goes through a translation that somebody else left behind.
//!
//! # What is kept beside the tables
//!
//! [`Slots`] notes what was asked for, in a word for each slot. [`verify`](crate::verify) holds the tables against these notes, and a fault's
//! explanation takes from them what a slot shows.

mod error;
mod notes;
mod slots;
mod temporary;

pub use error::SlotError;
pub use notes::{FixedPages, SlotSpot};
pub use slots::{Slots, build};
pub use temporary::Temporary;
