//! Edits under CPUs that forget nothing: with every flush done nothing stale is reached, and with one left out it is noticed.

mod rig;

use kspace_layout::{PageSize, PagingMode, Pfn, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{
    Controls, Flush, FrameSource, Intent, Invalidation, Limits, Operation, Protection, Stale, Tlb,
};
use kspace_sim::{SimMachine, Violation};
use proptest::prelude::*;
use rig::{Rig, phys, range, with_rig};

const K4: u64 = 4 << 10;
const CPUS: usize = 2;
const DATA: Protection = Protection::KERNEL_DATA;

/// Where tests map things: the middle of a large page's span, in an address every mode has.
fn base(mode: PagingMode) -> u64 {
    match mode {
        PagingMode::TwoLevel | PagingMode::Pae => 0xc080_0000,
        PagingMode::FourLevel | PagingMode::FiveLevel => 0xffff_c900_0080_0000,
    }
}

fn large(mode: PagingMode) -> PageSize {
    mode.leaf_size(2).unwrap()
}

fn machine<'m>(rig: &Rig<'m>) -> SimMachine<'m> {
    SimMachine::new(rig.memory, rig.frames, rig.mode, rig.limits, rig.root, CPUS)
}

/// How a test ends its tokens.
type Discharge = fn(&Rig<'_>, &SimMachine<'_>, Flush<Vec<Pfn>>) -> Vec<Pfn>;

fn properly(rig: &Rig<'_>, machine: &SimMachine<'_>, flush: Flush<Vec<Pfn>>) -> Vec<Pfn> {
    flush.flush(machine, rig.memory, rig.frames)
}

fn not_at_all(rig: &Rig<'_>, _: &SimMachine<'_>, flush: Flush<Vec<Pfn>>) -> Vec<Pfn> {
    // SAFETY: not upheld, on purpose: the simulated CPUs must catch it, and they touch simulated memory only.
    unsafe { flush.discharged(rig.memory, rig.frames) }
}

/// Flushes with part of what the token says struck out.
struct Forgetful<'a, 'm>(&'a SimMachine<'m>, fn(Stale) -> Stale);

// SAFETY: not upheld, on purpose: the simulated CPUs must catch it, and they touch simulated memory only.
unsafe impl Tlb for Forgetful<'_, '_> {
    fn invalidate(&self, invalidation: &Invalidation) {
        let Invalidation::Range(stale) = invalidation else {
            unreachable!()
        };
        self.0.invalidate(&Invalidation::Range(self.1(*stale)));
    }
}

fn without_tables(rig: &Rig<'_>, machine: &SimMachine<'_>, flush: Flush<Vec<Pfn>>) -> Vec<Pfn> {
    let tlb = Forgetful(machine, |stale| Stale {
        tables: false,
        ..stale
    });
    flush.flush(&tlb, rig.memory, rig.frames)
}

fn without_global(rig: &Rig<'_>, machine: &SimMachine<'_>, flush: Flush<Vec<Pfn>>) -> Vec<Pfn> {
    let tlb = Forgetful(machine, |stale| Stale {
        global: false,
        ..stale
    });
    flush.flush(&tlb, rig.memory, rig.frames)
}

fn all_but_the_last_page(
    rig: &Rig<'_>,
    machine: &SimMachine<'_>,
    flush: Flush<Vec<Pfn>>,
) -> Vec<Pfn> {
    let tlb = Forgetful(machine, |stale| Stale {
        range: VirtRange::new(stale.range.start(), stale.range.size() - K4),
        ..stale
    });
    flush.flush(&tlb, rig.memory, rig.frames)
}

/// Maps four frames, uses them, unmaps them, frees them, and uses the frames for something else.
fn reuse_frames(rig: &Rig<'_>, discharge: Discharge) -> Result<(), Violation> {
    let machine = machine(rig);
    let at = range(base(rig.mode), base(rig.mode) + 4 * K4);
    let pages = || (0..4).map(|page| VirtAddr::new(at.start().as_u64() + page * K4));
    let frames: Vec<Pfn> = pages()
        .map(|_| rig.frames.allocate().unwrap().pfn())
        .collect();
    for (page, frame) in pages().zip(&frames) {
        let one = VirtRange::new(page, K4);
        rig.map(one, frame.start(), DATA, PageSize::Size4K).unwrap();
        for cpu in 0..CPUS {
            machine.reaches(cpu, page, *frame).unwrap();
        }
    }
    let flush = rig.unmap(at).unwrap().with(frames);
    // The frames are the token's: nobody could have given them to somebody else yet.
    machine.check().expect("owned by the token");
    for frame in discharge(rig, &machine, flush) {
        rig.frames.release(frame.start());
    }
    machine.check()?;
    for page in pages() {
        let intent = Intent::kernel(Operation::Write);
        for cpu in 0..CPUS {
            let seen = machine.access(cpu, page, intent, Controls::KERNEL)?;
            assert_eq!((seen.pages, seen.may_fault), (vec![], true));
        }
    }
    Ok(())
}

