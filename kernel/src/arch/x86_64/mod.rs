//! x86-64: the only place that may assume 64 bits, ports, MSRs and control registers.

mod boot;
mod clock;
mod console;
mod cpu;
mod descriptors;
mod entropy;
mod explain;
mod fw_cfg;
mod leave;
mod memory;
mod provoke;
mod traps;

pub use clock::ticks_since_entry;
pub use console::write_console;
pub use leave::{Outcome, leave};

/// The format of this architecture's page-table entries.
pub type PageFormat = kspace_paging::LongMode;
