//! Large areas: more pages than a chunk takes, or a larger alignment.

mod areas;
mod failures;
mod hostile;
mod model;
mod rig;
// Each test program uses its own part of it.
#[allow(dead_code)]
#[path = "../vmalloc/rig.rs"]
mod simulated;
