//! Code changed while other CPUs run it, on a machine that may execute any mixture of what was in memory since its CPUs last serialized.

mod code_areas;
#[allow(dead_code, reason = "it is for other tests, too")]
#[path = "../permissions/kernel.rs"]
mod kernel;
mod refusals;
mod schedules;
#[path = "../vmalloc/rig.rs"]
mod simulated;
mod world;
