//! Everything that a kernel with one CPU needs, ready made: it fills in two functions and has direct map, image, areas on demand, and
//! faults that are explained. What outgrows it replaces the parts one by one.
//!
//! ```text
//!   on a boot loader's tables                           on its own
//!
//!   Boot::new (layout, memory map)                      Boot::adopt ----> &'static Space
//!     '--> Boot::build: image, direct map ---> CR3 ------'                  areas      vmalloc, stacks, code
//!                                                                           ioremap    devices
//!                                                                           explain    what a fault means
//!                                                                           verify     live tables against layout
//!
//!   part          instead of it, in a kernel with several CPUs
//!   OneCpu        its own Cpu, Interrupts and Tlb (platform)
//!   AllFrames     zones (vmalloc::AreaZones)
//!   Boot, Space   its own statics, and the same few calls to image, direct_map, Editor and Vmalloc
//! ```
//!
//! `examples/multiboot2` in the repository is a kernel on it, from its first instruction on.

mod bring_up;
mod error;
mod frames;
mod platform;
mod space;

pub use bring_up::Boot;
pub use error::Error;
pub use frames::AllFrames;
pub use platform::{OneCpu, OneCpuOff};
pub use space::{Areas, Device, OneCpuKernel, Space};
