//! The fixmap's slots on a machine whose TLBs keep whatever they may.

use std::cell::Cell;

use kspace::fault::{PageFault, explain};
use kspace::fixmap::{FixedPages, SlotError, Slots, build};
use kspace::platform::{Complaint, Cpu, CpuId, CpuMask, LocalFlush, Tlb, TlbFeatures};
use kspace::verify::verify;
use kspace_layout::{
    AreaKind, AreaState, Fixmap, FixmapSlot, PagingMode, Pfn, PhysAddr, PhysRange, SectionKind,
    VirtAddr, VirtRange,
};
use kspace_paging::{Access, CacheType, Limits, LongMode};
use kspace_sim::{SimFrames, SimMachine};
use machine::Machine;

mod machine;

const MODE: PagingMode = PagingMode::FourLevel;
const APIC: PhysAddr = PhysAddr::new(0xfee0_0000);
const IO_APIC: FixmapSlot = FixmapSlot::IoApic(0);
const READ_WRITE: Access = Access::ReadWrite;
const UNCACHED: CacheType = CacheType::Uncached;
const BACK: CacheType = CacheType::WriteBack;

/// One CPU of a simulated machine, that may be told not to flush.
struct One<'m> {
    machine: &'m SimMachine<'m>,
    cpu: Cell<usize>,
    flushes: Cell<bool>,
}

// SAFETY: the test runs one CPU at a time, and says which.
unsafe impl Cpu for One<'_> {
    type Pin = ();
    fn id(&self) -> CpuId {
        CpuId::new(self.cpu.get())
    }
    fn pin(&self) {}
    fn is_atomic(&self) -> bool {
        false
    }
    fn report(&self, complaint: &Complaint) {
        panic!("{complaint}")
    }
}

// SAFETY: the simulated TLB does as told; a test that leaves flushes out uses no memory but a simulated machine's.
unsafe impl Tlb for One<'_> {
    fn features(&self) -> TlbFeatures {
        self.machine.features()
    }
    fn perform(&self, flush: LocalFlush) {
        if self.flushes.get() {
            self.machine.perform(self.cpu.get(), flush);
        }
    }
    fn interrupt(&self, _: &CpuMask) {
        panic!("temporary slots interrupt nobody")
    }
}

/// Two CPUs, and slots in the tables that both use.
fn with_slots(
    features: TlbFeatures,
    test: impl FnOnce(&Machine, &SimFrames<'_>, &SimMachine<'_>, &Slots<'_, LongMode>, &One<'_>),
) {
    let machine = Machine::new(MODE, Limits::WIDEST.with_phys_bits(40));
    let frames = machine.frames();
    let editor = machine.editor(&frames);
    build(&editor).expect("there are frames");
    let tables = frames.in_use();
    // SAFETY: nobody else edits the fixmap.
    let slots = unsafe { Slots::new(&editor, &machine.map) }.expect("the tables are there");
    assert_eq!(frames.in_use(), tables, "found, not made again");
    let sim = SimMachine::new(
        &machine.memory,
        &frames,
        MODE,
        machine.limits,
        editor.root(),
        2,
    )
    .with_features(features);
    let cpu = One {
        machine: &sim,
        cpu: Cell::new(0),
        flushes: Cell::new(true),
    };
    test(&machine, &frames, &sim, &slots, &cpu);
    assert_eq!(frames.in_use(), tables, "nothing was allocated since");
}

fn plain() -> TlbFeatures {
    TlbFeatures::plain(MODE).with_global_pages()
}

fn all_slots() -> VirtRange {
    VirtRange::try_from_bounds(Fixmap::EARLY.start(), Fixmap::PERMANENT.last()).expect("in order")
}

#[test]
fn a_slot_that_is_cleared_is_reached_by_no_cpu() {
    with_slots(plain(), |_, _, sim, slots, _| {
        let phys = [APIC, PhysAddr::new(0xfec0_0000)];
        for phys in phys {
            let page = slots.set(IO_APIC, phys, READ_WRITE, UNCACHED);
            let page = page.expect("it is empty");
            assert_eq!(Some(page), Fixmap.address(IO_APIC));
            assert_eq!(slots.address(IO_APIC), Some(page));
            sim.speculate(all_slots()).expect("nothing was released");
            for cpu in 0..2 {
                sim.reaches(cpu, page, phys.pfn()).expect("set");
            }
            slots.clear(IO_APIC, sim).expect("it is set");
            assert_eq!(slots.address(IO_APIC), None);
            for cpu in 0..2 {
                assert!(!sim.may_write(cpu, page), "CPU {cpu} has kept it");
                sim.reaches(cpu, page, phys.pfn()).expect_err("cleared");
            }
        }
        assert_eq!(slots.clear(IO_APIC, sim), Err(SlotError::Empty(IO_APIC)));
    });
}

