//! Single pages of one table, changed through its handle: against a model of its slots, beside an editor, under hostile TLBs.

mod rig;

use std::panic::{AssertUnwindSafe, catch_unwind};

use kspace_layout::{PageSize, PagingMode, Pfn, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{
    Access, Controls, EditError, EntryFormat, FrameSource, Intent, Invalidation, LeafBits,
    LeafSlot, LeafTable, Limits, LongMode, Operation, Pae, PhysMemory, Protection, RawEntry,
    Reason, Stale, Tlb, TwoLevel,
};
use kspace_sim::{SimMachine, Violation};
use proptest::prelude::*;
use rig::{Rig, phys, range, with_rig};

const K4: u64 = 4 << 10;
const M2: u64 = 2 << 20;
const G1: u64 = 1 << 30;
const DATA: Protection = Protection::KERNEL_DATA;

/// The start of a table's span, of a large page and of a gigabyte, in an address that every mode has.
fn base(mode: PagingMode) -> u64 {
    match mode {
        PagingMode::TwoLevel | PagingMode::Pae => 0xc000_0000,
        PagingMode::FourLevel | PagingMode::FiveLevel => 0xffff_c900_0000_0000,
    }
}

/// Calls a test that is generic over the format with the one of each mode.
macro_rules! in_all_modes {
    ($test:ident $(, $argument:expr)*) => {
        for mode in PagingMode::ALL {
            with_rig(mode, Limits::WIDEST, |rig| match mode {
                PagingMode::TwoLevel => $test::<TwoLevel>(rig $(, $argument)*),
                PagingMode::Pae => $test::<Pae>(rig $(, $argument)*),
                PagingMode::FourLevel | PagingMode::FiveLevel => $test::<LongMode>(rig $(, $argument)*),
            });
        }
    };
}

fn leaf_table<'m, F: EntryFormat>(rig: &Rig<'m>) -> LeafTable<'m, F> {
    let at = VirtAddr::new(base(rig.mode));
    rig.editor::<F>()
        .leaf_table(at)
        .expect("nothing in the way")
}

/// What a slot of the model holds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slot {
    Empty,
    Page(u64, Protection),
    Parked(u64),
}

/// Through the handle, or with an editor.
#[derive(Clone, Copy, Debug)]
enum By {
    Handle,
    Editor,
}

#[derive(Clone, Debug)]
enum Op {
    Map(By, usize, usize, u64, Protection),
    Park(By, usize, usize),
    Collect(By, usize, usize),
    Clear(By, usize, usize),
}

fn any_op(slots: usize, frames: u64) -> impl Strategy<Value = Op> {
    let by = || prop_oneof![2 => Just(By::Handle), 1 => Just(By::Editor)];
    // Around the ends, and never all: that is not for an editor while there is a handle.
    let at = || prop_oneof![0usize..24, slots - 24..slots];
    let count = || prop_oneof![3 => 1usize..8, 1 => 1usize..slots - 1];
    let protection = prop_oneof![
        Just(DATA),
        Just(Protection::KERNEL_RODATA),
        Just(Protection::user(Access::ReadWrite)),
    ];
    let frame = prop_oneof![
        0..64u64,
        frames - slots as u64 - 64..frames - slots as u64,
        0..frames - slots as u64
    ];
    prop_oneof![
        4 => (by(), at(), count(), frame, protection).prop_map(|(by, at, count, frame, protection)| Op::Map(by, at, count, frame, protection)),
        3 => (by(), at(), count()).prop_map(|(by, at, count)| Op::Park(by, at, count)),
        2 => (by(), at(), count()).prop_map(|(by, at, count)| Op::Collect(by, at, count)),
        1 => (by(), at(), count()).prop_map(|(by, at, count)| Op::Clear(by, at, count)),
    ]
}

/// How many slots from `at` on, `count` at most, are as they must be.
fn fitting(model: &[Slot], at: usize, count: usize, fits: impl Fn(Slot) -> bool) -> usize {
    let slots = model[at..].iter().take(count);
    slots.take_while(|slot| fits(**slot)).count()
}

