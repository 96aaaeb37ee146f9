//! Faults explained: one line each, word for word.

mod machine;

use kspace::fault::{Cause, PageFault, PageTables, explain, explain_not_canonical};
use kspace_layout::{
    AreaKind, AreaState, CustomArea, EntryPart, EntryStack, Fixmap, FixmapSlot, LayoutBuilder,
    PageSize, PagingMode, PhysAddr, VirtAddr, VirtRange,
};
use kspace_paging::access::error_code::{FETCH, PRESENT, RESERVED, USER, WRITE};
use kspace_paging::{Access, CacheType, Controls, Intent, Limits, Operation, Protection, Refusal};
use machine::{GIB, MIB, Machine, layout, memory_map};

/// Linux's addresses of 4-level paging.
const TEXT: u64 = 0xffff_ffff_8100_0000;
const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
const CPU_ENTRY: u64 = 0xffff_fe00_0000_0000;

/// The explanation of a fault at `address`, on the layout alone.
fn check(address: u64, error_code: u32, expected: &str) {
    let fault = PageFault {
        address: VirtAddr::new(address),
        error_code,
    };
    let text = explain(&layout(PagingMode::FourLevel), &memory_map(), fault, None).to_string();
    assert_eq!(text, expected);
}

#[test]
fn kernel_image() {
    check(
        TEXT + 0x1068,
        PRESENT | WRITE,
        "write to ffffffff81001068: read-only, kernel text, 4.1 KiB into .text",
    );
    check(
        TEXT + 0x30_0000,
        PRESENT | WRITE,
        "write to ffffffff81300000: read-only, kernel constants, the start of .rodata",
    );
    check(
        TEXT + 0x38_2010,
        PRESENT | FETCH,
        "execution of ffffffff81382010: not executable, kernel data, 16 bytes into .data",
    );
    check(
        TEXT + 0x38_5345,
        PRESENT | FETCH,
        "execution of ffffffff81385345: not executable, kernel data, 4 KiB into .bss",
    );
    check(
        TEXT + 0x38_1000,
        0,
        "read of ffffffff81381000: not mapped, kernel image, between .rodata and .data",
    );
    check(
        TEXT + 0x40_5800,
        WRITE,
        "write to ffffffff81405800: not mapped, 1 byte behind the end of the kernel image",
    );
    check(
        TEXT - 1,
        0,
        "read of ffffffff80ffffff: not mapped, below the kernel image, in the area kept for it",
    );
    check(
        TEXT + 0x1068,
        PRESENT | USER,
        "user read of ffffffff81001068: not for user mode, kernel text, 4.1 KiB into .text",
    );
}

#[test]
fn direct_map() {
    check(
        DIRECT_MAP + 0x100_1068,
        PRESENT | WRITE,
        "write to ffff888001001068: read-only, direct map of physical 0000000001001068, where .text lies",
    );
    check(
        DIRECT_MAP + 64 * MIB,
        PRESENT | FETCH,
        "execution of ffff888004000000: not executable, direct map of physical 0000000004000000",
    );
    check(
        DIRECT_MAP + 512 * MIB,
        0,
        "read of ffff888020000000: not mapped, direct map, but physical 0000000020000000 is not RAM, it is in no entry of \
         the memory map",
    );
    check(
        DIRECT_MAP + 1008 * MIB,
        0,
        "read of ffff88803f000000: not mapped, direct map, but physical 000000003f000000 is not RAM, it is ACPI data",
    );
    check(
        DIRECT_MAP + 6 * GIB,
        WRITE,
        "write to ffff888180000000: not mapped, direct map, but physical 0000000180000000 is behind the end of RAM, \
         000000017fffffff",
    );
    check(
        DIRECT_MAP + 0xb_8000,
        PRESENT | FETCH,
        "execution of ffff8880000b8000: not executable, direct map of physical 00000000000b8000",
    );
}

#[test]
fn cpu_entry_area() {
    let area = layout(PagingMode::FourLevel)
        .cpu_entry()
        .expect("x86-64 has one");
    let guard = area
        .guard(0, EntryPart::Stack(EntryStack::DoubleFault))
        .expect("it has one");
    check(
        guard.last().as_u64() - 7,
        WRITE,
        "write to fffffe0000005ff8: not mapped, guard page of CPU 0's #DF stack",
    );
    check(
        CPU_ENTRY + 8,
        PRESENT | WRITE,
        "write to fffffe0000000008: read-only, the IDT",
    );
    check(
        CPU_ENTRY + 0x1010,
        PRESENT | WRITE,
        "write to fffffe0000001010: read-only, CPU 0's GDT, 16 bytes into it",
    );
    let top = area.top_guard(3).expect("CPU 3 fits").start().as_u64();
    check(
        top,
        0,
        "read of fffffe0000058000: not mapped, guard page above CPU 3's boot stack",
    );
}