#[test]
fn the_kernels_code_and_constants_are_shown_read_only() {
    let machine = Machine::new(MODE, Limits::WIDEST.with_phys_bits(40));
    let frames = machine.frames();
    let editor = machine.editor(&frames);
    let image = machine.layout.image().expect("it has one");
    // SAFETY: nobody else edits the fixmap.
    let slots = unsafe { Slots::new(&editor, &machine.map) }.expect("there are frames");
    let slots = slots.with_image(image);
    for kind in [SectionKind::Text, SectionKind::Rodata] {
        let start = image.section(kind).expect("it has one").start();
        let phys = image.virt_to_phys(start).expect("in the image");
        let refused = slots.set(IO_APIC, phys, READ_WRITE, BACK);
        assert_eq!(refused, Err(SlotError::ReadOnly(phys)));
    }
    let text = image.section(SectionKind::Text).expect("it has one");
    let phys = image.virt_to_phys(text.start()).expect("in the image");
    let read = slots.set(FixmapSlot::LocalApic, phys, Access::ReadOnly, BACK);
    read.expect("reading is harmless");
    let data = image.section(SectionKind::Data).expect("it has one");
    let phys = image.virt_to_phys(data.start()).expect("in the image");
    slots
        .set(IO_APIC, phys, READ_WRITE, BACK)
        .expect("data is writable elsewhere too");
}

#[test]
fn what_cannot_be_shown_is_refused_and_changes_nothing() {
    with_slots(plain(), |machine, _, sim, slots, _| {
        let ram = PhysAddr::new(0x20_0000);
        let early = FixmapSlot::Early {
            mapping: 0,
            page: 0,
        };
        let text = |slot, phys, access, cache| {
            let refused = slots.set(slot, PhysAddr::new(phys), access, cache);
            refused.expect_err("refused").to_string()
        };
        let (read, local) = (Access::ReadOnly, FixmapSlot::LocalApic);
        assert_eq!(
            text(FixmapSlot::IoApic(128), 0xfec0_0000, read, UNCACHED),
            "fixmap: there is no slot I/O APIC 128"
        );
        assert_eq!(
            text(FixmapSlot::Vsyscall, 0xfec0_0000, read, UNCACHED),
            "fixmap: the vsyscall page is not set here; it is an area of its own"
        );
        assert_eq!(
            text(early, 0xfec0_0000, read, UNCACHED),
            "fixmap: slot page 0 of early mapping 0 is for temporary mappings; ask for one, or take a permanent slot"
        );
        assert_eq!(
            text(local, 0xfee0_0010, read, UNCACHED),
            "fixmap: slot local APIC cannot show physical 00000000fee00010; give the start of a page"
        );
        assert_eq!(
            text(local, 1 << 40, read, UNCACHED),
            "fixmap: physical 0000010000000000 does not exist on this machine, whose addresses have 40 bits"
        );
        assert_eq!(
            text(local, 0xfee0_0000, Access::ReadExecute, BACK),
            "fixmap: physical 00000000fee00000 was to be executable; code belongs in area modules"
        );
        assert_eq!(
            text(local, ram.as_u64(), read, CacheType::WriteCombining),
            "fixmap: physical 0000000000200000 is RAM and cannot be write-combining; RAM is write-back everywhere"
        );
        let walker = sim.walker();
        assert!(walker.runs(all_slots()).next().is_none(), "all are empty");

        slots
            .set(local, APIC, READ_WRITE, UNCACHED)
            .expect("it is empty");
        assert_eq!(
            text(local, 0xfec0_0000, read, UNCACHED),
            "fixmap: slot local APIC shows physical 00000000fee00000 already; clear it first"
        );
        assert_eq!(walker.runs(all_slots()).count(), 1);
        assert!(machine.map.is_ram(PhysRange::new(ram, 4096)));
        slots
            .set(FixmapSlot::DebugPort, ram, read, BACK)
            .expect("RAM as it is everywhere");
    });
}

#[test]
fn a_temporary_mapping_shows_its_own_frames_whatever_was_there_before() {
    let features = [
        plain(),
        TlbFeatures::plain(MODE),
        plain().with_contexts(),
        TlbFeatures::plain(MODE).with_contexts().with_invpcid(),
    ];
    for features in features {
        with_slots(features, |_, _, sim, slots, here| {
            for round in 0..40_u64 {
                here.cpu.set(round as usize % 2);
                // Up to all 64 pages, beginning and ending inside one.
                let pages = 1 + round * 7 % 63;
                let first = PhysAddr::new(0x20_0000 + (round << 20) + 8 * round);
                let phys = PhysRange::new(first, pages * 4096 - 4000);
                let seen = slots
                    .map_here(here, phys, READ_WRITE, BACK)
                    .expect("one is free");
                assert_eq!(seen.range().size(), phys.size());
                sim.speculate(all_slots()).expect("nothing was released");
                for offset in (0..phys.size()).step_by(4096) {
                    let at = seen.range().start().checked_add(offset).expect("in it");
                    let frame = Pfn::new((first.as_u64() + offset) >> 12);
                    sim.reaches(here.cpu.get(), at, frame).expect("mapped here");
                }
            }
        });
    }
}

