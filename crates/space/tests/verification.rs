//! The verification: passes what is right, and finds every single thing that is wrong.

mod machine;

use std::sync::atomic::Ordering;

use kspace::verify::{Aspect, Difference, verify, verify_block};
use kspace_layout::{
    AreaKind, AreaState, EntryPart, EntryStack, PageSize, PagingMode, PhysAddr, VirtAddr, VirtRange,
};
use kspace_paging::{Access, FrameSource, Limits, Protection, Walker};
use kspace_sim::{SimFrames, SimMemory};
use machine::{GIB, IMAGE_VIRT, MIB, Machine, SimEditor};
use proptest::prelude::*;

const MODES: [PagingMode; 2] = [PagingMode::FourLevel, PagingMode::FiveLevel];

#[test]
fn what_was_built_is_what_the_layout_says() {
    for mode in MODES {
        for gigabyte in [true, false] {
            let machine = Machine::new(mode, Limits::WIDEST.with_gigabyte_pages(gigabyte));
            let frames = machine.frames();
            let editor = machine.editor(&frames);
            machine.build(&editor);
            let verified = verify(&machine.walker(editor.root()), &machine.claims())
                .unwrap_or_else(|difference| panic!("{mode}: {difference}"));
            assert_eq!(verified.areas, 4);
            let pages = pages_in(&machine.walker(editor.root()));
            assert_eq!(verified.pages, pages);
            let places = machine.layout.places().count() as u64;
            assert_eq!(verified.areas + verified.reserved + verified.holes, places);
        }
    }
}

/// Leaf entries, counted one walk at a time.
fn pages_in(walker: &Walker<'_, SimMemory>) -> u64 {
    let upper = walker.mode().upper_half_start().expect("64 bits");
    let everything = VirtRange::try_from_bounds(upper, VirtAddr::LAST).expect("a half");
    walker
        .runs(everything)
        .map(|run| run.expect("readable"))
        .map(|run| run.virt.size() / run.page.bytes())
        .sum()
}

/// The row of .data was held to be wrong there, because every page of such a machine is executable.
#[test]
fn a_machine_without_no_execute_is_no_difference() {
    for mode in MODES {
        let machine = Machine::new(mode, Limits::WIDEST.with_no_execute(false));
        let frames = machine.frames();
        let editor = machine.editor(&frames);
        machine.build(&editor);
        let verified = verify(&machine.walker(editor.root()), &machine.claims())
            .unwrap_or_else(|difference| panic!("{mode}: {difference}"));
        assert!(!verified.no_execute);
    }
}

#[test]
fn the_report_is_one_line() {
    let machine = Machine::new(PagingMode::FourLevel, Limits::WIDEST);
    let frames = machine.frames();
    let editor = machine.editor(&frames);
    machine.build(&editor);
    let verified = verify(&machine.walker(editor.root()), &machine.claims()).expect("as built");
    assert_eq!(
        verified.to_string(),
        format!(
            "verify: {} pages in {} runs of 4 areas are as the layout says, 11 reserved areas and {} holes are empty, \
             no page is writable and executable, {} rows of the block are true",
            verified.pages, verified.runs, verified.holes, verified.rows
        )
    );
}

/// Builds, lets `spoil` change something, and returns the difference found.
fn spoiled(spoil: impl FnOnce(&Machine, &SimEditor<'_>, &SimFrames<'_>)) -> Difference {
    let machine = Machine::new(PagingMode::FourLevel, Limits::WIDEST);
    let frames = machine.frames();
    let editor = machine.editor(&frames);
    machine.build(&editor);
    spoil(&machine, &editor, &frames);
    verify(&machine.walker(editor.root()), &machine.claims()).expect_err("something is wrong")
}

fn page(address: u64) -> VirtRange {
    VirtRange::new(VirtAddr::new(address), 4096)
}

/// Maps a page to 64 MiB.
fn map(editor: &SimEditor<'_>, page: VirtRange, access: Access) {
    let protection = Protection::kernel(access);
    editor
        .map(page, PhysAddr::new(64 * MIB), protection, PageSize::Size4K)
        .expect("a page");
}

