//! Changing what pages allow, on a machine with hostile TLBs: against a model of pages, under any schedule, with frames running out.

mod concurrent;
mod failures;
mod hostile;
mod kernel;
mod model;
mod refusals;
#[path = "../vmalloc/rig.rs"]
mod simulated;
mod told;
