//! Short mappings: given frames at addresses of their own for a moment, in a few dozen instructions (Linux: `vm_map_ram`).
//!
//! ```text
//!   a block: a chunk that one CPU has for its short mappings alone
//!
//!   |-- unmapped --|G|- mapped -|G|-- unmapped --|G|        never placed yet         |      G: the guard, never mapped
//!                                                  ^ next
//!
//!   map      the CPU's block: one word goes on by the pages and the guard; entries filled; the area's word: Free --> Mapped
//!   unmap    the area's word: Mapped --> Lazy; entries empty; the block's account goes on by the pages and the guard
//!   purge    one shootdown; a block whose account has every page is an empty chunk again, all at once
//! ```
//!
//! What makes them cheap: nothing is asked of the frames' books, an unmapped entry has nothing to remember, and no mapping is given back
//! by itself. What it costs: one mapping that is kept keeps its block's other addresses from being used again. So they are for a short time.
//!
//! Map and unmap take no lock and never wait, so they work in any context but an NMI. A new block takes the pool's lock, with
//! interrupts off, once in a hundred mappings or so. What is larger than [`LIMIT`] pages, or finds no chunk, goes the way of all other areas.
//!
//! # What is promised
//!
//! As for every area: when an unmap returns, no entry leads to the frames; a CPU may have a translation until the next purge. Linux
//! lets the caller free them at once all the same (`vm_unmap_ram` in mm/vmalloc.c). Here they are the caller's again for any other use
//! only after a purge that began later, and [`Vmalloc::map_ram`](super::Vmalloc::map_ram) is `unsafe` for that. A purge flushes what was
//! unmapped in all blocks, whether they are done or not.
//!
//! # The account
//!
//! Each page of a block is entered once: when it is unmapped, or when the block is closed and the page was never placed. The account is one
//! word, changed by addition only, so whoever unmaps needs no turn of waiting. Closing adds one more, so a block that a CPU still has is
//! never done. The marks and the stack of `lazy` tell the purger where accounts have changed (`account`).

pub(super) mod account;
mod map;
pub(super) mod open;
mod purge;
mod unmap;

/// The most pages of a mapping in a block, without its guard. Linux's `VMAP_MAX_ALLOC` on 64 bits (mm/vmalloc.c).
const LIMIT: u64 = 64;
