//! Memory as Linux shows it: the texts of files under `/proc`, and the lines of the boot log, byte for byte in Linux's form,
//! so that programs which read them can.
//!
//! Each is a value that prints; nothing is kept in between. Lines for what this kernel does not have are left out, where
//! readers look for names ([`Meminfo`], counters), and kept where they count places ([`Zoneinfo`]'s marks).

mod boot_log;
mod buddyinfo;
mod iomem;
mod joins;
mod meminfo;
mod zoneinfo;

pub use boot_log::{FallbackLine, NodeLines, UnavailableLines, ZoneLines, ZoneRanges};
pub use buddyinfo::Buddyinfo;
pub use iomem::{Iomem, Resource};
pub use joins::JoinLines;
pub use meminfo::{DirectMap, Meminfo, PageTotals, VmallocTotals};
pub use zoneinfo::{Counter, Pageset, Zoneinfo};
