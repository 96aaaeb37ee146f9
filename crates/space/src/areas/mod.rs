//! What is mapped on demand, as values that free themselves. [`vmalloc`](crate::vmalloc) knows only areas; here is what they are for.
//!
//! | value | Linux | frames | rights |
//! |---|---|---|---|
//! | [`OwnedArea`] | `vmalloc`, `vzalloc`, `vrealloc`, `vfree` | its own | as asked for, never writable and executable |
//! | [`Mapping`] | `vmap`, `vm_map_ram` | given blocks | never executable |
//! | [`IoMemory`] | `ioremap` and its variants | a device's | writable, cache type as asked for |
//! | [`KernelStack`] | `CONFIG_VMAP_STACK` | its own | writable |
//! | [`Code`] | `execmem_alloc` | its own | written at another place; then sealed, and only then executable |
//!
//! All are made of a [`Vmalloc`](crate::vmalloc::Vmalloc), which a kernel has one of; [`one_cpu`](crate::one_cpu) shows where it comes from.
//! What a fault in one of them means, [`fault`](crate::fault) says.
//!
//! [`VmallocInfo`] lists them all. [`OwnedArea::remap`] and [`IoMemory::remap`] map them in a [user space](crate::user), too.
//!
//! Every area ends at a page that is never mapped. The raw forms are [`Vmalloc`](crate::vmalloc::Vmalloc)'s own: `allocate`, `map`, `free`; `map_ram`,
//! `unmap_ram`.

mod executable;
mod ioremap;
mod owned;
mod pointer;
mod remap;
mod stack;
mod vmallocinfo;
mod vmap;

pub use executable::{Code, CodeError};
pub use ioremap::{DeviceCache, IoError, IoMemory, device_pages};
pub use owned::OwnedArea;
pub use remap::{RemapError, remap};
pub use stack::KernelStack;
pub use vmallocinfo::{Addresses, VmallocInfo};
pub use vmap::{MapError, Mapping};
