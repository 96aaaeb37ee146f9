//! What edits answer and leave behind: page sizes, accessed and dirty bits, tokens, and the exact words of every refusal.

mod rig;

use kspace_layout::{PageSize, PagingMode, VirtAddr, VirtRange};
use kspace_paging::{
    Access, CacheType, Editor, FrameSource, Invalidation, Limits, LongMode, PhysMemory, Protection,
    RawEntry, TwoLevel,
};
use kspace_sim::{SimFrames, SimMemory};
use proptest::prelude::*;
use rig::{Rig, TABLES, phys, range, with_rig};

const FOUR: PagingMode = PagingMode::FourLevel;
const DATA: Protection = Protection::KERNEL_DATA;
const K4: u64 = 4 << 10;
const M2: u64 = 2 << 20;
const G1: u64 = 1 << 30;
const BASE: u64 = 0xffff_8880_0000_0000;

/// The sizes of the pages of `at`, one letter's worth of each: what a boot log calls them.
fn sizes(rig: &Rig<'_>, at: VirtRange) -> Vec<(PageSize, u64)> {
    rig.walker()
        .runs(at)
        .map(|run| run.unwrap())
        .map(|run| (run.page, run.virt.size() / run.page.bytes()))
        .collect()
}

/// The raw leaf entry of `address`.
fn leaf(rig: &Rig<'_>, address: u64) -> u64 {
    rig.walker()
        .walk(VirtAddr::new(address))
        .steps()
        .last()
        .unwrap()
        .raw
}

/// Sets bits of a leaf, as a CPU would.
fn set_in_leaf(rig: &Rig<'_>, address: u64, bits: u64) {
    let step = *rig
        .walker()
        .walk(VirtAddr::new(address))
        .steps()
        .last()
        .unwrap();
    let slot = &rig.memory.entries::<u64>(step.entry, 1).unwrap()[0];
    <u64 as RawEntry>::store(slot, step.raw | bits);
}

const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;

#[test]
fn entries_are_those_that_linux_would_write() {
    // Linux's __PAGE_KERNEL is 8000000000000163 (NX G D A W P), __PAGE_KERNEL_EXEC without W and D is 121, __PAGE_KERNEL_RO
    // 8000000000000121 (arch/x86/include/asm/pgtable_types.h; its own RO is dirty there, ours must not be).
    with_rig(FOUR, Limits::WIDEST, |rig| {
        for (at, protection, expected) in [
            (0, DATA, 0x8000_0000_0000_0163),
            (K4, Protection::KERNEL_RODATA, 0x8000_0000_0000_0121),
            (2 * K4, Protection::KERNEL_TEXT, 0x0000_0000_0000_0121),
            (
                3 * K4,
                Protection::user(Access::ReadWrite),
                0x8000_0000_0000_0007,
            ),
            (
                4 * K4,
                DATA.with_cache(CacheType::Uncached),
                0x8000_0000_0000_017b,
            ),
            (
                5 * K4,
                DATA.with_cache(CacheType::WriteThrough),
                0x8000_0000_0000_01fb,
            ),
        ] {
            rig.map(
                range(BASE + at, BASE + at + K4),
                phys(at),
                protection,
                PageSize::Size1G,
            )
            .unwrap();
            assert_eq!(leaf(rig, BASE + at), expected | at, "{protection:?}");
        }
        rig.map(
            range(BASE + M2, BASE + 2 * M2),
            phys(M2),
            DATA,
            PageSize::Size2M,
        )
        .unwrap();
        assert_eq!(leaf(rig, BASE + M2), 0x8000_0000_0020_01e3);
        let walk = rig.walker().walk(VirtAddr::new(BASE));
        assert!(
            walk.steps()[..3]
                .iter()
                .all(|step| step.raw & 0xfff == 0x27),
            "_PAGE_TABLE less D"
        );
    });
}

