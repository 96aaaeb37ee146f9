//! What areas are for: handles that free themselves, devices, stacks, code, the list of them all, and what a fault says.

mod bad_input;
mod cache_types;
mod devices;
mod executable;
mod failures;
mod fault_texts;
mod handles;
#[path = "../large/rig.rs"]
mod rig;
mod vmallocinfo;