/// As [`reuse_frames`], but the entries remember the frames, and nobody else does.
fn reuse_parked_frames(rig: &Rig<'_>, discharge: Discharge) -> Result<(), Violation> {
    let machine = machine(rig);
    let at = range(base(rig.mode), base(rig.mode) + 4 * K4);
    let pages = || (0..4).map(|page| VirtAddr::new(at.start().as_u64() + page * K4));
    let mut frames = Vec::new();
    for page in pages() {
        let frame = rig.frames.allocate().unwrap();
        let one = VirtRange::new(page, K4);
        rig.map(one, frame, DATA, PageSize::Size4K).unwrap();
        frames.push(frame.pfn());
    }
    machine.speculate(at)?;
    let flush = rig.park(at).unwrap();
    // What was taken in before may still be used, and leads where it led; nothing new comes in.
    machine.speculate(at)?;
    for (page, frame) in pages().zip(&frames) {
        (0..CPUS).for_each(|cpu| machine.reaches(cpu, page, *frame).unwrap());
    }
    machine.check().expect("owned by the entries");
    discharge(rig, &machine, flush.with(Vec::new()));
    let mut found = Vec::new();
    let each = |first: PhysAddr, size, count| {
        assert_eq!(size, PageSize::Size4K);
        found.extend((0..count as u64).map(|page| first.pfn().as_u64() + page));
    };
    rig.collect(at, each).unwrap();
    assert!(
        found
            .iter()
            .copied()
            .eq(frames.iter().map(|frame| frame.as_u64()))
    );
    for frame in found {
        rig.frames.release(Pfn::new(frame).start());
    }
    machine.check()?;
    for page in pages() {
        let intent = Intent::kernel(Operation::Write);
        for cpu in 0..CPUS {
            let seen = machine.access(cpu, page, intent, Controls::KERNEL)?;
            assert_eq!((seen.pages, seen.may_fault), (vec![], true));
        }
    }
    Ok(())
}

/// Empties a table, purges it, and uses its frame for something else.
fn reuse_tables(rig: &Rig<'_>, discharge: Discharge) -> Result<(), Violation> {
    let machine = machine(rig);
    let span = large(rig.mode).bytes();
    let whole = range(base(rig.mode), base(rig.mode) + span);
    let page = range(base(rig.mode) + K4, base(rig.mode) + 2 * K4);
    rig.map(page, phys(0x7000_0000), DATA, PageSize::Size4K)
        .unwrap();
    machine.speculate(whole)?;
    properly(rig, &machine, rig.unmap(page).unwrap().with(Vec::new()));
    let flush = rig.purge(whole).unwrap();
    assert_eq!(flush.tables(), 1);
    machine.check().expect("owned by the token");
    discharge(rig, &machine, flush.with(Vec::new()));
    machine.check()
}

/// Splits a large page, merges it back, and uses the table's frame for something else.
fn reuse_merged_tables(rig: &Rig<'_>, discharge: Discharge) -> Result<(), Violation> {
    let machine = machine(rig);
    let size = large(rig.mode);
    let whole = range(base(rig.mode), base(rig.mode) + size.bytes());
    let page = range(base(rig.mode) + K4, base(rig.mode) + 2 * K4);
    rig.map(whole, phys(0x4000_0000), DATA, size).unwrap();
    machine.speculate(whole)?;
    for protection in [Protection::KERNEL_RODATA, DATA] {
        let flush = rig.protect(page, protection).unwrap();
        properly(rig, &machine, flush.with(Vec::new()));
        machine.speculate(whole)?;
    }
    let flush = rig.merge(whole, size).unwrap();
    assert_eq!(flush.tables(), 1);
    // Until the flush CPUs go on through the table that was taken out: it must still say the same, link or not.
    for at in [
        whole.start(),
        page.start(),
        VirtAddr::new(whole.last().as_u64() & !0xfff),
    ] {
        let frame = 0x4_0000 + (at.as_u64() - whole.start().as_u64()) / K4;
        for cpu in 0..CPUS {
            machine.reaches(cpu, at, Pfn::new(frame)).unwrap();
        }
    }
    discharge(rig, &machine, flush.with(Vec::new()));
    machine.check()
}