#[test]
fn pse36_pages_reach_40_bits() {
    with_rig(PagingMode::TwoLevel, Limits::WIDEST, |rig| {
        let at = range(0xc000_0000, 0xc080_0000);
        rig.map(at, phys(0xab_1200_0000), DATA, PageSize::Size4M)
            .unwrap();
        // G PS D A W P, address bits 31:22 in place, 39:32 in bits 20:13.
        assert_eq!(leaf(rig, 0xc000_0000), 0x1200_0000 | 0xab << 13 | 0x1e3);
        assert_eq!(leaf(rig, 0xc040_0000), 0x1240_0000 | 0xab << 13 | 0x1e3);
        let error = rig.unmap(range(0xc000_0000, 0xc000_1000)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unmap 00000000c0000000-00000000c0000fff: page 1 of 1 (00000000c0000000) would lie at physical \
             000000ab12000000, but the entries end below 0000000100000000; nothing was changed"
        );
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    /// The greedy rule, page by page: the largest page that both addresses are multiples of and that still fits.
    #[test]
    fn the_largest_pages_that_fit(
        skip in 0u64..2048, count in 1u64..4096, giants in 0u64..3, beside in prop_oneof![Just(0), Just(K4), Just(M2), Just(G1)],
    ) {
        with_rig(FOUR, Limits::WIDEST, |rig| {
            let start = BASE + skip * K4;
            let end = start + count * K4 + giants * G1;
            let to = skip * K4 + beside;
            unless_huge(beside, giants, || {
                rig.map(range(start, end), phys(to), DATA, PageSize::Size1G).unwrap();
                let mut expected: Vec<(PageSize, u64)> = Vec::new();
                let mut at = start;
                while at < end {
                    let size = [PageSize::Size1G, PageSize::Size2M, PageSize::Size4K]
                        .into_iter()
                        .find(|size| {
                            let bytes = size.bytes();
                            at.is_multiple_of(bytes) && (at - start + to).is_multiple_of(bytes) && at + bytes <= end
                        })
                        .unwrap();
                    match expected.last_mut() {
                        Some((last, count)) if *last == size => *count += 1,
                        _ => expected.push((size, 1)),
                    }
                    at += size.bytes();
                }
                assert_eq!(sizes(rig, range(start, end)), expected);
            });
        });
    }
}

fn unless_huge(beside: u64, giants: u64, test: impl FnOnce()) {
    if beside != K4 || giants == 0 {
        test();
    }
}

#[test]
fn the_cap_and_the_machine_bound_the_page_size() {
    let cases = [
        (FOUR, Limits::WIDEST, PageSize::Size1G, PageSize::Size1G),
        (FOUR, Limits::WIDEST, PageSize::Size4M, PageSize::Size2M),
        (FOUR, Limits::WIDEST, PageSize::Size4K, PageSize::Size4K),
        (
            FOUR,
            Limits::WIDEST.with_gigabyte_pages(false),
            PageSize::Size1G,
            PageSize::Size2M,
        ),
        (
            PagingMode::FiveLevel,
            Limits::WIDEST,
            PageSize::Size1G,
            PageSize::Size1G,
        ),
        (
            PagingMode::Pae,
            Limits::WIDEST,
            PageSize::Size1G,
            PageSize::Size2M,
        ),
        (
            PagingMode::TwoLevel,
            Limits::WIDEST,
            PageSize::Size1G,
            PageSize::Size4M,
        ),
        (
            PagingMode::TwoLevel,
            Limits::WIDEST,
            PageSize::Size2M,
            PageSize::Size4K,
        ),
        (
            PagingMode::TwoLevel,
            Limits::WIDEST.with_large_pages(false),
            PageSize::Size1G,
            PageSize::Size4K,
        ),
    ];
    for (mode, limits, cap, expected) in cases {
        with_rig(mode, limits, |rig| {
            let at = range(G1, 2 * G1);
            rig.map(at, phys(G1), DATA, cap).unwrap();
            assert_eq!(
                sizes(rig, at),
                [(expected, G1 / expected.bytes())],
                "{mode} {cap}"
            );
        });
    }
}

#[test]
fn splits_stop_at_the_size_that_is_needed_and_merges_go_back() {
    with_rig(FOUR, Limits::WIDEST, |rig| {
        let all = range(BASE, BASE + G1);
        rig.map(all, phys(0), DATA, PageSize::Size1G).unwrap();
        let tables = rig.frames.in_use();
        let hole = range(BASE + 5 * M2, BASE + 5 * M2 + K4);
        rig.discharge(rig.protect(hole, Protection::KERNEL_RODATA).unwrap());
        let (k4, m2) = (PageSize::Size4K, PageSize::Size2M);
        assert_eq!(sizes(rig, all), [(m2, 5), (k4, 1), (k4, 511), (m2, 506)]);
        assert_eq!(rig.frames.in_use(), tables + 2);

        // The same protection again: nothing to split, nothing to flush.
        let again = rig.protect(range(BASE, BASE + K4), DATA).unwrap();
        assert_eq!(again.invalidation(), None);
        assert_eq!(sizes(rig, all), [(m2, 5), (k4, 1), (k4, 511), (m2, 506)]);

        // Not while the parts differ.
        let flush = rig.merge(all, PageSize::Size1G).unwrap();
        assert_eq!((flush.tables(), flush.invalidation()), (0, None));
        rig.discharge(rig.protect(hole, DATA).unwrap());
        // Not beyond what is held, nor above the cap.
        let part = range(BASE, BASE + 5 * M2 + K4);
        assert_eq!(rig.merge(part, PageSize::Size1G).unwrap().tables(), 0);
        let flush = rig.merge(all, PageSize::Size2M).unwrap();
        assert_eq!(flush.tables(), 1);
        rig.discharge(flush);
        assert_eq!(sizes(rig, all), [(m2, 512)]);
        let flush = rig.merge(all, PageSize::Size1G).unwrap();
        assert_eq!(flush.tables(), 1);
        match flush.invalidation() {
            Some(Invalidation::Range(stale)) => assert!(stale.tables && stale.global),
            other => panic!("{other:?}"),
        }
        rig.discharge(flush);
        assert_eq!(sizes(rig, all), [(PageSize::Size1G, 1)]);
        assert_eq!(leaf(rig, BASE), 0x8000_0000_0000_01e3);
        assert_eq!(rig.frames.in_use(), tables);
    });
}

#[test]
fn a_table_that_was_merged_away_says_the_same_until_the_flush() {
    for mode in PagingMode::ALL {
        with_rig(mode, Limits::WIDEST, |rig| {
            let size = mode.leaf_size(2).unwrap();
            let base = 0xc000_0000;
            let whole = range(base, base + size.bytes());
            rig.map(whole, phys(0x4000_0000), DATA, size).unwrap();
            for protection in [Protection::KERNEL_RODATA, DATA] {
                let part = range(base, base + K4);
                rig.discharge(rig.protect(part, protection).unwrap());
            }
            let table = rig
                .walker()
                .walk(whole.start())
                .steps()
                .last()
                .unwrap()
                .entry;
            // Bits 9 to 11 mean nothing to the CPU; in two-level paging a word is two entries.
            let software = if mode == PagingMode::TwoLevel {
                0xe00_0000_0e00
            } else {
                0xe00
            };
            let read = || -> Vec<u64> {
                let words = rig.memory.snapshot(table.pfn());
                words.into_iter().map(|word| word & !software).collect()
            };
            let before = read();
            let flush = rig.merge(whole, size).unwrap();
            assert_eq!(flush.tables(), 1, "{mode}");
            assert_eq!(before, read(), "{mode}: a CPU may still walk through it");
            rig.discharge(flush);
        });
    }
}

#[test]
fn tables_stay_until_purged_and_root_entries_longer() {
    with_rig(FOUR, Limits::WIDEST, |rig| {
        let all = range(BASE, BASE + M2);
        let kernel = VirtRange::new(VirtAddr::new(0xffff_8000_0000_0000), 1 << 47);
        rig.map(all, phys(K4), DATA, PageSize::Size1G).unwrap();
        rig.discharge(rig.unmap(all).unwrap());
        assert_eq!(rig.frames.in_use(), 4, "the tables are still there");
        // An existing table is filled, even where a large page would fit.
        rig.map(all, phys(M2), DATA, PageSize::Size1G).unwrap();
        assert_eq!(sizes(rig, all), [(PageSize::Size4K, 512)]);
        assert_eq!(rig.purge(kernel).unwrap().tables(), 0, "nothing is empty");
        rig.discharge(rig.unmap(all).unwrap());

        let editor = rig.editor::<LongMode>().keep_root_entries(kernel);
        let flush = editor.purge(kernel).unwrap();
        assert_eq!(flush.tables(), 2, "the root entry's own table stays");
        rig.discharge(flush);
        assert_eq!(rig.frames.in_use(), 2);
        rig.discharge(rig.purge(kernel).unwrap());
        assert_eq!(rig.frames.in_use(), 1);
        // Only now can a large page be used.
        rig.map(all, phys(M2), DATA, PageSize::Size1G).unwrap();
        assert_eq!(sizes(rig, all), [(PageSize::Size2M, 1)]);
    });
}

#[test]
fn dirty_bits_are_kept_except_by_write_protection() {
    with_rig(FOUR, Limits::WIDEST, |rig| {
        let user = Protection::user(Access::ReadWrite);
        let all = range(M2, 2 * M2);
        rig.map(all, phys(M2), user, PageSize::Size2M).unwrap();
        assert_eq!(
            leaf(rig, M2) & (ACCESSED | DIRTY),
            0,
            "user pages are born clean"
        );
        set_in_leaf(rig, M2, ACCESSED | DIRTY);
        // A split hands both bits to every part.
        let first = range(M2, M2 + K4);
        rig.discharge(
            rig.protect(first, Protection::user(Access::ReadOnly))
                .unwrap(),
        );
        assert_eq!(
            leaf(rig, M2) & (ACCESSED | DIRTY),
            ACCESSED,
            "read-only is never dirty"
        );
        assert_eq!(leaf(rig, M2 + K4) & (ACCESSED | DIRTY), ACCESSED | DIRTY);
        // A change of something else keeps them.
        let second = range(M2 + K4, M2 + 2 * K4);
        rig.discharge(
            rig.protect(second, user.with_cache(CacheType::Uncached))
                .unwrap(),
        );
        assert_eq!(leaf(rig, M2 + K4) & (ACCESSED | DIRTY), ACCESSED | DIRTY);

        let mut told = Vec::new();
        let flush = rig
            .unmap_each(range(M2, M2 + 3 * K4), |page| told.push(page))
            .unwrap();
        rig.discharge(flush);
        let found: Vec<_> = told
            .iter()
            .map(|page| (page.phys.as_u64(), page.accessed, page.dirty))
            .collect();
        assert_eq!(
            found,
            [
                (M2, true, false),
                (M2 + K4, true, true),
                (M2 + 2 * K4, true, true)
            ]
        );
        // Holes are passed over, and software's bits kept by others are of no matter.
        let flush = rig.unmap_each(all, |page| told.push(page)).unwrap();
        rig.discharge(flush);
        assert_eq!(told.len(), 512);
    });
}

#[test]
fn a_read_only_page_that_is_dirty_is_mended_by_protect() {
    with_rig(FOUR, Limits::WIDEST, |rig| {
        let page = range(BASE, BASE + K4);
        rig.map(page, phys(0), Protection::KERNEL_RODATA, PageSize::Size4K)
            .unwrap();
        // As a boot loader may leave it.
        set_in_leaf(rig, BASE, DIRTY);
        let flush = rig.protect(page, Protection::KERNEL_RODATA).unwrap();
        assert!(flush.invalidation().is_some());
        rig.discharge(flush);
        assert_eq!(leaf(rig, BASE) & DIRTY, 0);
    });
}

#[test]
fn tokens_say_what_to_flush() {
    with_rig(FOUR, Limits::WIDEST, |rig| {
        let kernel = range(BASE, BASE + 3 * M2);
        rig.map(kernel, phys(0), DATA, PageSize::Size2M).unwrap();
        let user = range(0, 2 * K4);
        rig.map(
            user,
            phys(0),
            Protection::user(Access::ReadOnly),
            PageSize::Size2M,
        )
        .unwrap();

        let mut flush = rig.unmap(kernel).unwrap();
        let Some(Invalidation::Range(stale)) = flush.invalidation().copied() else {
            panic!()
        };
        assert_eq!(
            (stale.range, stale.page, stale.pages()),
            (kernel, PageSize::Size2M, 3)
        );
        assert!(stale.global && !stale.tables && !stale.root);

        let other = rig.unmap(user).unwrap();
        let Some(Invalidation::Range(stale)) = other.invalidation().copied() else {
            panic!()
        };
        assert_eq!(
            (stale.range, stale.page, stale.pages()),
            (user, PageSize::Size4K, 2)
        );
        assert!(!stale.global && !stale.tables && !stale.root);

        // The two halves have no range in common: one flush for both is a flush of everything.
        flush.absorb(other, rig.memory);
        assert_eq!(flush.invalidation(), Some(&Invalidation::Everything));
        let purged = rig.purge(range(0, M2)).unwrap();
        assert_eq!(purged.tables(), 1);
        flush.absorb(purged, rig.memory);
        // The table of the kernel's three pages, then the two above the user's.
        for at in [range(BASE, BASE + G1), range(0, 512 * G1)] {
            let tables = flush.tables();
            let purged = rig.purge(at).unwrap();
            let more = purged.tables();
            flush.absorb(purged, rig.memory);
            assert_eq!(flush.tables(), tables + more);
        }
        assert_eq!(flush.tables(), 4);
        let in_use = rig.frames.in_use();
        rig.discharge(flush);
        assert_eq!(
            rig.frames.in_use(),
            in_use - 4,
            "every frame of the joined lists"
        );
        assert_eq!(rig.unmap_present(kernel).unwrap().invalidation(), None);
    });
}

#[test]
fn a_flush_of_part_of_a_large_page_is_as_fine_as_the_parts() {
    for (first, last, expected) in [
        (0, G1, PageSize::Size1G),
        (M2, 3 * M2, PageSize::Size2M),
        (M2, 3 * M2 + K4, PageSize::Size4K),
        (K4, G1, PageSize::Size4K),
    ] {
        with_rig(FOUR, Limits::WIDEST, |rig| {
            rig.map(range(BASE, BASE + G1), phys(0), DATA, PageSize::Size1G)
                .unwrap();
            let flush = rig.unmap(range(BASE + first, BASE + last)).unwrap();
            let Some(Invalidation::Range(stale)) = flush.invalidation().copied() else {
                panic!()
            };
            assert_eq!(stale.page, expected, "{first:x}-{last:x}");
            rig.discharge(flush);
        });
    }
}

#[test]
fn pae_fills_its_root_only_by_populate() {
    let memory = SimMemory::sparse();
    let frames = SimFrames::new(&memory, TABLES);
    let root = frames.allocate().unwrap();
    let (mode, limits) = (PagingMode::Pae, Limits::WIDEST);
    let rig = Rig {
        mode,
        limits,
        memory: &memory,
        frames: &frames,
        root,
    };
    let at = range(0xc000_0000, 0xc000_2000);
    let error = rig.map(at, phys(0), DATA, PageSize::Size4K).unwrap_err();
    assert_eq!(
        error.to_string(),
        "map 00000000c0000000-00000000c0001fff: page 1 of 2 (00000000c0000000) has no root entry, which PAE reads only \
         with CR3; populate the range first; nothing was changed"
    );
    let flush = rig.populate(at).unwrap();
    let Some(Invalidation::Range(stale)) = flush.invalidation().copied() else {
        panic!()
    };
    assert!(stale.root);
    rig.discharge(flush);
    assert_eq!(
        rig.populate(at).unwrap().invalidation(),
        None,
        "it is there already"
    );
    rig.map(at, phys(0), DATA, PageSize::Size4K).unwrap();
    rig.discharge(rig.unmap(at).unwrap());
    rig.discharge(rig.purge(VirtRange::new(VirtAddr::ZERO, 1 << 32)).unwrap());
    assert_eq!(frames.in_use(), 2, "the root and its page directory");
}

#[test]
fn refusals_say_where_what_and_what_to_do() {
    with_rig(FOUR, Limits::WIDEST.with_phys_bits(40), |rig| {
        let at = 0xffff_c900_0004_2000;
        let four = range(at, at + 4 * K4);
        let third = range(at + 2 * K4, at + 3 * K4);
        let small = PageSize::Size4K;
        let message =
            |result: Result<_, kspace_paging::EditError>| result.err().unwrap().to_string();

        rig.map(third, phys(0x7f3a_2000), DATA, small).unwrap();
        let before = rig.snapshot();
        let map = |range, to, protection| rig.map(range, phys(to), protection, small);
        assert_eq!(
            message(map(four, 0, DATA)),
            "map ffffc90000042000-ffffc90000045fff: page 3 of 4 (ffffc90000044000) already maps physical \
             000000007f3a2000; nothing was changed"
        );
        assert_eq!(
            message(map(range(at + 1, at + K4 + 1), 0, DATA)),
            "map ffffc90000042001-ffffc90000043000: start and size must be multiples of 4 KiB; nothing was changed"
        );
        assert_eq!(
            message(map(range(at, at + K4), 0x1234, DATA)),
            "map ffffc90000042000-ffffc90000042fff: physical 0000000000001234 must be a multiple of 4 KiB; nothing was changed"
        );
        assert_eq!(
            message(map(
                range(0xff11_0000_0000_0000, 0xff11_0000_0000_1000),
                0,
                DATA
            )),
            "map ff11000000000000-ff11000000000fff: 4-level paging does not reach all of it; keep to its range; \
             nothing was changed"
        );
        assert_eq!(
            message(map(range(at - 2 * K4, at), (1 << 40) - K4, DATA)),
            "map ffffc90000040000-ffffc90000041fff: page 2 of 2 (ffffc90000041000) would lie at physical \
             0000010000000000, but the entries end below 0000010000000000; nothing was changed"
        );
        assert_eq!(
            message(rig.unmap(range(at + 2 * K4, at + 4 * K4)).map(|_| ())),
            "unmap ffffc90000044000-ffffc90000045fff: page 2 of 2 (ffffc90000045000) is not mapped; nothing was changed"
        );
        assert_eq!(
            message(rig.protect(third, Protection::KERNEL_TEXT).map(|_| ())),
            "protect ffffc90000044000-ffffc90000044fff: page 1 of 1 (ffffc90000044000) would be writable and executable \
             until the flush; protect it read-only and flush first; nothing was changed"
        );
        rig.frames.set_budget(Some(1));
        assert_eq!(
            message(map(range(BASE, BASE + K4), 0, DATA)),
            "map ffff888000000000-ffff888000000fff: 3 tables are needed, and there were frames for 1; free some memory; \
             nothing was changed"
        );
        rig.frames.set_budget(None);
        assert!(before == rig.snapshot());

        // A boot loader's tables: an entry that denies user mode, and one that leads out of memory.
        let memory = rig.memory;
        let slot =
            |table: u64, index: usize| &memory.entries::<u64>(phys(table), 512).unwrap()[index];
        let root = rig.root.as_u64();
        let inner = rig.frames.allocate().unwrap().as_u64();
        <u64 as RawEntry>::store(slot(root, 0), inner | 0x3);
        assert_eq!(
            message(map(range(0, K4), 0, Protection::user(Access::ReadOnly))),
            format!(
                "map 0000000000000000-0000000000000fff: the level-4 entry {:016x} over page 1 of 1 (0000000000000000) denies \
                 what is asked for; widen it first; nothing was changed",
                inner | 3
            )
        );
        <u64 as RawEntry>::store(slot(root, 0), 0x7f_0000_0007);
        assert_eq!(
            message(map(range(0, K4), 0, DATA)),
            "map 0000000000000000-0000000000000fff: the level-3 table of page 1 of 1 (0000000000000000) lies at physical \
             0000007f00000000, out of reach; make it reachable first; nothing was changed"
        );
    });
}

#[test]
fn executable_becomes_writable_only_through_read_only() {
    with_rig(FOUR, Limits::WIDEST, |rig| {
        let at = range(BASE, BASE + G1);
        rig.map(at, phys(0), Protection::KERNEL_TEXT, PageSize::Size1G)
            .unwrap();
        let part = range(BASE + K4, BASE + 3 * K4);
        assert_eq!(
            rig.protect(part, DATA).unwrap_err().to_string(),
            "protect ffff888000001000-ffff888000002fff: page 1 of 2 (ffff888000001000) would be writable and executable \
             until the flush; protect it read-only and flush first; nothing was changed"
        );
        rig.discharge(rig.protect(part, Protection::KERNEL_RODATA).unwrap());
        rig.discharge(rig.protect(part, DATA).unwrap());
        assert!(
            rig.walker()
                .runs(at)
                .all(|run| !run.unwrap().attributes.is_write_execute())
        );
    });
}

#[test]
fn unsuitable_roots_are_refused() {
    let memory = SimMemory::sparse();
    let frames = SimFrames::new(&memory, TABLES);
    let root = frames.allocate().unwrap();
    let limits = Limits::WIDEST;
    // SAFETY: nothing is edited.
    let message = |mode, root| unsafe {
        Editor::<TwoLevel, _, _>::new(mode, root, limits, &memory, &frames)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        message(FOUR, root),
        "page-table root: an editor of TwoLevel entries cannot edit 4-level tables; choose the format by the mode"
    );
    let two = PagingMode::TwoLevel;
    assert_eq!(
        message(two, phys(0x1080)),
        "page-table root: physical 0000000000001080 cannot be a 32-bit root; it must be a multiple of 4096 that CR3 can hold"
    );
    assert_eq!(
        message(two, phys(1 << 32)),
        "page-table root: physical 0000000100000000 cannot be a 32-bit root; it must be a multiple of 4096 that CR3 can hold"
    );
    assert_eq!(
        message(two, phys(0x8000_0000)),
        "page-table root: physical 0000000080000000 is out of reach; give memory that holds it"
    );
}

#[test]
fn frames_that_cannot_hold_a_table_are_given_back() {
    // Two-level entries cannot name a table above 4 GiB.
    let memory = SimMemory::sparse();
    let low = SimFrames::new(&memory, TABLES);
    let root = low.allocate().unwrap();
    let high = kspace_layout::PhysRange::new(phys(1 << 32), 1 << 20);
    let frames = SimFrames::new(&memory, high);
    // SAFETY: nothing but this test uses the tables.
    let editor = unsafe {
        Editor::<TwoLevel, _, _>::new(PagingMode::TwoLevel, root, Limits::WIDEST, &memory, &frames)
    }
    .unwrap();
    let error = editor
        .map(range(0, K4), phys(0), DATA, PageSize::Size4K)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "map 0000000000000000-0000000000000fff: the frame source gave physical 0000000100000000, which cannot hold a table; \
         give it reachable frames only; nothing was changed"
    );
    assert_eq!(frames.in_use(), 0);
}

#[test]
fn the_last_pages_of_each_address_space_can_be_edited() {
    for (mode, last) in [
        (PagingMode::TwoLevel, 0xffff_f000),
        (PagingMode::Pae, 0xffff_f000),
        (FOUR, 0xffff_ffff_ffff_f000),
        (PagingMode::FiveLevel, 0xffff_ffff_ffff_f000),
    ] {
        with_rig(mode, Limits::WIDEST, |rig| {
            let page = VirtRange::new(VirtAddr::new(last), K4);
            rig.map(page, phys(K4), Protection::KERNEL_TEXT, PageSize::Size1G)
                .unwrap();
            assert_eq!(rig.walker().translate(page.last()), Some(phys(2 * K4 - 1)));
            let run = rig.walker().runs(page).next().unwrap().unwrap();
            assert_eq!(run.virt, page);
            rig.discharge(rig.unmap(page).unwrap());
            assert_eq!(rig.walker().translate(page.start()), None);
        });
    }
}