#[test]
fn a_cpu_that_does_not_forget_sees_what_another_has_left() {
    with_slots(plain(), |_, _, sim, slots, here| {
        let map = |phys| {
            slots
                .map_here(here, PhysRange::new(phys, 4096), READ_WRITE, BACK)
                .expect("one is free")
        };
        let (first, second) = (PhysAddr::new(0x20_0000), PhysAddr::new(0x30_0000));
        let seen = map(first);
        let page = seen.range().start();
        sim.speculate(all_slots()).expect("nothing was released");
        drop(seen);
        assert!(!sim.may_write(0, page), "who mapped it has forgotten it");
        assert!(sim.may_write(1, page), "the other one was not asked to");
        here.cpu.set(1);
        here.flushes.set(false);
        let seen = map(second);
        assert_eq!(seen.range().start(), page, "the same slot");
        sim.reaches(1, page, second.pfn())
            .expect_err("it should have forgotten first");
        here.flushes.set(true);
        drop(seen);
        let seen = map(second);
        sim.reaches(1, page, second.pfn()).expect("it has");
        drop(seen);
    });
}

#[test]
fn temporary_mappings_are_eight_of_64_pages() {
    with_slots(plain(), |_, _, _, slots, here| {
        let at = |index: u64| PhysRange::new(PhysAddr::new(0x20_0000 + (index << 12)), 4096);
        let map = |index| slots.map_here(here, at(index), READ_WRITE, BACK);
        let all: Vec<_> = (0..8).map(|index| map(index).expect("free")).collect();
        assert_eq!(map(8).expect_err("all are in use"), SlotError::NoneFree);
        let mut starts: Vec<_> = all.iter().map(|one| one.range().start()).collect();
        starts.dedup();
        assert_eq!(starts.len(), 8);
        drop(all);
        let long = PhysRange::new(PhysAddr::new(0x20_0ff8), 64 * 4096);
        let refused = slots.map_here(here, long, READ_WRITE, BACK);
        assert_eq!(
            refused.expect_err("65 pages").to_string(),
            "fixmap: a temporary mapping has 64 pages, 65 were asked for; map them in pieces, or as an area"
        );
        let mixed = PhysRange::new(PhysAddr::new((513 << 20) - 4096), 8192);
        let refused = slots.map_here(here, mixed, READ_WRITE, UNCACHED);
        assert!(matches!(refused, Err(SlotError::Ram { phys, .. }) if phys.as_u64() == 513 << 20));
        (0..8).for_each(|index| drop(map(index).expect("free again")));
    });
}

#[test]
fn verification_and_fault_know_what_is_set() {
    let mut machine = Machine::new(MODE, Limits::WIDEST);
    machine.layout = machine
        .layout
        .with_state(AreaKind::EarlyFixmap, AreaState::Reserved);
    let frames = machine.frames();
    let editor = machine.editor(&frames);
    // The machine's own page in the slot of the local APIC is replaced by the slots.
    machine.build(&editor);
    let page = VirtRange::new(machine.fixed[0].page, 4096);
    let sim = SimMachine::new(
        &machine.memory,
        &frames,
        MODE,
        machine.limits,
        editor.root(),
        1,
    );
    editor
        .unmap(page)
        .expect("it is mapped")
        .flush(&sim, &machine.memory, &frames);
    // SAFETY: nobody else edits the fixmap.
    let slots = unsafe { Slots::new(&editor, &machine.map) }.expect("tables");
    let walker = machine.walker(editor.root());
    let check = |slots: &dyn FixedPages| {
        let mut claims = machine.claims();
        claims.fixed = slots;
        verify(&walker, &claims).map(drop)
    };
    let text = |address: VirtAddr| {
        let fault = PageFault {
            address,
            error_code: 0,
        };
        let explained = explain(&machine.layout, &machine.map, fault, None);
        explained.with_slot(slots.spot(address)).to_string()
    };
    check(&slots).expect("all are empty");
    assert_eq!(
        text(page.start().checked_add(0x20).expect("in it")),
        "read of ffffffffff5fd020: not mapped, slot 514 (local APIC) of the fixmap, empty"
    );
    slots
        .set(FixmapSlot::LocalApic, APIC, READ_WRITE, UNCACHED)
        .expect("it is empty");
    check(&slots).expect("it is as the notes say");
    check(&machine.fixed).expect("and as it was before");
    check(&[] as &[kspace::verify::FixedPage; 0]).expect_err("a page that nobody noted");
    assert_eq!(
        text(page.start()),
        "read of ffffffffff5fd000: not mapped, slot 514 (local APIC) of the fixmap, set to physical 00000000fee00000, writable, uncached"
    );
    assert_eq!(
        text(Fixmap::EARLY.start()),
        "read of ffffffffff200000: not mapped, slot 1535 (page 0 of early mapping 0) of the fixmap, empty"
    );
}
