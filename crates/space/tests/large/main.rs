//! Large areas: more pages than a chunk takes, or a larger alignment.

mod areas;
mod failures;
mod hostile;
mod model;
mod rig;
#[allow(dead_code, reason = "each test program uses its own part of it")]
#[path = "../vmalloc/rig.rs"]
mod simulated;
