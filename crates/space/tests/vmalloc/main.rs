//! Areas on a simulated machine: what they map, what is left of them, and who may still reach it.

mod basics;
mod rig;
