//! Addresses, paging modes, areas and layouts of the x86 kernel address space: pure arithmetic, no memory, no CPU.

#![no_std]
#![forbid(unsafe_code)]

mod address;
mod mode;
mod page_size;
mod range;

pub use address::{
    AddressError, FRAME_SIZE, PHYS_ADDR_BITS, Pfn, PhysAddr, VIRT_ADDR_BITS, VirtAddr,
};
pub use mode::PagingMode;
pub use page_size::PageSize;
pub use range::{PhysRange, VirtRange};