/// An editor's answer to what the model finds at the first slot that is not as it must be.
fn refused<T: std::fmt::Debug>(
    rig: &Rig<'_>,
    model: &[Slot],
    at: usize,
    result: Result<T, EditError>,
) {
    let page = VirtAddr::new(base(rig.mode) + at as u64 * K4);
    let expected = match model[at] {
        Slot::Empty => Reason::NotMapped { page },
        Slot::Page(frame, _) => Reason::AlreadyMapped {
            page,
            phys: Pfn::new(frame).start(),
        },
        Slot::Parked(_) => Reason::Parked { page },
    };
    assert_eq!(result.unwrap_err().reason, expected);
}

/// Applies `op` to both, as far as the slots allow it.
fn apply<F: EntryFormat>(rig: &Rig<'_>, table: PhysAddr, model: &mut [Slot], op: &Op) {
    // SAFETY: an editor of this rig gave the table, and nothing takes it out.
    let handle = unsafe { LeafTable::<F>::at(table, rig.memory, rig.limits) }.unwrap();
    let (Op::Map(by, at, count, ..)
    | Op::Park(by, at, count)
    | Op::Collect(by, at, count)
    | Op::Clear(by, at, count)) = *op;
    let count = count.min(model.len() - at);
    let pages = |count: usize| {
        let start = base(rig.mode) + at as u64 * K4;
        range(start, start + count as u64 * K4)
    };
    match *op {
        Op::Map(_, _, _, frame, protection) => {
            let free = fitting(model, at, count, |slot| slot == Slot::Empty);
            let map = |count| {
                rig.map(
                    pages(count),
                    Pfn::new(frame).start(),
                    protection,
                    PageSize::Size1G,
                )
            };
            match by {
                By::Handle => handle.fill(
                    at,
                    free,
                    Pfn::new(frame),
                    LeafBits::new(protection, rig.limits),
                ),
                By::Editor if free < count => return refused(rig, model, at + free, map(count)),
                By::Editor => map(count).unwrap(),
            }
            for (slot, frame) in model[at..at + free].iter_mut().zip(frame..) {
                *slot = Slot::Page(frame, protection);
            }
        }
        Op::Park(..) => {
            let mapped = fitting(model, at, count, |slot| matches!(slot, Slot::Page(..)));
            match by {
                By::Handle => handle.park(at, mapped),
                By::Editor if mapped < count => {
                    return refused(rig, model, at + mapped, rig.park(pages(count)));
                }
                By::Editor => rig.discharge(rig.park(pages(count)).unwrap()),
            }
            for slot in &mut model[at..at + mapped] {
                let Slot::Page(frame, _) = *slot else {
                    unreachable!()
                };
                *slot = Slot::Parked(frame);
            }
        }
        Op::Collect(..) => {
            let mut found = Vec::new();
            let mut note = |first: Pfn, count: usize| found.extend((first.as_u64()..).take(count));
            match by {
                // SAFETY: no CPU uses these tables.
                By::Handle => unsafe { handle.collect(at, count, note) },
                By::Editor => rig
                    .collect(pages(count), |first, _, count| note(first.pfn(), count))
                    .unwrap(),
            }
            let mut expected = Vec::new();
            for slot in &mut model[at..at + count] {
                if let Slot::Parked(frame) = *slot {
                    expected.push(frame);
                    *slot = Slot::Empty;
                }
            }
            assert_eq!(found, expected, "{op:?}");
        }
        Op::Clear(..) => {
            let clear = fitting(model, at, count, |slot| !matches!(slot, Slot::Parked(_)));
            match by {
                // SAFETY: no CPU uses these tables, and nothing is parked there.
                By::Handle => unsafe { handle.clear(at, clear) },
                By::Editor if clear < count => {
                    return refused(rig, model, at + clear, rig.unmap_present(pages(count)));
                }
                By::Editor => rig.discharge(rig.unmap_present(pages(count)).unwrap()),
            }
            model[at..at + clear].fill(Slot::Empty);
        }
    }
}

