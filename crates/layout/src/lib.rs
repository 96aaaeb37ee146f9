#![doc = include_str!("../docs/crate.md")]
#![doc = include_str!("../docs/pictures.md")]
#![no_std]
#![forbid(unsafe_code)]

mod address;
mod area;
mod block;
mod builder;
mod byte_size;
mod cpu_entry;
mod error;
mod fixmap;
mod i386;
mod image;
#[cfg(feature = "x86_64")]
mod interop;
mod kaslr;
mod layout;
mod long_mode;
mod mode;
mod page_size;
mod picture;
mod range;

pub use address::{
    AddressError, FRAME_SIZE, PHYS_ADDR_BITS, Pfn, PhysAddr, VIRT_ADDR_BITS, VirtAddr,
};
pub use area::{Area, AreaKind, AreaState, CustomArea};
pub use block::{Block, Row, RowKind};
pub use builder::{LINUX_FRAME_DATA, LayoutBuilder};
pub use byte_size::ByteSize;
pub use cpu_entry::{CpuEntryArea, EntryPart, EntryPlace, EntryStack};
pub use error::{I386Error, LayoutError, TranslateError};
pub use fixmap::{Fixmap, FixmapSlot};
pub use i386::{I386, Split};
pub use image::{KernelImage, Section, SectionKind};
pub use kaslr::{
    Entropy, ImagePhysDraw, ImageVirtDraw, Kaslr, KaslrError, RegionDraw, draw_image_phys,
    draw_image_virt,
};
pub use layout::{Hole, Layout, MAX_AREAS, Place, Places};
pub use long_mode::{DEFAULT_IMAGE_START, IMAGE_WINDOW, Regions, X86_64};
pub use mode::PagingMode;
pub use page_size::PageSize;
pub use picture::Picture;
pub use range::{PhysRange, VirtRange};