/// Unmaps; no CPU has used the tables.
fn unmap(machine: &Machine, editor: &SimEditor<'_>, range: VirtRange) {
    let flush = editor.unmap(range).expect("mapped");
    // SAFETY: there is no CPU.
    unsafe { flush.discharged(&machine.memory, editor.frames()) };
}

fn protect(machine: &Machine, editor: &SimEditor<'_>, range: VirtRange, access: Access) {
    let flush = editor
        .protect(range, Protection::kernel(access))
        .expect("mapped");
    // SAFETY: there is no CPU.
    unsafe { flush.discharged(&machine.memory, editor.frames()) };
}

#[test]
fn a_missing_page_of_the_direct_map() {
    let difference =
        spoiled(|machine, editor, _| unmap(machine, editor, page(0xffff_8880_0000_3000)));
    assert_eq!(
        difference.to_string(),
        "verify: direct map: expected ffff888000003000-ffff8880001fffff -> 0000000000003000 4k rw- supervisor global \
         write-back, found nothing mapped"
    );
}

#[test]
fn a_mapped_hole_in_physical_memory() {
    let hole = page(0xffff_8880_0000_0000 + 512 * MIB);
    let difference = spoiled(|_, editor, _| map(editor, hole, Access::ReadWrite));
    assert_eq!(
        difference.to_string(),
        "verify: direct map: expected nothing mapped, found ffff888020000000-ffff888020000fff -> 0000000004000000 4k \
         rw- supervisor global write-back"
    );
}

#[test]
fn a_split_page_of_the_direct_map() {
    let first = VirtAddr::new(0xffff_8880_0000_0000 + 64 * MIB);
    let difference = spoiled(|machine, editor, _| {
        protect(
            machine,
            editor,
            VirtRange::new(first, 4096),
            Access::ReadOnly,
        );
        protect(
            machine,
            editor,
            VirtRange::new(first, 4096),
            Access::ReadWrite,
        );
    });
    assert_eq!(
        difference.to_string(),
        "verify: direct map: page size: expected ffff888004000000-ffff88801fffffff -> 0000000004000000 2M rw- \
         supervisor global write-back, found ffff888004000000-ffff8880041fffff -> 0000000004000000 4k rw- supervisor \
         global write-back"
    );
}

#[test]
fn a_writable_alias_of_text() {
    let alias = page(0xffff_8880_0100_0000);
    let difference =
        spoiled(|machine, editor, _| protect(machine, editor, alias, Access::ReadWrite));
    let Difference::Wrong {
        expected, found, ..
    } = difference
    else {
        panic!("{difference}")
    };
    assert_eq!(expected.virt.start(), alias.start());
    assert_eq!(expected.protection.access, Access::ReadOnly);
    assert!(found.attributes.write);
}

#[test]
fn executable_constants() {
    let constants = page(IMAGE_VIRT.as_u64() + 3 * MIB);
    let difference =
        spoiled(|machine, editor, _| protect(machine, editor, constants, Access::ReadExecute));
    assert_eq!(
        difference.to_string(),
        "verify: kernel image: rights: expected ffffffff81300000-ffffffff81380fff -> 0000000001300000 r-- supervisor \
         global write-back, found ffffffff81300000-ffffffff81300fff -> 0000000001300000 4k r-x supervisor global \
         write-back"
    );
}

#[test]
fn writable_and_executable_is_called_by_its_name() {
    let data = VirtAddr::new(IMAGE_VIRT.as_u64() + 0x38_2000);
    let difference = spoiled(|machine, editor, _| {
        clear_bits(machine, editor, data, 1 << 63);
    });
    assert_eq!(
        difference.to_string(),
        "verify: kernel image: expected no page to be writable and executable, found ffffffff81382000-ffffffff81382fff \
         -> 0000000001382000 4k rwx supervisor global write-back"
    );
}

