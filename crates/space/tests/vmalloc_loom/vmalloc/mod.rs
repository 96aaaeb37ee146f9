//! The sources, file by file, on other atomics; and their models.

#![allow(dead_code, reason = "the models use a part of what the library offers")]

#[macro_use]
mod sync;

#[path = "../../../src/vmalloc/lazy.rs"]
mod lazy;
#[path = "../../../src/vmalloc/slot.rs"]
mod slot;

mod models;
