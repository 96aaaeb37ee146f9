//! The first stage: Rust at the load address, on the early tables.
//!
//! Reads what the loader left, decides (paging mode, layout), builds the kernel's tables and goes there. Anything that cannot
//! work ends here with a [`BootError`] on the console.

use kspace::direct_map;
use kspace::image::ImageMap;
use kspace_frames::{EarlyFrames, MemoryMap, Repair};
use kspace_layout::{
    AreaKind, AreaState, DEFAULT_IMAGE_START, FRAME_SIZE, Kaslr, KernelImage, Layout, PagingMode,
    PhysAddr, PhysRange, VirtAddr, X86_64, draw_image_virt,
};
use kspace_paging::{Access, Limits};

use super::error::BootError;
use super::handoff::{self, Handoff};
use super::{image, present_address, relocate, second_stage, switch};
use crate::acpi::{self, Processors, Topology};
use crate::address_space::{self, Plan};
use crate::arch::x86_64::cpu::{self, Features};
use crate::arch::x86_64::entropy::Entropy;
use crate::arch::x86_64::memory::{IDENTITY_END, Window};
use crate::arch::x86_64::{clock, console, idt, leave};
use crate::command_line::CommandLine;
use crate::memory::Ground;
use crate::start_info::{MAX_COMMAND_LINE, StartInfo};
use crate::{info, memory_report};

/// Called once by the entry code, with the image relocated to its load address.
pub extern "C" fn first_stage() -> ! {
    let (ticks, pointer) = (
        present_address!("entry_ticks"),
        present_address!("start_info_address"),
    );
    // SAFETY: the entry code stored both before it entered long mode, and nothing writes them again.
    let (entry_ticks, start_info) =
        unsafe { ((ticks as *const u64).read(), (pointer as *const u64).read()) };
    clock::start(entry_ticks);
    console::start();
    // SAFETY: the first stage runs on the early GDT, whose code segment the gates name.
    unsafe { idt::load_early() };
    info!("kspace version {} (x86_64)", env!("CARGO_PKG_VERSION"));
    // SAFETY: the early tables are in use until the first stage ends.
    let memory = unsafe { Window::identity() };
    match prepare(&memory, start_info) {
        Ok(destination) => go(&memory, destination),
        Err(error) => {
            info!("kspace: cannot boot: {error}");
            leave::leave(leave::Outcome::Failure)
        }
    }
}

/// Where the first stage goes.
struct Destination {
    mode: PagingMode,
    root: PhysAddr,
    image: KernelImage,
    stack_top: VirtAddr,
}

fn prepare(memory: &Window, start_info: u64) -> Result<Destination, BootError> {
    let info = StartInfo::read(memory, start_info)?;
    let command_line = read_command_line(memory, &info)?;
    let features = Features::read();
    // SAFETY: only write-back mappings exist so far.
    unsafe { cpu::prepare_paging(&features) };

    let present_image = image::at(DEFAULT_IMAGE_START)?;
    let mut memory_map = read_memory_map(
        memory,
        &info,
        &features,
        &command_line,
        present_image.phys(),
    )?;
    let mode = choose_mode(&features, &command_line);
    let layout = choose_layout(mode, &features, &command_line, &memory_map, present_image)?;

    let trampoline = keep_trampoline_page(&mut memory_map)?;
    let processors = acpi::processors(memory, info.rsdp()).unwrap_or_else(|problem| {
        info!("{problem}");
        Processors::NONE
    });
    let topology = read_topology(memory, &info, &command_line, &memory_map);
    let cpus = possible_cpus(&processors, &features);
    let ground = Ground::survey(&layout, &memory_map, &topology, cpus)?;
    memory_report::nodes(&ground.nodes, &ground.limits, &topology);
    // Table frames must be in reach of the early tables; so must the root, which CR3 takes in 32-bit mode.
    let window = PhysRange::new(PhysAddr::ZERO, IDENTITY_END);
    let frames = EarlyFrames::new(&memory_map, window);
    let limits = limits(&features, &command_line);
    let image = *layout.image().ok_or(BootError::Missing("kernel image"))?;
    let sections = ImageMap::try_new(&image)?;
    let plan = Plan::new(layout, memory_map, limits, cpu::local_apic(&features));
    report_direct_map(&address_space::direct_map_plan(&plan, &sections));
    // SAFETY: the loader's map is all there is to believe; the image, the one thing in use that must last, is reserved.
    let root = unsafe { address_space::build(&plan, &sections, memory, &frames)? };
    let stack_top =
        address_space::boot_stack_top(&layout).ok_or(BootError::Missing("boot stack"))?;
    handoff::leave(Handoff {
        command_line,
        plan,
        frames,
        root,
        features,
        processors,
        topology,
        ground,
        trampoline,
    });
    Ok(Destination {
        mode,
        root,
        image,
        stack_top,
    })
}