fn in_all_modes(
    test: fn(&Rig<'_>, Discharge) -> Result<(), Violation>,
    discharge: Discharge,
    caught: bool,
) {
    for mode in PagingMode::ALL {
        with_rig(mode, Limits::WIDEST, |rig| {
            let result = test(rig, discharge);
            assert_eq!(result.is_err(), caught, "{mode}: {result:?}");
        });
    }
}

#[test]
fn flushed_tokens_leave_nothing_stale() {
    in_all_modes(reuse_frames, properly, false);
    in_all_modes(reuse_parked_frames, properly, false);
    in_all_modes(reuse_tables, properly, false);
    in_all_modes(reuse_merged_tables, properly, false);
}

#[test]
fn a_flush_left_out_is_caught() {
    in_all_modes(reuse_frames, not_at_all, true);
    in_all_modes(reuse_parked_frames, not_at_all, true);
    in_all_modes(reuse_tables, not_at_all, true);
    in_all_modes(reuse_merged_tables, not_at_all, true);
}

#[test]
fn each_part_of_a_flush_is_needed() {
    in_all_modes(reuse_frames, without_global, true);
    in_all_modes(reuse_frames, all_but_the_last_page, true);
    in_all_modes(reuse_parked_frames, without_global, true);
    in_all_modes(reuse_parked_frames, all_but_the_last_page, true);
    in_all_modes(reuse_tables, without_tables, true);
    in_all_modes(reuse_merged_tables, without_tables, true);
    // And what is not asked for is not needed: no table was taken out.
    in_all_modes(reuse_frames, without_tables, false);
    in_all_modes(reuse_parked_frames, without_tables, false);
}

#[test]
fn violations_say_who_could_reach_what() {
    with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
        let violation = reuse_frames(rig, not_at_all).unwrap_err();
        assert_eq!(
            violation.to_string(),
            "CPU 0 may still translate ffffc90000800000-ffffc90000800fff to frame 1001, which has been released; \
             a flush is missing"
        );
    });
    with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
        let violation = reuse_tables(rig, without_tables).unwrap_err();
        assert_eq!(
            violation.to_string(),
            "CPU 0 may still walk ffffc90000800000-ffffc900009fffff through frame 1001, once a level-1 table, which has \
             been released; a flush is missing"
        );
    });
}

#[test]
fn a_write_protected_page_is_written_by_nobody_after_the_flush() {
    for mode in PagingMode::ALL {
        with_rig(mode, Limits::WIDEST, |rig| {
            let machine = machine(rig);
            let size = large(mode);
            let whole = range(base(mode), base(mode) + size.bytes());
            rig.map(whole, phys(0x4000_0000), DATA, size).unwrap();
            machine.speculate(whole).unwrap();
            let part = range(base(mode) + 8 * K4, base(mode) + 16 * K4);
            let flush = rig.protect(part, Protection::KERNEL_RODATA).unwrap();
            let writable = || {
                let at = VirtAddr::new(part.last().as_u64() & !0xfff);
                let intent = Intent::kernel(Operation::Write);
                (0..CPUS).any(|cpu| {
                    let seen = machine.access(cpu, at, intent, Controls::KERNEL).unwrap();
                    seen.pages.iter().any(|page| page.attributes.write)
                })
            };
            assert!(
                writable(),
                "{mode}: before the flush a TLB may still hold the large page"
            );
            flush.flush(&machine, rig.memory, rig.frames);
            assert!(!writable(), "{mode}");
        });
    }
}

#[test]
fn pae_cpus_see_a_root_entry_only_after_the_flush() {
    let memory = kspace_sim::SimMemory::sparse();
    let frames = kspace_sim::SimFrames::new(&memory, rig::TABLES);
    let root = frames.allocate().unwrap();
    let rig = Rig {
        mode: PagingMode::Pae,
        limits: Limits::WIDEST,
        memory: &memory,
        frames: &frames,
        root,
    };
    let machine = machine(&rig);
    let page = range(0xc000_0000, 0xc000_1000);
    let flush = rig.populate(page).unwrap();
    rig.map(page, phys(0x5000), DATA, PageSize::Size4K).unwrap();
    machine.reaches(0, page.start(), Pfn::new(5)).unwrap_err();
    flush.flush(&machine, rig.memory, rig.frames);
    machine.reaches(0, page.start(), Pfn::new(5)).unwrap();
}

#[derive(Clone, Debug)]
enum Op {
    Map(u64, u64, bool),
    Unmap(u64, u64),
    Park(u64, u64),
    Collect,
    Protect(u64, u64, bool),
    Merge,
    Purge,
    Use(usize, u64, bool),
    Speculate,
}

