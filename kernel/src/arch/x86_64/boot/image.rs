//! Where the image is and what its sections are, from the linker's symbols.

use kspace_layout::{AddressError, KernelImage, PhysAddr, SectionKind, VirtAddr, VirtRange};

use super::present_address;

/// Where the image is executing now: during the first stage, its load address in physical memory.
pub fn present_start() -> u64 {
    present_address!("image_start")
}

/// The image as it will be at `start`, while it is still executing at its physical address.
///
/// # Errors
///
/// [`AddressError`] when the image would not fit at `start`.
pub fn at(start: VirtAddr) -> Result<KernelImage, AddressError> {
    let phys = PhysAddr::try_new(present_start())?;
    let range = |from: u64, to: u64| {
        VirtRange::try_new(
            start.checked_add(from - phys.as_u64())?,
            to.wrapping_sub(from),
        )
    };
    let whole = range(
        present_address!("image_start"),
        present_address!("image_end"),
    )?;
    Ok(KernelImage::try_new(whole, phys)?
        .with_section(
            SectionKind::Text,
            range(present_address!("_text"), present_address!("_etext"))?,
        )
        .with_section(
            SectionKind::Rodata,
            range(
                present_address!("__start_rodata"),
                present_address!("__end_rodata"),
            )?,
        )
        .with_section(
            SectionKind::Data,
            range(present_address!("_sdata"), present_address!("_edata"))?,
        )
        .with_section(
            SectionKind::InitText,
            range(
                present_address!("__init_begin"),
                present_address!("init_data_start"),
            )?,
        )
        .with_section(
            SectionKind::InitData,
            range(
                present_address!("init_data_start"),
                present_address!("__init_end"),
            )?,
        )
        .with_section(
            SectionKind::Bss,
            range(
                present_address!("__bss_start"),
                present_address!("__bss_stop"),
            )?,
        ))
}
