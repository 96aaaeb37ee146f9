//! Live areas that get another size: where they are, or elsewhere with the same frames.

mod failures;
mod hostile;
mod places;
#[path = "../large/rig.rs"]
mod rig;
#[path = "../vmalloc/rig.rs"]
mod simulated;