#[test]
fn user_half() {
    check(0, 0, "read of 0000000000000000: not mapped, null pointer");
    check(
        0x18,
        WRITE,
        "write to 0000000000000018: not mapped, null pointer plus 24 bytes",
    );
    check(
        0x40_0000,
        FETCH,
        "execution of 0000000000400000: not mapped, 4 MiB into user",
    );
    check(
        0x40_0000,
        PRESENT,
        "read of 0000000000400000: user page, closed to the kernel by SMAP, 4 MiB into user",
    );
    check(
        0x40_0000,
        PRESENT | FETCH,
        "execution of 0000000000400000: user page, which the kernel may not execute (SMEP), 4 MiB into user",
    );
    check(
        0x40_0000,
        PRESENT | USER | WRITE,
        "user write to 0000000000400000: read-only, 4 MiB into user",
    );
}

#[test]
fn reserved_areas_and_holes() {
    check(
        0xffff_c900_0000_1000,
        0,
        "read of ffffc90000001000: not mapped, 4 KiB into vmalloc, a reserved area in which nothing is built",
    );
    check(
        0xffff_c880_0000_0000,
        0,
        "read of ffffc88000000000: not mapped, the hole between direct map and vmalloc",
    );
    check(
        0xffff_ffff_ffff_fff8,
        WRITE,
        "write to fffffffffffffff8: not mapped, the hole above vsyscall",
    );
    let slot = Fixmap
        .address(FixmapSlot::LocalApic)
        .expect("a slot")
        .as_u64();
    check(
        slot + 0xb0,
        WRITE,
        "write to ffffffffff5fd0b0: not mapped, slot 514 (local APIC) of the fixmap",
    );
}

#[test]
fn a_reserved_area_says_what_it_is_for_and_a_built_one_need_not() {
    let layout = layout(PagingMode::FourLevel);
    let purpose = |address| {
        let fault = PageFault {
            address: VirtAddr::new(address),
            error_code: 0,
        };
        explain(&layout, &memory_map(), fault, None).purpose()
    };
    assert_eq!(
        purpose(0xffff_ec00_0000_0000),
        Some(AreaKind::KasanShadow.purpose())
    );
    assert_eq!(purpose(TEXT), None);
    assert_eq!(purpose(0xffff_c880_0000_0000), None);
}

#[test]
fn damaged_tables_keys_and_shadow_stacks() {
    check(
        TEXT,
        PRESENT | RESERVED,
        "read of ffffffff81000000: damaged page tables (a reserved bit is set), kernel text, the start of .text",
    );
    check(
        0x40_0000,
        PRESENT | USER | 1 << 5,
        "user read of 0000000000400000: forbidden by a protection key, 4 MiB into user",
    );
    check(
        0x40_0000,
        PRESENT | USER | WRITE | 1 << 6,
        "user write to 0000000000400000: wrong kind of page for a shadow-stack access, 4 MiB into user",
    );
    check(
        TEXT,
        PRESENT,
        "read of ffffffff81000000: present, and the error code does not say what is wrong, kernel text, the start of .text",
    );
}

#[test]
fn addresses_that_the_mode_does_not_have() {
    let four = layout(PagingMode::FourLevel);
    let explanation = explain_not_canonical(&four, 0x0123_4567_89ab_cdef);
    assert_eq!(
        explanation.to_string(),
        "access to 0123456789abcdef: not canonical, not an address of 4-level paging"
    );
    assert_eq!(explanation.cause(), Cause::NotCanonical);
    check(
        0xff11_0000_0000_0000,
        0,
        "read of ff11000000000000: not mapped, not an address of 4-level paging",
    );
}

