//! The sources, file by file, on other atomics; and their models.

#![allow(dead_code, reason = "the models use a part of what the library offers")]

#[macro_use]
mod sync;

#[path = "../../../src/vmalloc/lazy.rs"]
mod lazy;
#[path = "../../../src/vmalloc/slot.rs"]
mod slot;

#[path = "."]
mod map_ram {
    #[path = "../../../src/vmalloc/map_ram/account.rs"]
    pub mod account;
    #[path = "../../../src/vmalloc/map_ram/open.rs"]
    pub mod open;
}

mod models;
mod short_mappings;
