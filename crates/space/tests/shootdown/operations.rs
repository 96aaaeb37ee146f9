//! Which invalidations are emitted for what, on every kind of CPU: the fewest that do it, as the manual counts them (Intel SDM vol. 3,
//! section 5.10.4.1), and none that the CPU does not have. That they are enough is for the hostile TLBs to say.

use kspace::platform::{CpuId, CpuMask, LocalFlush, TlbFeatures};
use kspace::shootdown::{Load, Scope, Shootdown};
use kspace_layout::{PageSize, PagingMode, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Invalidation, Limits, Stale};
use kspace_sim::{Schedule, SimFrames, SimMachine, SimPlatform};

use crate::world::{K4, RAM, memory};

const BASE: u64 = 0xffff_c900_0000_0000;
const LONG: TlbFeatures = TlbFeatures::plain(PagingMode::FourLevel);
const PAE: TlbFeatures = TlbFeatures::plain(PagingMode::Pae);

/// A range of `count` pages of one size; global translations, and nothing else, are stale.
fn pages(page: PageSize, count: u64) -> Stale {
    Stale {
        range: VirtRange::new(VirtAddr::new(BASE), count * page.bytes()),
        page,
        global: true,
        tables: false,
        root: false,
    }
}

/// What one CPU with `features` is told to do about `stale`, by itself and alone.
fn emitted(features: TlbFeatures, scope: Scope, stale: &[Invalidation]) -> Vec<LocalFlush> {
    let memory = memory();
    let frames = SimFrames::new(&memory, RAM);
    let root = kspace_paging::FrameSource::allocate(&frames).expect("there is room");
    let machine = SimMachine::new(&memory, &frames, features.mode, Limits::WIDEST, root, 1);
    let machine = machine.with_features(features);
    let schedule = Schedule::new(1);
    let shootdown = Shootdown::<_, 1>::new(SimPlatform::new(&schedule, &machine)).with_scope(scope);
    match scope {
        Scope::Shared => shootdown.join(),
        Scope::Own => shootdown.switch_in(|load| assert_eq!(load, Load::Flush)),
    }
    let _ = machine.performed(0);
    shootdown.invalidate_all(stale.iter().copied());
    machine.performed(0)
}

fn range(features: TlbFeatures, stale: Stale) -> Vec<LocalFlush> {
    emitted(features, Scope::Shared, &[Invalidation::Range(stale)])
}

fn page_flushes(page: PageSize, count: u64) -> Vec<LocalFlush> {
    let flush = |index| LocalFlush::Page(VirtAddr::new(BASE + index * page.bytes()));
    (0..count).map(flush).collect()
}

#[test]
fn few_pages_are_forgotten_one_by_one_once_each_whatever_their_size() {
    for page in [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G] {
        for count in [1, 2, 33] {
            assert_eq!(range(LONG, pages(page, count)), page_flushes(page, count));
        }
    }
    // 4 MiB pages exist in two-level paging only.
    let stale = Stale {
        range: VirtRange::new(VirtAddr::new(0xc000_0000), 8 << 20),
        ..pages(PageSize::Size4M, 2)
    };
    let two_level = TlbFeatures::plain(PagingMode::TwoLevel);
    let expected = [0xc000_0000, 0xc040_0000].map(|at| LocalFlush::Page(VirtAddr::new(at)));
    assert_eq!(range(two_level, stale), expected);
}

#[test]
fn a_range_that_no_large_page_begins_with_still_has_one_address_in_each_of_them() {
    // From the middle of a large page to the middle of the fourth, whose whole ones are the second and the third.
    let start = BASE + 0x10_0000;
    let stale = Stale {
        range: VirtRange::new(VirtAddr::new(start), 6 << 20),
        ..pages(PageSize::Size2M, 3)
    };
    let addresses: Vec<u64> = range(LONG, stale)
        .iter()
        .map(|flush| match flush {
            LocalFlush::Page(address) => address.as_u64(),
            other => panic!("{other:?}"),
        })
        .collect();
    for whole in [BASE + (2 << 20), BASE + (4 << 20)] {
        let inside = |&&at: &&u64| (whole..whole + (2 << 20)).contains(&at);
        assert_eq!(addresses.iter().filter(inside).count(), 1);
    }
}

