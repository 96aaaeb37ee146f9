//! Areas and devices in user spaces: what is mapped, what is refused, and that nothing is freed that user mode can still reach.

mod basics;
mod errors;
mod failures;
mod hostile;
mod lifetime;
#[path = "../vmalloc/rig.rs"]
mod machine;
#[path = "../large/rig.rs"]
mod rig;
mod spaces;