fn any_op() -> impl Strategy<Value = Op> {
    // Two large pages' worth, in steps of 1/8 of a large page.
    let part = || (0u64..16, 1u64..17);
    prop_oneof![
        3 => (part(), any::<bool>()).prop_map(|((at, count), user)| Op::Map(at, count, user)),
        2 => part().prop_map(|(at, count)| Op::Unmap(at, count)),
        2 => part().prop_map(|(at, count)| Op::Park(at, count)),
        1 => Just(Op::Collect),
        2 => (part(), any::<bool>()).prop_map(|((at, count), write)| Op::Protect(at, count, write)),
        1 => Just(Op::Merge),
        1 => Just(Op::Purge),
        3 => (0..CPUS, 0u64..16, any::<bool>()).prop_map(|(cpu, at, write)| Op::Use(cpu, at, write)),
        2 => Just(Op::Speculate),
    ]
}

/// Every edit flushed at once: afterwards all that any CPU might use is what the tables say.
fn check(mode: PagingMode, ops: &[Op]) {
    with_rig(mode, Limits::WIDEST, |rig| {
        let machine = machine(rig);
        let step = large(mode).bytes() / 8;
        let all = range(base(mode), base(mode) + 16 * step);
        let part = |at: u64, count: u64| {
            range(
                base(mode) + at * step,
                base(mode) + (at + count).min(16) * step,
            )
        };
        let end = |flush: Flush| flush.flush(&machine, rig.memory, rig.frames);
        let largest = large(mode);
        for op in ops {
            match *op {
                Op::Map(at, count, user) => {
                    let protection = Protection { user, ..DATA };
                    let to = phys(0x1000_0000 + at * step);
                    let _ = rig.map(part(at, count), to, protection, largest);
                }
                Op::Unmap(at, count) => {
                    if let Ok(flush) = rig.unmap_present(part(at, count)) {
                        end(flush);
                    }
                }
                Op::Park(at, count) => {
                    if let Ok(flush) = rig.park(part(at, count)) {
                        end(flush);
                    }
                }
                Op::Collect => rig.collect(all, |_, _, _| ()).unwrap(),
                Op::Protect(at, count, write) => {
                    let to = if write {
                        DATA
                    } else {
                        Protection::KERNEL_RODATA
                    };
                    if let Ok(flush) = rig.protect(part(at, count), to) {
                        end(flush);
                    }
                }
                Op::Merge => end(rig.merge(all, largest).unwrap()),
                Op::Purge => end(rig.purge(all).unwrap()),
                Op::Use(cpu, at, write) => {
                    let operation = if write {
                        Operation::Write
                    } else {
                        Operation::Read
                    };
                    let controls = Controls::NONE;
                    let at = part(at, 1).start();
                    machine
                        .access(cpu, at, Intent::kernel(operation), controls)
                        .unwrap();
                }
                Op::Speculate => machine.speculate(all).unwrap(),
            }
            machine.check().unwrap();
            for at in 0..16 {
                let address = part(at, 1).start();
                let intent = Intent::kernel(Operation::Read);
                let tables = rig.walker().walk(address).page();
                for cpu in 0..CPUS {
                    let controls = Controls::NONE;
                    let seen = machine.access(cpu, address, intent, controls).unwrap();
                    assert_eq!(seen.pages.is_empty(), tables.is_none(), "{op:?}: {address}");
                    assert_eq!(seen.may_fault, tables.is_none(), "{op:?}: {address}");
                    for page in seen.pages {
                        let expected = tables.unwrap();
                        assert_eq!(page.translate(address), expected.phys, "{op:?}: {address}");
                        assert_eq!(
                            page.attributes.write, expected.attributes.write,
                            "{op:?}: {address}"
                        );
                        assert_eq!(
                            page.attributes.user, expected.attributes.user,
                            "{op:?}: {address}"
                        );
                    }
                }
            }
        }
    });
}

macro_rules! random_edits {
    ($($name:ident: $mode:expr;)*) => {$(
        proptest! {
            #![proptest_config(ProptestConfig {
                cases: 40,
                failure_persistence: None,
                ..ProptestConfig::default()
            })]
            #[test]
            fn $name(ops in prop::collection::vec(any_op(), 1..20)) {
                check($mode, &ops);
            }
        }
    )*};
}

random_edits! {
    two_level: PagingMode::TwoLevel;
    pae: PagingMode::Pae;
    four_level: PagingMode::FourLevel;
    five_level: PagingMode::FiveLevel;
}
