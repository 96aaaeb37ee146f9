//! The sources, file by file, on other atomics; and their models.

#![allow(dead_code, reason = "the models use a part of what the library offers")]

#[macro_use]
mod sync;

#[path = "../../../src/vmalloc/arena.rs"]
mod arena;
#[path = "../../../src/vmalloc/index.rs"]
mod index;
#[path = "../../../src/vmalloc/lazy.rs"]
mod lazy;
#[path = "../../../src/vmalloc/near.rs"]
mod near;
#[path = "../../../src/vmalloc/slot.rs"]
mod slot;

/// Frames of words, as small as they can be: a tree of them is explored in every order.
mod chunk {
    use super::sync::AtomicU64;

    pub(super) const FRAME_WORDS: usize = 2;
    pub(super) const MAX_RETIRED: usize = 4;
    pub(super) type Words = [AtomicU64; FRAME_WORDS];
}

#[path = "."]
mod map_ram {
    #[path = "../../../src/vmalloc/map_ram/account.rs"]
    pub mod account;
    #[path = "../../../src/vmalloc/map_ram/open.rs"]
    pub mod open;
}

mod lookups;
mod models;
mod runs;
mod short_mappings;