#[test]
fn many_pages_are_forgotten_all_at_once() {
    let many = pages(PageSize::Size4K, 34);
    let not_global = Stale {
        global: false,
        ..many
    };
    let global = LONG.with_global_pages();
    for (features, stale, expected) in [
        // Without global pages a write to CR3 reaches everything.
        (LONG, many, LocalFlush::LoadRoot),
        (LONG.with_invpcid(), many, LocalFlush::LoadRoot),
        (global, many, LocalFlush::ToggleGlobal),
        (global.with_invpcid(), many, LocalFlush::Everything),
        // Global translations that are not stale stay.
        (global, not_global, LocalFlush::LoadRoot),
        (global.with_invpcid(), not_global, LocalFlush::LoadRoot),
        // Under other PCIDs a write to CR3 reaches nothing.
        (LONG.with_contexts(), many, LocalFlush::ToggleGlobal),
        (
            LONG.with_contexts().with_invpcid(),
            many,
            LocalFlush::EveryContext,
        ),
        (
            global.with_contexts().with_invpcid(),
            many,
            LocalFlush::Everything,
        ),
        (
            global.with_contexts().with_invpcid(),
            not_global,
            LocalFlush::EveryContext,
        ),
    ] {
        assert_eq!(range(features, stale), [expected], "{features:?}");
    }
}

#[test]
fn with_pcids_one_page_is_enough_only_for_global_pages() {
    let one = pages(PageSize::Size4K, 1);
    let both = LONG.with_contexts().with_invpcid();
    let global = both.with_global_pages();
    assert_eq!(range(global, one), page_flushes(PageSize::Size4K, 1));
    assert_eq!(range(both, one), [LocalFlush::EveryContext]);
    // Some of what is shared is not global:
    let mixed = TlbFeatures {
        shared_is_global: false,
        ..global
    };
    assert_eq!(range(mixed, one), [LocalFlush::Everything]);
    // Upper-level entries are kept under every PCID, and a page's flush reaches the current one's only.
    let table = Stale {
        tables: true,
        ..one
    };
    assert_eq!(range(global, table), [LocalFlush::Everything]);
    assert_eq!(
        range(LONG, table),
        page_flushes(PageSize::Size4K, 1),
        "without PCIDs it reaches them all"
    );
}

#[test]
fn pae_roots_are_loaded_again_besides() {
    let stale = Stale {
        range: VirtRange::new(VirtAddr::new(0xc000_0000), K4),
        root: true,
        ..pages(PageSize::Size4K, 1)
    };
    let page = LocalFlush::Page(VirtAddr::new(0xc000_0000));
    assert_eq!(range(PAE, stale), [page, LocalFlush::LoadRoot]);
    let many = Stale {
        range: VirtRange::new(VirtAddr::new(0xc000_0000), 34 * K4),
        ..stale
    };
    assert_eq!(range(PAE, many), [LocalFlush::LoadRoot], "once is enough");
    let global = PAE.with_global_pages();
    assert_eq!(
        range(global, many),
        [LocalFlush::ToggleGlobal, LocalFlush::LoadRoot]
    );
    let everything = emitted(global, Scope::Shared, &[Invalidation::Everything]);
    assert_eq!(everything, [LocalFlush::ToggleGlobal, LocalFlush::LoadRoot]);
    // In the other modes the root is read in every walk.
    let long = Stale {
        root: true,
        ..pages(PageSize::Size4K, 1)
    };
    assert_eq!(range(LONG, long), page_flushes(PageSize::Size4K, 1));
}

