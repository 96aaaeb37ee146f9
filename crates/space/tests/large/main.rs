//! Large areas: more pages than a chunk takes, or a larger alignment.

mod areas;
mod failures;
mod hostile;
mod model;
mod requests;
mod rig;
#[path = "../vmalloc/rig.rs"]
mod simulated;
