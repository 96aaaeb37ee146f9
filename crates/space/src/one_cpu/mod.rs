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
//! Here in memory of the host, which takes the place of the machine's. A kernel loads CR3 with the root, and calls [`Boot::adopt`].
//!
//! ```
//! use kspace::areas::OwnedArea;
//! use kspace::fault::PageFault;
//! use kspace::one_cpu::{Boot, OneCpu};
//! use kspace::platform::TlbFeatures;
//! use kspace::vmalloc::AreaRequest;
//! use kspace_frames::{FirmwareEntry, MemoryMap};
//! use kspace_layout::*;
//! use kspace_paging::{Limits, LinearMemory};
//! # use std::alloc::alloc_zeroed;
//!
//! // What is RAM, and what of it is in use: all up to the end of the image.
//! const RAM: u64 = 16 << 20;
//! let mut map = MemoryMap::from_firmware([FirmwareEntry::new(0, RAM, 1)], 40, |repair| println!("{repair}"))?;
//! map.reserve(PhysRange::new(PhysAddr::ZERO, 3 << 20))?;
//!
//! // Where everything shall be.
//! let sections = [
//!     (SectionKind::Text, VirtAddr::new(0xffff_ffff_c020_0000)),
//!     (SectionKind::Data, VirtAddr::new(0xffff_ffff_c028_0000)),
//! ];
//! let end = VirtAddr::new(0xffff_ffff_c030_0000);
//! let area = |start, bytes| VirtRange::new(VirtAddr::new(start), bytes);
//! let layout = LayoutBuilder::new(PagingMode::FourLevel, map.ram_last())
//!     .built(AreaKind::DirectMap, area(0xffff_9000_0000_0000, 16 << 40))
//!     .built(AreaKind::Vmalloc, area(0xffff_b000_0000_0000, 1 << 40))
//!     .built(AreaKind::KernelImage, area(0xffff_ffff_c000_0000, 1 << 28))
//!     .image(KernelImage::try_from_sections(PhysAddr::new(2 << 20), &sections, end)?)
//!     .build()?;
//!
//! # let bytes = std::alloc::Layout::from_size_align(RAM as usize, 4096)?;
//! # let host = VirtAddr::new(unsafe { alloc_zeroed(bytes) }.expose_provenance() as u64);
//! // SAFETY: all of it is there, and stays.
//! let memory = unsafe { LinearMemory::new(PhysRange::new(PhysAddr::ZERO, RAM), host) };
//! // SAFETY: the map is true.
//! let boot = unsafe { Boot::new(&layout, &map, Limits::WIDEST, memory) };
//! let root = boot.build()?;
//! // SAFETY: no CPU uses these tables, so there is nothing to flush.
//! let cpu = unsafe { OneCpu::new(TlbFeatures::plain(layout.mode()), |_| (), |complaint| println!("{complaint}")) };
//! // SAFETY: built just before.
//! let space = unsafe { boot.adopt_through(memory, root, cpu)? };
//!
//! let buffer = OwnedArea::allocate(space.areas(), &AreaRequest::new(1 << 20).zeroed())?;
//! let behind = VirtAddr::new(buffer.range().end_u64());
//! let explanation = space.explain(PageFault::new(behind, 2)).to_string();
//! assert!(explanation.starts_with("write to ffffb00000100000: not mapped, guard page of the vmalloc area ffffb00000000000-"));
//! space.verify()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
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
