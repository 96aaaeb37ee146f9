//! The debug modes of areas: poisoned frames, random places, a flush for every free.

mod flush;
mod poison;
mod random;
#[path = "../large/rig.rs"]
mod rig;
#[path = "../vmalloc/rig.rs"]
#[allow(dead_code, reason = "each test program uses its own part of this")]
mod simulated;
