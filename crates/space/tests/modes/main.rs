//! The debug modes of areas: poisoned frames, random places, a flush for every free.

mod flush;
mod poison;
mod random;
#[path = "../large/rig.rs"]
mod rig;
#[path = "../vmalloc/rig.rs"]
mod simulated;
