//! From a loader's 32-bit mode to the kernel's own address space, in three steps:
//!
//! 1. [`entry`]: 32-bit code wherever the loader put the image; ends in 64-bit mode on the early tables, which map the first
//!    4 GiB to themselves, with the image relocated to its load address.
//! 2. [`first_stage`]: Rust at the load address. Reads what the loader left, draws a layout, builds the kernel's tables,
//!    turns on 5-level paging if that was chosen, relocates the image to its final address and jumps there ([`switch`]).
//! 3. [`second_stage`]: Rust at the final address, on the kernel's tables and the guarded boot stack. Loads the descriptor
//!    tables, checks every mapping, prints the layout.
//!
//! The first stage leaves nothing but plain values for the second (`Handoff`): a pointer made in the first would still point
//! at the load address, where nothing is mapped any more.

mod entry;
mod error;
mod first_stage;
mod handoff;
mod image;
mod relocate;
mod second_stage;
mod switch;

pub use handoff::{Handoff, taken as handoff};

/// Where the image is linked (`image_link_address` in image.ld): Linux's default place for the kernel text,
/// `__START_KERNEL_map` + 16 MiB.
const LINK_ADDRESS: u64 = 0xffff_ffff_8100_0000;

/// The address of a linker symbol, or of a function, where the image is executing now.
///
/// `&raw const symbol` and `function as u64` may load the address from a table of pointers, which says where the image was last
/// relocated to; this counts from the instruction itself, and so is right before, between and after relocations.
macro_rules! present_address {
    ($symbol:literal) => {
        present_address!(@lea concat!("lea {}, [rip + ", $symbol, "]"),)
    };
    (fn $function:path) => {
        present_address!(@lea "lea {}, [rip + {}]", sym $function,)
    };
    (@lea $instruction:expr, $($operand:tt)*) => {{
        let address: u64;
        // SAFETY: the instruction only computes an address.
        unsafe {
            core::arch::asm!(
                $instruction,
                out(reg) address,
                $($operand)*
                options(nomem, nostack, preserves_flags, pure),
            );
        }
        address
    }};
}
use present_address;
