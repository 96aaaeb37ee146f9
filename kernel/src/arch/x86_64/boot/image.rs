//! Where the image is and what its sections are, from the linker's symbols.

use kspace_layout::{AddressError, KernelImage, PhysAddr, SectionKind, VirtAddr, VirtRange};

unsafe extern "C" {
    static image_start: [u8; 0];
    static image_end: [u8; 0];
    static _text: [u8; 0];
    static _etext: [u8; 0];
    static __start_rodata: [u8; 0];
    static __end_rodata: [u8; 0];
    static _sdata: [u8; 0];
    static _edata: [u8; 0];
    static __init_begin: [u8; 0];
    static init_data_start: [u8; 0];
    static __init_end: [u8; 0];
    static __bss_start: [u8; 0];
    static __bss_stop: [u8; 0];
}

/// The address of a linker symbol, where the image is executing now.
macro_rules! symbol {
    ($name:ident) => {
        (&raw const $name) as u64
    };
}

/// Where the image is executing now: during the first stage, its load address in physical memory.
pub fn present_start() -> u64 {
    symbol!(image_start)
}

/// The image as it will be at `start`, while it is still executing at its physical address.
///
/// # Errors
///
/// [`AddressError`] when the image would not fit at `start`.
pub fn at(start: VirtAddr) -> Result<KernelImage, AddressError> {
    let phys = PhysAddr::try_new(present_start())?;
    let range = |from: u64, to: u64| {
        VirtRange::try_new(start.checked_add(from - phys.as_u64())?, to.wrapping_sub(from))
    };
    let whole = range(symbol!(image_start), symbol!(image_end))?;
    Ok(KernelImage::try_new(whole, phys)?
        .with_section(SectionKind::Text, range(symbol!(_text), symbol!(_etext))?)
        .with_section(SectionKind::Rodata, range(symbol!(__start_rodata), symbol!(__end_rodata))?)
        .with_section(SectionKind::Data, range(symbol!(_sdata), symbol!(_edata))?)
        .with_section(SectionKind::InitText, range(symbol!(__init_begin), symbol!(init_data_start))?)
        .with_section(SectionKind::InitData, range(symbol!(init_data_start), symbol!(__init_end))?)
        .with_section(SectionKind::Bss, range(symbol!(__bss_start), symbol!(__bss_stop))?))
}