/// Holds every slot against the model: what the handle reads, and what a walk finds.
fn compare<F: EntryFormat>(rig: &Rig<'_>, handle: &LeafTable<'_, F>, model: &[Slot]) {
    for (index, slot) in model.iter().enumerate() {
        let at = VirtAddr::new(base(rig.mode) + index as u64 * K4);
        let page = rig.walker().walk(at).page();
        let loaded = match *slot {
            Slot::Empty => LeafSlot::Empty,
            Slot::Page(frame, _) => LeafSlot::Page(Pfn::new(frame)),
            Slot::Parked(frame) => LeafSlot::Parked(Pfn::new(frame)),
        };
        assert_eq!(handle.load(index), loaded, "slot {index}");
        match *slot {
            Slot::Page(frame, protection) => {
                let page = page.expect("mapped");
                assert_eq!(page.phys, Pfn::new(frame).start());
                assert_eq!(
                    page.attributes.write,
                    protection.access == Access::ReadWrite
                );
                assert_eq!(page.attributes.user, protection.user);
                assert_eq!(page.attributes.global, protection.global);
            }
            Slot::Empty | Slot::Parked(_) => assert_eq!(page, None, "slot {index}"),
        }
    }
}

fn check<F: EntryFormat>(mode: PagingMode, limits: Limits, ops: &[Op]) {
    with_rig(mode, limits, |rig| {
        let at_first = rig.frames.in_use();
        let handle = leaf_table::<F>(rig);
        let mut model = vec![Slot::Empty; LeafTable::<F>::SLOTS];
        for op in ops {
            apply::<F>(rig, handle.table(), &mut model, op);
            compare(rig, &handle, &model);
        }
        // Nothing is left in the tables that the model does not know of.
        let all = range(base(mode), base(mode) + model.len() as u64 * K4);
        let mut parked = model
            .iter()
            .filter(|slot| matches!(slot, Slot::Parked(_)))
            .count();
        rig.collect(all, |_, _, count| parked -= count).unwrap();
        assert_eq!(parked, 0);
        rig.discharge(rig.unmap_present(all).unwrap());
        let half = VirtRange::new(VirtAddr::new(base(mode) & !(G1 * 512 - 1)), 512 * G1);
        let half = if all.last().as_u64() < 1 << 32 {
            VirtRange::new(VirtAddr::ZERO, 1 << 32)
        } else {
            half
        };
        rig.discharge(rig.purge(half).unwrap());
        // In the deep modes the tables above span more than what is purged.
        let above = usize::from(mode.levels().saturating_sub(3)).saturating_sub(1);
        assert_eq!(rig.frames.in_use() - above, at_first, "{mode}");
    });
}

macro_rules! against_the_model {
    ($($name:ident: $mode:expr, $format:ty, $limits:expr, $frame_bits:expr;)*) => {$(
        proptest! {
            #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
            #[test]
            fn $name(ops in prop::collection::vec(any_op(LeafTable::<$format>::SLOTS, 1 << $frame_bits), 1..40)) {
                check::<$format>($mode, $limits, &ops);
            }
        }
    )*};
}

against_the_model! {
    two_level: PagingMode::TwoLevel, TwoLevel, Limits::WIDEST, 20;
    pae: PagingMode::Pae, Pae, Limits::WIDEST, 40;
    four_level: PagingMode::FourLevel, LongMode, Limits::WIDEST, 40;
    four_level_encrypted: PagingMode::FourLevel, LongMode, Limits::WIDEST.with_phys_bits(47).with_encryption_mask(1 << 47), 35;
    five_level: PagingMode::FiveLevel, LongMode, Limits::WIDEST, 40;
}