/// Clears bits of the leaf entry that maps `address`.
fn clear_bits(machine: &Machine, editor: &SimEditor<'_>, address: VirtAddr, bits: u64) {
    let walk = machine.walker(editor.root()).walk(address);
    let step = walk.steps().last().expect("an entry");
    let word = &machine.memory.words(step.entry.pfn())[(step.entry.as_u64() % 4096 / 8) as usize];
    word.fetch_and(!bits, Ordering::Relaxed);
}

#[test]
fn a_mapped_guard_page() {
    let difference = spoiled(|machine, editor, _| {
        let area = machine.layout.cpu_entry().expect("x86-64 has one");
        let guard = area
            .guard(0, EntryPart::Stack(EntryStack::DoubleFault))
            .expect("it has one");
        map(editor, guard, Access::ReadWrite);
    });
    assert_eq!(
        difference.to_string(),
        "verify: cpu_entry_area: expected nothing mapped, found fffffe0000005000-fffffe0000005fff -> 0000000004000000 \
         4k rw- supervisor global write-back"
    );
}

#[test]
fn a_stack_that_is_not_in_ram() {
    let difference = spoiled(|machine, editor, _| {
        let area = machine.layout.cpu_entry().expect("x86-64 has one");
        let tss = area.part(0, EntryPart::Tss).expect("it has one");
        unmap(machine, editor, tss);
        let hole = PhysAddr::new(512 * MIB);
        editor
            .map(tss, hole, Protection::KERNEL_RODATA, PageSize::Size4K)
            .expect("a page");
    });
    assert_eq!(
        difference.to_string(),
        "verify: cpu_entry_area: not RAM: expected fffffe0000004000-fffffe0000004fff -> RAM r-- supervisor global \
         write-back, found fffffe0000004000-fffffe0000004fff -> 0000000020000000 4k r-- supervisor global write-back"
    );
}

#[test]
fn an_identity_mapping_left_in_the_user_half() {
    let difference = spoiled(|_, editor, _| map(editor, page(0x40_0000), Access::ReadWrite));
    assert_eq!(
        difference.to_string(),
        "verify: user: expected nothing mapped, found 0000000000400000-0000000000400fff -> 0000000004000000 4k rw- \
         supervisor global write-back"
    );
}

#[test]
fn a_user_page_in_an_area_whose_pages_nobody_foretells() {
    let mut machine = Machine::new(PagingMode::FourLevel, Limits::WIDEST);
    machine.layout = machine
        .layout
        .with_state(AreaKind::Modules, AreaState::Built);
    let frames = machine.frames();
    let editor = machine.editor(&frames);
    machine.build(&editor);
    let walker = machine.walker(editor.root());
    map(&editor, page(0xffff_ffff_c000_0000), Access::ReadWrite);
    verify(&walker, &machine.claims()).expect("kernel pages may be there");
    let (user, phys) = (
        Protection::user(Access::ReadOnly),
        PhysAddr::new(0x400_0000),
    );
    editor
        .map(page(0xffff_ffff_c000_2000), phys, user, PageSize::Size4K)
        .expect("a page");
    assert_eq!(
        verify(&walker, &machine.claims()).unwrap_err().to_string(),
        "verify: modules: expected nothing mapped, found ffffffffc0002000-ffffffffc0002fff -> 0000000004000000 4k r-- \
         user write-back"
    );
}

#[test]
fn something_in_a_reserved_area_and_in_a_hole() {
    let in_vmalloc = spoiled(|machine, editor, _| {
        map(
            editor,
            VirtRange::new(machine.start_of(AreaKind::Vmalloc), 4096),
            Access::ReadWrite,
        );
    });
    assert_eq!(
        in_vmalloc.to_string(),
        "verify: vmalloc: expected nothing mapped, found ffffc90000000000-ffffc90000000fff -> 0000000004000000 4k rw- \
         supervisor global write-back"
    );
    let in_hole =
        spoiled(|_, editor, _| map(editor, page(0xffff_c880_0000_0000), Access::ReadOnly));
    assert_eq!(
        in_hole.to_string(),
        "verify: the hole between direct map and vmalloc: expected nothing mapped, found \
         ffffc88000000000-ffffc88000000fff -> 0000000004000000 4k r-- supervisor global write-back"
    );
}

