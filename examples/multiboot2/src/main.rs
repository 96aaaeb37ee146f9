//! A kernel in three hundred lines: it boots by Multiboot2 on tables just good enough, moves into an address space of its own, uses it, and
//! makes mistakes that the library explains.
//!
//! ```text
//!   link.ld       where the image is loaded, and where it runs
//!   entry.s       32 bits to 64, on the first tables; a page fault to Rust and back
//!   machine.rs    serial port, exit, invalidations: the machine, as far as it is needed
//!   main.rs       the address space: five steps, from the memory map to areas on demand
//! ```
//!
//! To begin a kernel of your own, copy the folder, choose your own addresses in `move_in`, and go on in `on_guarded_stack`. For several CPUs
//! implement `kspace::platform` yourself, and replace `kspace::one_cpu` by its parts: its documentation says by which.
//!
//! What it leaves out, to stay short: a check that the CPU has 64 bits and no-execute, a stack of their own for double faults (one that runs
//! over the guard resets the machine), interrupts, and other boot loaders than those of a PC's BIOS.

#![no_std]
#![no_main]

mod machine;

use core::fmt::Display;
use core::slice;

use kspace::areas::{DeviceCache, KernelStack, OwnedArea};
use kspace::fault::PageFault;
use kspace::one_cpu::{Boot, Device, Space};
use kspace::vmalloc::AreaRequest;
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_layout::{AreaKind, KernelImage, LayoutBuilder, PagingMode, SectionKind};
use kspace_layout::{PhysAddr, PhysRange, VirtAddr, VirtRange};
use kspace_paging::LinearMemory;
use machine::touch;
use multiboot2::BootInformation;
use spin::Once;

core::arch::global_asm!(include_str!("entry.s"));

/// The live address space, where the page-fault handler finds it.
static SPACE: Once<&'static Space> = Once::new();

/// Called by the entry code: in 64-bit mode, at the image's own address, on tables that map the first GiB there and where it lies.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(magic: u32, information: u32) -> ! {
    println!("a tiny kernel on kspace {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(magic, multiboot2::MAGIC, "not booted by Multiboot2");
    machine::catch_page_faults();
    // SAFETY: the loader's information lies in the first GiB, and is read before any frame is taken.
    let information = must(unsafe { BootInformation::load(information as *const _) });
    let space = SPACE.call_once(|| move_in(&information));
    // Until here the stack was part of the image. From now on it has a page below it that is never mapped.
    let stack = must(KernelStack::new(space.areas(), 64 << 10));
    // SAFETY: nobody else has the stack; and it is never freed, as this function does not end.
    unsafe { machine::go_on(stack.top().as_u64(), on_guarded_stack) }
}

/// The kernel proper: where one of your own goes on.
extern "C" fn on_guarded_stack() -> ! {
    let space = SPACE.get().expect("there is an address space");
    let _hpet = use_it(space);
    make_mistakes(space);
    println!("{}", must(space.verify()));
    println!("done");
    machine::exit(true)
}