fn read_command_line(memory: &Window, info: &StartInfo) -> Result<CommandLine, BootError> {
    let mut buffer = [0; MAX_COMMAND_LINE];
    let bytes = info.command_line(memory, &mut buffer)?;
    info!("Command line: {}", bytes.escape_ascii());
    Ok(CommandLine::parse(bytes, |rejected| info!("{rejected}")))
}

fn read_memory_map(
    memory: &Window,
    info: &StartInfo,
    features: &Features,
    command_line: &CommandLine,
    image: PhysRange,
) -> Result<MemoryMap, BootError> {
    info!("BIOS-provided physical RAM map:");
    for entry in info.memory_map(memory) {
        info!("BIOS-e820: {entry}");
    }
    let phys_bits = u32::from(features.phys_bits);
    let mut differs = false;
    let mut map = MemoryMap::from_firmware(info.memory_map(memory), phys_bits, |repair| {
        // Trimming to whole pages is said, too, but every PC needs it: not worth the whole map once more.
        differs |= !matches!(repair, Repair::Trimmed { .. });
        info!("{repair}");
    })?;
    if differs {
        info!("modified physical RAM map:");
        map.entries().for_each(|entry| info!("modified: {entry}"));
    }
    withdraw_first_page(&mut map)?;
    map.reserve(image)?;
    if let Some(limit) = command_line.mem {
        let removed = map.limit(limit)?;
        info!(
            "mem={limit:#x}: {} KiB of RAM above it are not used",
            removed / 1024
        );
    }
    if !map.is_ram(image) {
        return Err(BootError::ImageOutsideRam(image));
    }
    Ok(map)
}

/// The first page is nobody's, as in Linux (`trim_bios_range`, arch/x86/kernel/setup.c): firmware keeps its own there, whatever its
/// map says, and a null pointer that is taken for an address hits nothing.
fn withdraw_first_page(map: &mut MemoryMap) -> Result<(), BootError> {
    let page = PhysRange::new(PhysAddr::ZERO, FRAME_SIZE);
    if map.is_ram(page) {
        let last = page.last();
        info!(
            "e820: update [mem {:#010x}-{last:#010x}] usable ==> reserved",
            page.start()
        );
        map.withdraw(page)?;
    }
    Ok(())
}

/// Which memory and CPUs are near to each other; without the firmware's word, or with `numa=off`, all are one node (Linux:
/// `x86_numa_init`, arch/x86/mm/numa.c).
fn read_topology(
    memory: &Window,
    info: &StartInfo,
    command_line: &CommandLine,
    memory_map: &MemoryMap,
) -> Topology {
    let topology = if command_line.numa_off {
        info!("NUMA turned off");
        Topology::ONE_NODE
    } else {
        acpi::topology(memory, info.rsdp(), |note| info!("{note}"))
    };
    if topology.affinities().is_empty() {
        if !command_line.numa_off {
            info!("No NUMA configuration found");
        }
        let last = memory_map.ram_last();
        info!(
            "Faking a node at [mem {:#018x}-{last:#018x}]",
            PhysAddr::ZERO
        );
    }
    topology
}

/// How many CPUs there can be: the one that runs, and the other processors that ACPI lists.
fn possible_cpus(processors: &Processors, features: &Features) -> usize {
    let listed = processors.apic_ids().iter();
    1 + listed.filter(|id| **id != features.initial_apic_id).count()
}

/// Reserves the highest whole page of RAM in the first MiB, page 0 excepted, where other CPUs can start; `None` when there is none.
fn keep_trampoline_page(map: &mut MemoryMap) -> Result<Option<PhysAddr>, BootError> {
    let low = PhysRange::new(PhysAddr::new(FRAME_SIZE), (1 << 20) - FRAME_SIZE);
    let free = map
        .free_from_top()
        .filter_map(|free| free.intersection(low)?.whole_pages());
    let Some(page) = free.map(|range| range.last().align_down(FRAME_SIZE)).next() else {
        return Ok(None);
    };
    map.reserve(PhysRange::new(page, FRAME_SIZE))?;
    Ok(Some(page))
}

fn choose_mode(features: &Features, command_line: &CommandLine) -> PagingMode {
    match (features.la57, command_line.no5lvl) {
        (true, false) => {
            info!("paging: 5-level (the CPU has LA57)");
            PagingMode::FiveLevel
        }
        (true, true) => {
            info!("paging: 4-level (the CPU has LA57; no5lvl)");
            PagingMode::FourLevel
        }
        (false, _) => {
            info!("paging: 4-level (the CPU has no LA57)");
            PagingMode::FourLevel
        }
    }
}