#[test]
fn an_unreadable_table() {
    let machine = Machine::new(PagingMode::FourLevel, Limits::WIDEST);
    let frames = machine.frames();
    let editor = machine.editor(&frames);
    machine.build(&editor);
    let root = machine.memory.words(editor.root().pfn());
    let vmalloc = PagingMode::FourLevel.index(machine.start_of(AreaKind::Vmalloc), 4) as usize;
    root[vmalloc].store(0x7_7777_7063, Ordering::Relaxed);
    let difference = verify(&machine.walker(editor.root()), &machine.claims()).unwrap_err();
    assert_eq!(
        difference.to_string(),
        "verify: walk ffffc90000000000-ffffc9003fffffff: the level-3 entry at physical 0000000777777000 is not in this \
         memory"
    );
}

/// Bits of a leaf that mean something: present, write, user, PWT, PCD, global, and no-execute.
const MEANINGFUL: [u32; 7] = [0, 1, 2, 3, 4, 8, 63];
/// Accessed, dirty, and those that the CPU ignores.
const HARMLESS: [u32; 9] = [5, 6, 9, 10, 11, 52, 55, 57, 58];

proptest! {
    /// Any one bit of any one leaf.
    #[test]
    fn every_flipped_bit_is_found_and_no_other(
        five in any::<bool>(),
        gigabyte in any::<bool>(),
        which in any::<prop::sample::Index>(),
        inside in any::<prop::sample::Index>(),
        bit in prop_oneof![
            prop::sample::select(&MEANINGFUL),
            prop::sample::select(&HARMLESS),
            Just(u32::MAX),
        ],
    ) {
        let mode = MODES[usize::from(five)];
        let machine = Machine::new(mode, Limits::WIDEST.with_gigabyte_pages(gigabyte));
        let frames = machine.frames();
        let editor = machine.editor(&frames);
        machine.build(&editor);
        let walker = machine.walker(editor.root());
        let upper = mode.upper_half_start().expect("64 bits");
        let everything = VirtRange::try_from_bounds(upper, VirtAddr::LAST).expect("a half");
        let runs: Vec<_> = walker.runs(everything).map(|run| run.expect("readable")).collect();
        let run = runs[which.index(runs.len())];
        let pages = run.virt.size() / run.page.bytes();
        let offset = inside.index(pages as usize) as u64 * run.page.bytes();
        let walk = walker.walk(run.virt.start().checked_add(offset).expect("in the run"));
        let step = walk.steps().last().expect("a leaf");
        // The lowest address bit, unless the frame may be any of RAM.
        let in_cpu_entry = machine.layout.cpu_entry().expect("one").locate(walk.address()).is_some();
        let bit = match bit {
            u32::MAX if in_cpu_entry => return Ok(()),
            u32::MAX => run.page.bits(),
            bit => bit,
        };
        let word = &machine.memory.words(step.entry.pfn())[(step.entry.as_u64() % 4096 / 8) as usize];
        word.fetch_xor(1 << bit, Ordering::Relaxed);
        let result = verify(&walker, &machine.claims());
        if HARMLESS.contains(&bit) {
            prop_assert!(result.is_ok(), "bit {} of the entry for {}: {}", bit, walk.address(), result.unwrap_err());
        } else {
            prop_assert!(result.is_err(), "bit {} of the entry for {} went unnoticed", bit, walk.address());
        }
    }

    /// Any one page somewhere it should not be.
    #[test]
    fn every_stray_page_is_found(five in any::<bool>(), address in any::<u64>(), upper in any::<bool>()) {
        let mode = MODES[usize::from(five)];
        let machine = Machine::new(mode, Limits::WIDEST);
        let frames = machine.frames();
        let editor = machine.editor(&frames);
        machine.build(&editor);
        let below_half = address & mode.lower_half_last().as_u64() & !0xfff;
        let start = if upper { mode.upper_half_start().expect("64 bits").as_u64() } else { 0 };
        let page = VirtRange::new(VirtAddr::new(start | below_half), 4096);
        let stray = editor.map(page, PhysAddr::new(0x5000), Protection::KERNEL_RODATA, PageSize::Size4K);
        prop_assume!(stray.is_ok());
        let difference = verify(&machine.walker(editor.root()), &machine.claims()).unwrap_err();
        let Difference::Unexpected { found, .. } = difference else { panic!("{difference}") };
        prop_assert_eq!(found.virt, page);
    }
}