/// The handle's table is made whole or not at all, and only once.
fn tables_are_made<F: EntryFormat>(rig: &Rig<'_>) {
    let at = VirtAddr::new(base(rig.mode) + 5 * K4);
    let before = rig.snapshot();
    // PAE's root is filled by the rig, and with it the level below.
    let missing = match rig.mode {
        PagingMode::Pae => 1,
        mode => usize::from(mode.levels()) - 1,
    };
    for available in 0..missing {
        rig.frames.set_budget(Some(available));
        let error = rig.editor::<F>().leaf_table(at).unwrap_err();
        assert_eq!(
            error.reason,
            Reason::OutOfFrames {
                needed: missing,
                available
            }
        );
        assert!(before == rig.snapshot(), "{}", rig.mode);
    }
    rig.frames.set_budget(Some(missing));
    let handle = rig.editor::<F>().leaf_table(at).unwrap();
    rig.frames.set_budget(Some(0));
    for at in [
        at.as_u64(),
        base(rig.mode),
        base(rig.mode) + (LeafTable::<F>::SLOTS as u64 - 1) * K4,
    ] {
        let again = rig.editor::<F>().leaf_table(VirtAddr::new(at)).unwrap();
        assert_eq!(again.table(), handle.table());
    }
}

#[test]
fn missing_tables_are_made_whole_or_not_at_all() {
    in_all_modes!(tables_are_made);
}

#[test]
fn what_is_in_the_way_is_told() {
    with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
        let table = |at| {
            rig.editor::<LongMode>()
                .leaf_table(VirtAddr::new(at))
                .map(|handle| handle.table())
        };
        let start = base(rig.mode);
        let large = range(start, start + M2);
        rig.map(large, phys(M2), DATA, PageSize::Size2M).unwrap();
        assert_eq!(
            table(start + 7 * K4).unwrap_err().to_string(),
            "leaf table ffffc90000000000-ffffc900001fffff: page 1 of 512 (ffffc90000000000) already maps physical \
             0000000000200000; nothing was changed"
        );
        rig.discharge(rig.park(large).unwrap());
        assert_eq!(
            table(start).unwrap_err().to_string(),
            "leaf table ffffc90000000000-ffffc900001fffff: page 1 of 512 (ffffc90000000000) is parked until the flush of what \
             it mapped; flush that token and collect it first; nothing was changed"
        );
        let half = range(start + M2 / 2, start + M2);
        assert_eq!(
            rig.collect(half, |_, _, _| panic!("refused"))
                .unwrap_err()
                .to_string(),
            "collect ffffc90000100000-ffffc900001fffff: page 1 of 256 (ffffc90000100000) is in a parked 2M page that goes on \
             outside; collect all of it; nothing was changed"
        );
        rig.collect(large, |_, _, _| ()).unwrap();
        table(start).unwrap();
        // Somebody else's entry that denies writing.
        let step = rig.walker().walk(VirtAddr::new(start)).steps()[2];
        let slot = &rig.memory.entries::<u64>(step.entry, 1).unwrap()[0];
        <u64 as RawEntry>::store(slot, step.raw & !2);
        let reason = table(start).unwrap_err().reason;
        assert_eq!(
            reason,
            Reason::Restricted {
                page: VirtAddr::new(start),
                level: 2,
                raw: step.raw & !2
            }
        );
        let outside = table(0x00ff_0000_0000_0000).unwrap_err().reason;
        assert_eq!(outside, Reason::OutsideMode(PagingMode::FourLevel));
    });
}

