//! A kernel's own address space on x86: the direct map, the kernel image, the areas that are mapped on demand, what is checked about
//! them, and what a fault in them means.
//!
//! ```text
//!   MemoryMap --> direct_map::plan --> direct_map::build --.
//!   Layout ----> image::ImageMap ----> image::build -------+--> page tables --> verify: are they what layout and map say?
//!   Nodes -----> vmemmap::arrange ---> vmemmap::build -----+                    fault: why did this access fail?
//!                                                          |
//!   areas (vmap, ioremap, stacks, code) --> vmalloc -------'    shootdown: every CPU forgets what was taken out
//!      |                                      '-- ranges: which addresses are free
//!      '-- permissions: other rights, another memory type;  cache_types: which memory types are in use
//! ```
//!
//! Where to begin: a kernel with one CPU finds all of this put together in [`one_cpu`], with an example. A kernel with several implements
//! the traits of [`platform`], and puts it together itself, as [`one_cpu`]'s source does. Afterwards most need only [`areas`] and [`fault`].
//!
//! The crate decides *what* is mapped; how an entry looks is [`kspace_paging`]'s business, and where areas lie
//! [`kspace_layout`]'s. It has no heap: all its books are in frames that it is given.

#![no_std]

pub mod areas;
pub mod cache_types;
pub mod cpu_entry;
pub mod direct_map;
pub mod fault;
pub mod fixmap;
mod held_frames;
pub mod hot_add;
pub mod image;
pub mod kmap;
pub mod one_cpu;
mod page_source;
pub mod permissions;
pub mod platform;
pub mod ranges;
pub mod shootdown;
mod span_map;
mod table_count;
mod table_frames;
pub mod text_patch;
pub mod user;
pub mod verify;
pub mod vmalloc;
pub mod vmemmap;
mod words;

pub use page_source::PageSource;
pub use table_frames::TableFrames;