#[test]
fn everything_is_everything() {
    let everything = |features| emitted(features, Scope::Shared, &[Invalidation::Everything]);
    assert_eq!(everything(LONG), [LocalFlush::LoadRoot]);
    let global = LONG.with_global_pages();
    assert_eq!(everything(global), [LocalFlush::ToggleGlobal]);
    assert_eq!(everything(global.with_invpcid()), [LocalFlush::Everything]);
}

#[test]
fn a_user_space_is_flushed_under_its_own_pcid_alone() {
    let features = LONG.with_global_pages().with_contexts().with_invpcid();
    let stale = |count| Stale {
        range: VirtRange::new(VirtAddr::new(0x40_0000), count * K4),
        global: false,
        ..pages(PageSize::Size4K, count)
    };
    let own = |stale| emitted(features, Scope::Own, &[Invalidation::Range(stale)]);
    let page = LocalFlush::Page(VirtAddr::new(0x40_0000));
    assert_eq!(own(stale(1)), [page]);
    assert_eq!(own(stale(34)), [LocalFlush::LoadRoot]);
    let table = Stale {
        tables: true,
        ..stale(1)
    };
    assert_eq!(own(table), [page]);
}

#[test]
fn a_batch_counts_as_one() {
    let one = |index: u64, count: u64| {
        Invalidation::Range(Stale {
            range: VirtRange::new(VirtAddr::new(BASE + (index << 30)), count * K4),
            ..pages(PageSize::Size4K, count)
        })
    };
    let batch = |counts: &[u64]| -> Vec<LocalFlush> {
        let ranges: Vec<_> = (0..).zip(counts).map(|(i, &n)| one(i, n)).collect();
        emitted(LONG.with_global_pages(), Scope::Shared, &ranges)
    };
    let expected = [0, 1 << 30, 2 << 30].map(|at| LocalFlush::Page(VirtAddr::new(BASE + at)));
    assert_eq!(batch(&[1, 1, 1]), expected);
    assert_eq!(batch(&[11, 11, 11]).len(), 33);
    // Few each, but many together.
    assert_eq!(batch(&[12, 11, 11]), [LocalFlush::ToggleGlobal]);
    assert_eq!(batch(&[]), []);
}

#[test]
fn pages_in_both_halves_are_one_flush() {
    let of = |start| {
        Invalidation::Range(Stale {
            range: VirtRange::new(VirtAddr::new(start), K4),
            ..pages(PageSize::Size4K, 1)
        })
    };
    let expected = [0x1000, 0xffff_ffff_ffff_f000].map(|at| LocalFlush::Page(VirtAddr::new(at)));
    let both = [of(0x1000), of(0xffff_ffff_ffff_f000)];
    assert_eq!(emitted(LONG, Scope::Shared, &both), expected);
}

#[test]
fn a_boot_cpu_that_has_not_joined_flushes_what_it_wants_and_no_more() {
    let memory = memory();
    let frames = SimFrames::new(&memory, RAM);
    let machine = SimMachine::new(
        &memory,
        &frames,
        PagingMode::FourLevel,
        Limits::WIDEST,
        PhysAddr::new(RAM.start().as_u64()),
        1,
    );
    let schedule = Schedule::new(1);
    let shootdown = Shootdown::<_, 1, 4>::new(SimPlatform::new(&schedule, &machine));
    for _ in 0..10 {
        shootdown.invalidate(&Invalidation::Range(pages(PageSize::Size4K, 1)));
        assert_eq!(machine.performed(0), page_flushes(PageSize::Size4K, 1));
    }
    assert_eq!(shootdown.holders(), CpuMask::EMPTY);
    shootdown.join();
    assert_eq!(machine.performed(0), [LocalFlush::ToggleGlobal]);
    assert_eq!(shootdown.seen(CpuId::new(0)), 10);
    assert_eq!(
        shootdown.to_string(),
        "shootdown: generation 10; CPU 0 active at 10"
    );
}