/// Editors of whole tables believe their notes; a handle must have had them struck out.
#[test]
fn notes_about_the_table_are_forgotten() {
    with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
        let start = base(rig.mode);
        let whole = range(start, start + M2);
        let page = |index: u64| VirtAddr::new(start + index * K4);
        let bits = LeafBits::new(DATA, rig.limits);

        // Noted as full.
        rig.map(whole, phys(0), DATA, PageSize::Size4K).unwrap();
        let handle = leaf_table::<LongMode>(rig);
        handle.park(5, 1);
        // SAFETY: no CPU uses these tables.
        unsafe { handle.collect(5, 1, |_, _| ()) };
        assert_eq!(
            rig.unmap(whole).unwrap_err().reason,
            Reason::NotMapped { page: page(5) }
        );

        // Noted as empty.
        rig.discharge(rig.unmap_present(whole).unwrap());
        leaf_table::<LongMode>(rig).fill(3, 1, Pfn::new(77), bits);
        let error = rig.map(whole, phys(0), DATA, PageSize::Size4K).unwrap_err();
        assert_eq!(
            error.reason,
            Reason::AlreadyMapped {
                page: page(3),
                phys: phys(77 * K4)
            }
        );
        rig.discharge(rig.unmap_present(whole).unwrap());
        assert_eq!(rig.walker().translate(page(3)), None);

        // Noted as empty one level up.
        let giant = range(start, start + G1);
        rig.discharge(rig.purge(giant).unwrap());
        rig.map(giant, phys(G1), DATA, PageSize::Size2M).unwrap();
        rig.discharge(rig.unmap(giant).unwrap());
        leaf_table::<LongMode>(rig).fill(3, 1, Pfn::new(77), bits);
        let error = rig
            .map(giant, phys(G1), DATA, PageSize::Size2M)
            .unwrap_err();
        assert_eq!(
            error.reason,
            Reason::AlreadyMapped {
                page: page(3),
                phys: phys(77 * K4)
            }
        );
    });
}

/// What a call panics with.
fn panic_of(call: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(call)).expect_err("must panic");
    *payload.downcast::<String>().expect("a message")
}

#[test]
fn a_page_filled_or_parked_twice_is_told() {
    with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
        let handle = leaf_table::<LongMode>(rig);
        let bits = LeafBits::new(DATA, rig.limits);
        handle.fill(10, 4, Pfn::new(0x12345), bits);
        handle.park(12, 1);
        let before = rig.snapshot();
        let place = format!("leaf table at {}: ", handle.table());
        let advice = "; fill empty slots only, and park each page once";
        let filled = |index| panic_of(|| handle.fill(index, 1, Pfn::new(1), bits));
        let parked = |index| panic_of(|| handle.park(index, 1));
        for (told, expected) in [
            (filled(10), "slot 10 holds a page (8000000012345163)"),
            (filled(12), "slot 12 holds a parked page (800fffffedcb8962)"),
            (parked(12), "slot 12 holds a parked page (800fffffedcb8962)"),
            (parked(14), "slot 14 holds nothing (0)"),
        ] {
            assert_eq!(told, format!("{place}{expected}{advice}"));
        }
        for (index, count) in [
            (512, 1),
            (0, 513),
            (511, 2),
            (1, usize::MAX),
            (usize::MAX, 1),
        ] {
            let expected = format!(
                "{place}{count} slots from {index} on were asked for, and it has 512; keep to one table"
            );
            assert_eq!(panic_of(|| handle.park(index, count)), expected);
            let fill = || handle.fill(index, count, Pfn::new(1), bits);
            assert_eq!(panic_of(fill), expected);
        }
        assert!(before == rig.snapshot());
        handle.park(10, 0);
        assert!(before == rig.snapshot(), "no slots, no change");
    });
}

/// Consecutive frames come as one run, through the handle and through an editor, and all others by themselves.
fn runs<F: EntryFormat>(rig: &Rig<'_>) {
    let handle = leaf_table::<F>(rig);
    let bits = LeafBits::new(DATA, rig.limits);
    let last = LeafTable::<F>::SLOTS - 1;
    let all = range(base(rig.mode), base(rig.mode) + (last as u64 + 1) * K4);
    for by in [By::Handle, By::Editor] {
        for (index, count, frame) in [(0, 10, 100), (10, 5, 110), (15, 1, 114), (16, 1, 113)] {
            handle.fill(index, count, Pfn::new(frame), bits);
        }
        // Behind the last frame of all comes none.
        let end = F::FORMAT == kspace_paging::Format::TwoLevel;
        let end = if end { 1 << 20 } else { 1 << 40 };
        handle.fill(17, 1, Pfn::new(end - 1), bits);
        handle.fill(18, 1, Pfn::new(0), bits);
        handle.fill(last, 1, Pfn::new(1), bits);
        handle.park(0, 19);
        handle.park(last, 1);
        let mut found = Vec::new();
        match by {
            // SAFETY: no CPU uses these tables.
            By::Handle => unsafe {
                handle.collect(0, last + 1, |first, count| {
                    found.push((first.as_u64(), count))
                });
            },
            By::Editor => {
                let each = |first: PhysAddr, _, count| found.push((first.pfn().as_u64(), count));
                rig.collect(all, each).unwrap();
            }
        }
        // An editor joins what the slots between kept apart.
        let tail = match by {
            By::Handle => vec![(0, 1), (1, 1)],
            By::Editor => vec![(0, 2)],
        };
        let head = [(100, 15), (114, 1), (113, 1), (end - 1, 1)];
        assert_eq!(found, [head.to_vec(), tail].concat(), "{}", rig.mode);
    }
}

