//! Code changed while other CPUs run it, on a machine that may execute any mixture of what was in memory since its CPUs last serialized.

mod refusals;
mod schedules;
mod world;