#[test]
fn areas_of_another_kernel_are_called_by_their_own_names() {
    static PAGE_CACHE: CustomArea = CustomArea::new("page cache", "Files that were read before.");
    let kind = AreaKind::Custom(&PAGE_CACHE);
    let range = VirtRange::new(VirtAddr::new(0xffff_9000_0000_0000), 1 << 40);
    let layout = LayoutBuilder::new(PagingMode::FourLevel, PhysAddr::new(GIB - 1))
        .area(kind, range, AreaState::Reserved)
        .build()
        .expect("a sound layout");
    let fault = PageFault {
        address: VirtAddr::new(0xffff_9000_0020_0000),
        error_code: 0,
    };
    let explanation = explain(&layout, &memory_map(), fault, None);
    assert_eq!(
        explanation.to_string(),
        "read of ffff900000200000: not mapped, 2 MiB into page cache, a reserved area in which nothing is built"
    );
    assert_eq!(explanation.purpose(), Some("Files that were read before."));
}

/// Every kind of access to every kind of page: the error code that the walker predicts must be explained by the very
/// cause that the walker found.
#[test]
fn the_cause_agrees_with_the_walker_for_every_access() {
    let machine = Machine::new(PagingMode::FourLevel, Limits::WIDEST);
    let frames = machine.frames();
    let editor = machine.editor(&frames);
    machine.build(&editor);
    let user = VirtRange::new(VirtAddr::new(0x40_0000), 4096);
    let protection = Protection::user(Access::ReadOnly).with_cache(CacheType::WriteBack);
    editor
        .map(user, PhysAddr::new(64 * MIB), protection, PageSize::Size4K)
        .expect("a user page");
    let addresses = [
        TEXT,
        TEXT + 0x30_0000,
        TEXT + 0x38_2000,
        DIRECT_MAP,
        CPU_ENTRY,
        0x40_0000,
        0x50_0000,
    ];
    let operations = [Operation::Read, Operation::Write, Operation::Fetch];
    let mut faults = 0;
    for (address, operation) in addresses.iter().flat_map(|a| operations.map(|o| (*a, o))) {
        for intent in [Intent::kernel(operation), Intent::user(operation)] {
            let walk = machine.walker(editor.root()).walk(VirtAddr::new(address));
            let Err(Refusal::Fault(fault)) = walk.access(intent, Controls::KERNEL) else {
                continue;
            };
            faults += 1;
            let error_code = fault.error_code.expect("a page fault");
            let page_fault = PageFault {
                address: fault.address,
                error_code,
            };
            assert_eq!(page_fault.intent(), intent);
            let explained = explain(&machine.layout, &machine.map, page_fault, Some(&walk)).cause();
            use kspace_paging::FaultCause;
            let agrees = match fault.cause {
                FaultCause::NotPresent => explained == Cause::NotMapped,
                FaultCause::Write => explained == Cause::ReadOnly,
                FaultCause::Fetch => explained == Cause::NotExecutable,
                FaultCause::User => explained == Cause::KernelOnly,
                FaultCause::Smep => explained == Cause::Smep,
                // A write that SMAP and the page both forbid: the error code is the same, and read-only is the lasting
                // one.
                FaultCause::Smap => matches!(explained, Cause::Smap | Cause::ReadOnly),
                FaultCause::ReservedBits(_) | FaultCause::NotCanonical => false,
            };
            assert!(agrees, "{fault}: explained as {explained}");
        }
    }
    assert_eq!(faults, 33);
}

#[test]
fn page_tables_in_words() {
    let machine = Machine::new(PagingMode::FourLevel, Limits::WIDEST);
    let frames = machine.frames();
    let editor = machine.editor(&frames);
    machine.build(&editor);
    let walker = machine.walker(editor.root());
    let say = |address: u64, intent| {
        let walk = walker.walk(VirtAddr::new(address));
        PageTables {
            walk: &walk,
            intent,
        }
        .to_string()
    };
    assert_eq!(
        say(TEXT + 0x20_1068, Some(Intent::kernel(Operation::Write))),
        "page tables: 4k page, r-x supervisor global write-back, physical 0000000001201068"
    );
    assert_eq!(
        say(TEXT + 0x20_1068, Some(Intent::kernel(Operation::Read))),
        "page tables: 4k page, r-x supervisor global write-back, physical 0000000001201068; they allow the access now, so \
         the CPU used an older translation: a flush is missing"
    );
    let root = editor.root().as_u64();
    assert_eq!(
        say(0x40_0000, None),
        format!(
            "page tables: not present at level 4, where the entry at physical {root:016x} is 0000000000000000"
        )
    );
    assert_eq!(
        say(0xff11_0000_0000_0000, None),
        "page tables: not walked, the address is not one of this mode"
    );
}