/// Makes an address space and moves into it.
fn move_in(information: &BootInformation<'_>) -> &'static Space {
    // 1. What is RAM, and what of it is in use: all up to the image's end.
    let (image, limits) = (image(), machine::limits());
    let tag = information.memory_map_tag().expect("no memory map");
    let areas = tag.memory_areas().iter();
    let areas = areas.map(|a| FirmwareEntry::new(a.start_address(), a.size(), a.typ().val()));
    let map = MemoryMap::from_firmware(areas, limits.phys_bits(), |repair| println!("{repair}"));
    let mut map = must(map);
    must(map.reserve(PhysRange::new(PhysAddr::ZERO, image.phys().end_u64())));

    // 2. Where everything shall be: this kernel's own addresses. They could be anywhere in the upper half, in any order. The builder refuses
    //    what cannot work, and says why.
    let area = |start, bytes| VirtRange::new(VirtAddr::new(start), bytes);
    let layout = LayoutBuilder::new(PagingMode::FourLevel, map.ram_last())
        .built(AreaKind::DirectMap, area(0xffff_9000_0000_0000, 16 << 40))
        .built(AreaKind::Vmalloc, area(0xffff_b000_0000_0000, 1 << 40))
        .built(AreaKind::KernelImage, area(0xffff_ffff_c000_0000, 1 << 28))
        .image(image);
    let layout = must(layout.build());

    // 3. Page tables for that, in memory that the entry code's tables reach.
    let first_gib = PhysRange::new(PhysAddr::ZERO, 1 << 30);
    // SAFETY: the entry code has mapped it to itself. The map is the firmware's word, and all that is in use is reserved in it.
    let boot = unsafe {
        let reached = LinearMemory::new(first_gib, VirtAddr::ZERO);
        Boot::new(&layout, &map, limits, reached)
    };
    let root = must(boot.build());

    // 4. The move: code, stack and variables are in the image, which has the same address in both.
    // SAFETY: as just said; and from here on nobody follows a pointer to what was mapped to itself.
    unsafe { core::arch::asm!("mov cr3, {}", in(reg) root.as_u64(), options(nostack)) };

    // 5. What is left of RAM becomes the areas'.
    // SAFETY: the tables of step 3 are live, and nobody has changed them.
    must(unsafe { boot.adopt(root, machine::cpu()) })
}

/// The image and its sections, from the linker's symbols.
fn image() -> KernelImage {
    unsafe extern "C" {
        static load_address: u8;
        static text_start: u8;
        static rodata_start: u8;
        static data_start: u8;
        static bss_start: u8;
        static image_end: u8;
    }
    let at = |symbol: *const u8| VirtAddr::new(symbol as u64);
    let sections = [
        (SectionKind::Text, at(&raw const text_start)),
        (SectionKind::Rodata, at(&raw const rodata_start)),
        (SectionKind::Data, at(&raw const data_start)),
        (SectionKind::Bss, at(&raw const bss_start)),
    ];
    let phys = PhysAddr::new(&raw const load_address as u64);
    must(KernelImage::try_from_sections(
        phys,
        &sections,
        at(&raw const image_end),
    ))
}

/// The direct map, memory from anywhere in one piece, a device. The device is for keeps.
fn use_it(space: &'static Space) -> Device {
    println!("{}", space.layout().block());

    // Virtually contiguous memory. It is freed when the value goes.
    let request = AreaRequest::new(8 << 20).zeroed();
    let area = must(OwnedArea::allocate(space.areas(), &request));
    // SAFETY: the area is writable, zeroed, and ours alone.
    let bytes = unsafe { slice::from_raw_parts_mut(area.pointer().as_ptr(), 8 << 20) };
    bytes[(8 << 20) - 1] = 187;
    // The same byte through the direct map: two addresses, one frame.
    let frame = space.walker().translate(area.range().last());
    let alias = frame.and_then(|frame| space.pointer(frame, 1));
    // SAFETY: the direct map has all RAM, and nobody writes meanwhile.
    let alias = alias.map(|alias| unsafe { alias.read() });
    println!("vmalloc: {}, alias {alias:?}", area.range());

    // A device: the HPET of a PC. Its first register says who made it, and how long a tick is (IA-PC HPET specification 1.0a, 2.3.4).
    let (start, cache) = (PhysAddr::new(0xfed0_0000), DeviceCache::UncachedMinus);
    // SAFETY: reading these registers has no effect, and nothing else maps them.
    let hpet = must(unsafe { space.ioremap(start, 1024, cache) });
    // SAFETY: inside the device.
    let who = unsafe { hpet.pointer().cast::<u64>().read_volatile() };
    let (vendor, megahertz) = (who >> 16 & 0xffff, 1_000_000_000 / (who >> 32));
    println!(
        "ioremap: {}, HPET by {vendor:04x}, {megahertz} MHz",
        hpet.range()
    );
    hpet
}

/// What a page fault says when the library explains it.
fn make_mistakes(space: &'static Space) {
    let stack = must(KernelStack::new(space.areas(), 16 << 10));
    let area = must(OwnedArea::allocate(
        space.areas(),
        &AreaRequest::new(20_000),
    ));
    let freed = must(OwnedArea::allocate(space.areas(), &AreaRequest::new(1)));
    let start = freed.pointer().as_ptr();
    freed.free();
    // SAFETY: none of these is mapped writable, so nothing is written.
    unsafe {
        touch(area.range().end_u64() as *mut u8);
        touch((stack.bottom().as_u64() - 8) as *mut u8);
        touch(start);
        touch(kernel_main as *mut u8);
        touch(core::ptr::without_provenance_mut(8));
    }
}

/// Called by the entry code; when it returns, the instruction is passed over.
#[unsafe(no_mangle)]
extern "C" fn page_fault(error_code: u32, instruction: u64, address: u64) {
    let fault = PageFault::new(must(VirtAddr::try_new(address)), error_code);
    match SPACE.get() {
        Some(space) => println!("fault: {}", space.explain(fault)),
        None => println!("fault, before there was an address space: {fault:?}"),
    }
    let planned = instruction == touch as *const () as u64;
    assert!(planned, "by the instruction at {instruction:#x}");
}

/// The value; or the kernel ends and says why there is none.
fn must<T, E: Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