#[test]
fn a_frame_of_the_wrong_address_in_the_fixmap() {
    let difference = spoiled(|machine, editor, frames| {
        let fixed = VirtRange::new(machine.fixed[0].page, 4096);
        unmap(machine, editor, fixed);
        let elsewhere = frames.allocate().expect("a frame");
        editor
            .map(
                fixed,
                elsewhere,
                machine.fixed[0].protection,
                PageSize::Size4K,
            )
            .expect("a page");
    });
    assert!(
        matches!(
            difference,
            Difference::Wrong {
                aspect: Aspect::Phys,
                ..
            }
        ),
        "{difference}"
    );
}

/// The rows of the block alone, after `spoil`.
fn row_difference(spoil: impl FnOnce(&Machine, &SimEditor<'_>)) -> String {
    let machine = Machine::new(PagingMode::FourLevel, Limits::WIDEST);
    let frames = machine.frames();
    let editor = machine.editor(&frames);
    machine.build(&editor);
    let walker = machine.walker(editor.root());
    assert_eq!(
        verify_block(&walker, &machine.claims()),
        Ok(machine.layout.block().rows().count() as u64)
    );
    spoil(&machine, &editor);
    verify_block(&walker, &machine.claims())
        .expect_err("a row is wrong")
        .to_string()
}

#[test]
fn rows_of_reserved_areas_are_empty() {
    assert_eq!(
        row_difference(|_, editor| map(editor, page(0xffff_ea00_0000_0000), Access::ReadWrite)),
        "verify: row vmemmap of the printed block, ffffea0000000000-ffffeaffffffffff: ffffea0000000000: expected \
         nothing, found ffffea0000000000-ffffea0000000fff -> 0000000004000000 4k rw- supervisor global write-back"
    );
}

#[test]
fn the_lowmem_row_ends_where_ram_does() {
    let end = 0xffff_8880_0000_0000 + 6 * GIB;
    assert_eq!(
        row_difference(|_, editor| map(editor, page(end), Access::ReadWrite)),
        "verify: row lowmem of the printed block, ffff888000000000-ffff88817fffffff: ffff888180000000: expected nothing \
         behind the row, found ffff888180000000-ffff888180000fff -> 0000000004000000 4k rw- supervisor global write-back"
    );
    assert_eq!(
        row_difference(|machine, editor| unmap(machine, editor, page(end - 4096))),
        "verify: row lowmem of the printed block, ffff888000000000-ffff88817fffffff: ffff88817fffffff: expected a page, \
         found nothing mapped"
    );
}

#[test]
fn the_text_row_is_all_text() {
    let text = IMAGE_VIRT.as_u64() + 0x20_3000;
    assert_eq!(
        row_difference(|machine, editor| unmap(machine, editor, page(text))),
        "verify: row .text of the printed block, ffffffff81000000-ffffffff812fffff: ffffffff81203000: expected kernel \
         text, found nothing mapped"
    );
    assert_eq!(
        row_difference(|machine, editor| protect(machine, editor, page(text), Access::ReadOnly)),
        "verify: row .text of the printed block, ffffffff81000000-ffffffff812fffff: ffffffff81203000: expected kernel \
         text, found ffffffff81203000-ffffffff81203fff -> 0000000001203000 4k r-- supervisor global write-back"
    );
}

#[test]
fn the_data_row_is_not_executable() {
    let constants = IMAGE_VIRT.as_u64() + 0x30_0000;
    assert_eq!(
        row_difference(|machine, editor| protect(
            machine,
            editor,
            page(constants),
            Access::ReadExecute
        )),
        "verify: row .data of the printed block, ffffffff81300000-ffffffff81384344: ffffffff81300000: expected data, \
         found ffffffff81300000-ffffffff81300fff -> 0000000001300000 4k r-x supervisor global write-back"
    );
}
