//! The lock-free parts of the shootdown protocol under loom: the same sources, with loom's atomics in place of the real ones, in every
//! interleaving (up to a number of preemptions) and with every reordering that the memory model allows.
//!
//! Translations are modelled by what matters about them: an entry that says whether a page is mapped, a TLB of one entry per CPU and
//! page, and the frame, which is *read* through a translation and *written* when it is reused. A read that is not ordered before
//! the reuse is a data race, and loom reports it.

#[allow(
    dead_code,
    unused_imports,
    reason = "the models use a part of what the library offers"
)]
#[path = "../../src/platform/mod.rs"]
mod platform;
mod shootdown;
