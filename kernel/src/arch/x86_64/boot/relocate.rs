//! Moving the image: applying the relocations of a static PIE.
//!
//! The image is linked at one address, loaded at another, and finally runs at a third that KASLR draws. A relocation of type
//! `R_X86_64_RELATIVE` names a place that must hold an address inside the image; its addend is that address as linked. So the
//! same table can be applied any number of times, each time for a new slide, and the last one counts.

use super::present_address;

/// `Elf64_Rela` (ELF-64 object file format, "Relocation").
#[repr(C)]
struct Relocation {
    /// The place to write, as linked.
    offset: u64,
    /// The type in the low 32 bits.
    info: u64,
    /// The address as linked.
    addend: u64,
}

/// `R_X86_64_RELATIVE` (System V ABI, AMD64 supplement): place = load bias + addend.
const RELATIVE: u32 = 8;

/// Writes every pointer inside the image as if the image were linked `slide` bytes higher (wrapping: a load address is below
/// the link address).
///
/// A relocation of any other type would need a symbol table; the build has none, and one that appears stops the machine.
///
/// # Safety
///
/// The image must be writable where it is executing now, and nobody else may be reading pointers from it. The caller answers for
/// the code that runs next: from here on, every pointer in the image is one at the new place.
pub unsafe extern "C" fn relocate(slide: u64) {
    let mut entry = present_address!("relocations_start") as *const Relocation;
    let end = present_address!("relocations_end") as *const Relocation;
    // Offsets are link addresses; this difference turns them into addresses where the image is executing now.
    let here = present_address!("image_start");
    let linked = super::LINK_ADDRESS;
    while entry < end {
        // SAFETY: the linker script bounds the table with these two symbols, and its entries have this layout.
        let relocation = unsafe { &*entry };
        if relocation.info as u32 == RELATIVE {
            let place = relocation.offset.wrapping_sub(linked).wrapping_add(here) as *mut u64;
            // SAFETY: the linker made this entry for a pointer inside the image; the caller says that it is writable.
            unsafe { place.write_unaligned(relocation.addend.wrapping_add(slide)) };
        } else {
            loop {
                core::hint::spin_loop();
            }
        }
        // SAFETY: still inside the table or one past its end.
        entry = unsafe { entry.add(1) };
    }
}