#[test]
fn consecutive_frames_come_as_one_run() {
    in_all_modes!(runs);
}

#[test]
fn a_root_entry_that_is_parked_is_not_populated() {
    with_rig(PagingMode::TwoLevel, Limits::WIDEST, |rig| {
        let start = base(rig.mode);
        let large = range(start, start + 2 * M2);
        rig.map(large, phys(0), DATA, PageSize::Size4M).unwrap();
        rig.discharge(rig.park(large).unwrap());
        let before = rig.snapshot();
        let wider = range(start - 2 * M2, start + 2 * M2);
        let reason = rig.populate(wider).unwrap_err().reason;
        assert_eq!(
            reason,
            Reason::Parked {
                page: large.start()
            }
        );
        assert!(before == rig.snapshot());
        rig.collect(large, |_, _, _| ()).unwrap();
        rig.discharge(rig.populate(wider).unwrap());
    });
}

fn flush(machine: &SimMachine<'_>, at: VirtRange) {
    let stale = Stale {
        range: at,
        page: PageSize::Size4K,
        global: true,
        tables: false,
        root: false,
    };
    machine.invalidate(&Invalidation::Range(stale));
}

/// Pages filled, used, parked, collected and their frames released.
fn reuse_frames<F: EntryFormat>(rig: &Rig<'_>, flushes: bool) {
    let machine = SimMachine::new(rig.memory, rig.frames, rig.mode, rig.limits, rig.root, 2);
    let (handle, bits) = (leaf_table::<F>(rig), LeafBits::new(DATA, rig.limits));
    let frames: Vec<Pfn> = (0..4)
        .map(|_| rig.frames.allocate().unwrap().pfn())
        .collect();
    let page = |index: usize| VirtAddr::new(base(rig.mode) + index as u64 * K4);
    for (index, frame) in frames.iter().enumerate() {
        handle.fill(index, 1, *frame, bits);
        (0..2).for_each(|cpu| machine.reaches(cpu, page(index), *frame).unwrap());
    }
    handle.park(0, 4);
    let all = range(base(rig.mode), base(rig.mode) + 4 * K4);
    machine.speculate(all).unwrap();
    for (index, frame) in frames.iter().enumerate() {
        // Still there for who has them; new walks find nothing, and least of all another frame.
        (0..2).for_each(|cpu| machine.reaches(cpu, page(index), *frame).unwrap());
        assert_eq!(rig.walker().translate(page(index)), None);
    }
    if flushes {
        flush(&machine, all);
    }
    // SAFETY: not upheld without the flush, on purpose: the simulated CPUs must catch it, and they touch simulated memory only.
    unsafe {
        handle.collect(0, 4, |first, count| {
            for frame in (first.as_u64()..).take(count) {
                rig.frames.release(Pfn::new(frame).start());
            }
        });
    }
    let result: Result<(), Violation> = machine.check();
    assert_eq!(result.is_ok(), flushes, "{}: {result:?}", rig.mode);
    if flushes {
        let intent = Intent::kernel(Operation::Read);
        let seen = machine
            .access(0, page(0), intent, Controls::KERNEL)
            .unwrap();
        assert_eq!((seen.pages, seen.may_fault), (vec![], true));
    }
}

#[test]
fn frames_are_reused_after_the_flush_and_not_before() {
    in_all_modes!(reuse_frames, true);
    in_all_modes!(reuse_frames, false);
}
