//! Books without a heap: nodes of 64-bit words, in frames.
//!
//! ```text
//!   frame of a FrameSource, reached through PhysMemory
//!   +--------+--------+--------+-- --+--------+
//!   | header | node 1 | node 2 |     | node 63|      64 bytes each: one cache line
//!   +--------+--------+--------+-- --+--------+
//!      |
//!      +-- which nodes are used (one bit each), next and previous frame that is as full
//! ```
//!
//! The words are atomics, so all of this is safe code: a stale node id can read a wrong word, never break memory. Who calls holds
//! the only `&mut`; the words need no ordering of their own.
//!
//! Promise: a node that was [reserved](Slab::reserve) can be taken without fail, and a failed reservation changes nothing.

mod slab;

pub(crate) use slab::{NodeId, Slab, Words};

#[cfg(test)]
mod tests;