fn choose_layout(
    mode: PagingMode,
    features: &Features,
    command_line: &CommandLine,
    memory_map: &MemoryMap,
    image: KernelImage,
) -> Result<Layout, BootError> {
    let last_ram = memory_map.ram_last();
    if command_line.nokaslr {
        info!("KASLR: off (nokaslr)");
        return Ok(with_areas(
            X86_64::new(mode, last_ram).image(image).build()?,
        ));
    }
    let mut entropy = Entropy::new(features, digest(memory_map));
    let regions = Kaslr::new(mode, last_ram).draw(|| entropy.draw())?;
    let moved = draw_image_virt(image.virt().size(), || entropy.draw())?;
    let [direct_map, vmalloc, vmemmap] = regions.entropy;
    info!(
        "KASLR: entropy from {}: direct map {direct_map}, vmalloc {vmalloc}, vmemmap {vmemmap}, image {}",
        entropy.source(),
        moved.entropy
    );
    let image = image.moved_to(moved.start, image.phys().start())?;
    let layout = X86_64::new(mode, last_ram)
        .regions(regions.regions)
        .image(image)
        .build()?;
    Ok(with_areas(layout))
}

/// The layout with what this kernel has beside the areas that every kernel on it has.
fn with_areas(layout: Layout) -> Layout {
    layout.with_state(AreaKind::Vmalloc, AreaState::Built)
}

/// A number that differs between machines: all entries of the memory map, stirred (FNV-1a).
fn digest(memory_map: &MemoryMap) -> u64 {
    let fields = memory_map.entries().flat_map(|entry| {
        [
            entry.range().start().as_u64(),
            entry.range().last().as_u64(),
            u64::from(entry.kind().code()),
        ]
    });
    fields.fold(0xcbf2_9ce4_8422_2325, |hash, field| {
        (hash ^ field).wrapping_mul(0x0100_0000_01b3)
    })
}

fn limits(features: &Features, command_line: &CommandLine) -> Limits {
    let gigabyte_pages = features.gigabyte_pages && !command_line.nogbpages;
    if gigabyte_pages {
        info!("Using GB pages for direct mapping");
    }
    Limits::WIDEST
        .with_phys_bits(u32::from(features.phys_bits))
        .with_gigabyte_pages(gigabyte_pages)
}

fn report_direct_map(plan: &direct_map::Plan<'_>) {
    for run in plan.runs() {
        let (start, last) = (run.phys.start(), run.phys.last());
        let alias = if run.access == Access::ReadOnly {
            ", read-only"
        } else {
            ""
        };
        info!(
            "direct map: [mem {start:#018x}-{last:#018x}] page {}{alias}",
            run.page
        );
    }
}

/// Leaves the load address.
fn go(memory: &Window, destination: Destination) -> ! {
    let early_root = match destination.mode {
        PagingMode::FiveLevel => {
            let (pml5, pml4) = (
                present_address!("early_pml5"),
                present_address!("early_pml4"),
            );
            // SAFETY: the early PML5 is a page of `.init.data` that nothing uses yet.
            unsafe { (pml5 as *mut u64).write(pml4 | 0x3) };
            // SAFETY: the mode was chosen because CPUID reports LA57; code, stack and GDT are in the image, below 4 GiB.
            unsafe { switch::enable_five_levels(pml5) };
            pml5
        }
        _ => present_address!("early_pml4"),
    };
    let image_virt = destination.image.virt().start();
    let slot = destination
        .mode
        .index(image_virt, destination.mode.levels())
        * 8;
    if let Some(entry) = memory.pointer(destination.root, 4096) {
        // The image appears at its final address in the early tables, too: both places stay executable until the jump.
        // SAFETY: the slot is within both root tables, and its early entry is empty: the early tables map only slot 0.
        unsafe {
            let entry = entry.add(slot as usize).cast::<u64>().read();
            ((early_root + slot) as *mut u64).write(entry);
        }
    }
    let distance = image_virt.as_u64().wrapping_sub(image::present_start());
    let second_stage = present_address!(fn second_stage::second_stage).wrapping_add(distance);
    let enter = present_address!(fn switch::enter_final_address_space).wrapping_add(distance);
    // SAFETY: the image is still writable here through the early tables. From here to the jump only this function runs, and it
    // follows no pointer but `enter`.
    unsafe { relocate::relocate(image_virt.as_u64().wrapping_sub(super::LINK_ADDRESS)) };
    // SAFETY: this is the function's final address, and this its type.
    let enter = unsafe {
        core::mem::transmute::<*const (), unsafe extern "C" fn(u64, u64, u64) -> !>(
            enter as *const (),
        )
    };
    // SAFETY: both tables map the image at its final address, and the new ones the boot stack.
    unsafe {
        enter(
            destination.root.as_u64(),
            destination.stack_top.as_u64(),
            second_stage,
        )
    }
}
