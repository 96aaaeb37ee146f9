//! The shootdown protocol on the simulated machine: no schedule of CPUs, and no TLB that the architecture allows, reaches a frame
//! after it was freed; and each rule of the protocol is needed for that.

mod messages;
mod mutations;
mod operations;
mod quarantine;
mod root_entries;
mod schedules;
mod stopped;
mod suite;
mod user_spaces;
mod world;
