//! The lock-free parts of the areas under loom: the same sources, with loom's atomics in place of the real ones, in every interleaving (up to a
//! number of preemptions) and with every reordering that the memory model allows.
//!
//! An area's entries and its frame are a cell: *written* when they are filled, parked and collected. Two who do that without one being
//! ordered before the other are a data race, and loom reports it.

mod vmalloc;
