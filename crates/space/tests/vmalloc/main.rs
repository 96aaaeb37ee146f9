//! Areas on a simulated machine: what they map, what is left of them, and who may still reach it.

mod alignment;
mod basics;
mod failures;
mod hostile;
mod mixed;
mod model;
mod quarantine;
mod rig;
mod short_mappings;
mod short_model;
