//! Walks over tables written by hand, held against the rules of the Intel SDM (vol. 3, sections 5.3 to 5.7).

mod rig;

use std::collections::HashMap;

use kspace_layout::{PageSize, PagingMode, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::access::error_code::{FETCH, PRESENT, RESERVED, USER, WRITE};
use kspace_paging::{
    CacheType, Controls, End, EntryRead, FaultCause, Intent, Limits, Merge, Obstacle, Operation,
    Pat, Refusal, Walker,
};
use rig::{phys, range};

/// A dump: the entries that were written, and no others.
#[derive(Default)]
struct Dump(HashMap<u64, u64>);

impl EntryRead for Dump {
    fn read_u32(&self, entry: PhysAddr) -> Option<u32> {
        self.0
            .get(&entry.as_u64())
            .map(|&raw| u32::try_from(raw).expect("a 32-bit entry"))
    }

    fn read_u64(&self, entry: PhysAddr) -> Option<u64> {
        self.0.get(&entry.as_u64()).copied()
    }
}

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const PS: u64 = 0x80;
const G: u64 = 0x100;
const NX: u64 = 1 << 63;

/// One table per level at 0x1000 (the root) to 0x5000, all walked through slot 0; `entries` from the root down.
fn chain(entries: &[u64]) -> Dump {
    let mut dump = Dump::default();
    for (depth, &entry) in entries.iter().enumerate() {
        let next = 0x1000 * (depth as u64 + 2);
        let leaf = depth + 1 == entries.len();
        dump.0.insert(
            0x1000 * (depth as u64 + 1),
            if leaf { entry } else { entry | next },
        );
    }
    dump
}

fn walk(mode: PagingMode, limits: Limits, entries: &[u64], at: u64) -> kspace_paging::Walk {
    let dump = chain(entries);
    Walker::new(mode, phys(0x1000), &dump)
        .with_limits(limits)
        .walk(VirtAddr::new(at))
}

/// What an access through `entries` meets, in short: the level and cause to blame with the error code, or nothing.
fn fault(
    mode: PagingMode,
    limits: Limits,
    entries: &[u64],
    intent: Intent,
    controls: Controls,
) -> Option<(u8, FaultCause, u32)> {
    match walk(mode, limits, entries, 0).access(intent, controls) {
        Ok(_) => None,
        Err(Refusal::Fault(fault)) => {
            Some((fault.level.unwrap(), fault.cause, fault.error_code.unwrap()))
        }
        Err(other) => panic!("{other}"),
    }
}

const ALL: u64 = P | W | U;
const FOUR: PagingMode = PagingMode::FourLevel;
const READ: Operation = Operation::Read;
const STORE: Operation = Operation::Write;
const EXEC: Operation = Operation::Fetch;

#[test]
fn each_level_can_be_the_one_that_is_not_present() {
    for mode in PagingMode::ALL {
        for missing in 1..=mode.levels() {
            let depth = usize::from(mode.levels() - missing);
            let above = if mode == PagingMode::Pae { P } else { ALL };
            let mut entries: Vec<u64> = (0..depth)
                .map(|above_depth| if above_depth == 0 { above } else { ALL })
                .collect();
            // Everything but bit 0: the CPU ignores it all.
            entries.push(if mode == PagingMode::TwoLevel {
                0xffff_fffe
            } else {
                !P
            });
            let found = fault(
                mode,
                Limits::WIDEST,
                &entries,
                Intent::user(STORE),
                Controls::KERNEL,
            );
            assert_eq!(
                found,
                Some((missing, FaultCause::NotPresent, USER | WRITE)),
                "{mode}"
            );
            assert_eq!(
                walk(mode, Limits::WIDEST, &entries, 0).steps().len(),
                depth + 1
            );
        }
    }
}

#[test]
fn the_highest_level_that_denies_is_to_blame() {
    let none = Controls::KERNEL;
    let check = |entries: &[u64; 4], intent, expected| {
        assert_eq!(
            fault(FOUR, Limits::WIDEST, entries, intent, none),
            expected,
            "{intent:?}"
        );
    };
    let user_write = Intent::user(STORE);
    check(&[ALL, ALL, ALL, ALL], user_write, None);
    check(
        &[ALL, ALL, P | U, P | U],
        user_write,
        Some((2, FaultCause::Write, PRESENT | USER | WRITE)),
    );
    check(
        &[ALL, P | W, ALL, ALL],
        user_write,
        Some((3, FaultCause::User, PRESENT | USER | WRITE)),
    );
    check(
        &[P | W, ALL, ALL, ALL],
        Intent::user(READ),
        Some((4, FaultCause::User, PRESENT | USER)),
    );
    let fetch = Intent::user(EXEC);
    check(
        &[ALL, ALL, ALL | NX, ALL],
        fetch,
        Some((2, FaultCause::Fetch, PRESENT | USER | FETCH)),
    );
    check(
        &[ALL, ALL, ALL, ALL | NX],
        fetch,
        Some((1, FaultCause::Fetch, PRESENT | USER | FETCH)),
    );
    // Rights to write and to read say nothing about fetches, and the other way round.
    check(&[ALL, ALL, ALL, ALL | NX], user_write, None);
    check(&[P | U, P | U, P | U, P | U], fetch, None);
}

#[test]
fn supervisor_writes_obey_read_only_pages_only_with_cr0_wp() {
    let entries = [P | W, P | W, P | W, P];
    let write = Intent::kernel(STORE);
    let on = Controls {
        write_protect: true,
        ..Controls::NONE
    };
    assert_eq!(
        fault(FOUR, Limits::WIDEST, &entries, write, Controls::NONE),
        None
    );
    let expected = Some((1, FaultCause::Write, PRESENT | WRITE));
    assert_eq!(fault(FOUR, Limits::WIDEST, &entries, write, on), expected);
    // A user write never depends on WP.
    let user = Some((1, FaultCause::Write, PRESENT | WRITE | USER));
    let entries = [ALL, ALL, ALL, P | U];
    assert_eq!(
        fault(
            FOUR,
            Limits::WIDEST,
            &entries,
            Intent::user(STORE),
            Controls::NONE
        ),
        user
    );
}

#[test]
fn smep_and_smap_concern_pages_that_are_user_at_every_level() {
    let smep = Controls {
        smep: true,
        ..Controls::NONE
    };
    let smap = Controls {
        smap: true,
        ..Controls::NONE
    };
    let both = Controls {
        smep: true,
        smap: true,
        ..Controls::NONE
    };
    let user = [ALL, ALL, ALL, ALL];
    let mixed = [P | W, ALL, ALL, ALL];
    let f = |entries: &[u64; 4], intent, controls| {
        fault(FOUR, Limits::WIDEST, entries, intent, controls)
    };

    assert_eq!(f(&user, Intent::kernel(EXEC), smap), None);
    assert_eq!(
        f(&user, Intent::kernel(EXEC), smep),
        Some((1, FaultCause::Smep, PRESENT | FETCH))
    );
    assert_eq!(f(&user, Intent::kernel(READ), smep), None);
    assert_eq!(
        f(&user, Intent::kernel(READ), smap),
        Some((1, FaultCause::Smap, PRESENT))
    );
    assert_eq!(
        f(&user, Intent::kernel(STORE), smap),
        Some((1, FaultCause::Smap, PRESENT | WRITE))
    );
    let allowed = Controls {
        alignment_check: true,
        ..both
    };
    assert_eq!(f(&user, Intent::kernel(STORE), allowed), None);
    // AC does not lift SMEP.
    assert_eq!(
        f(&user, Intent::kernel(EXEC), allowed),
        Some((1, FaultCause::Smep, PRESENT | FETCH))
    );
    // One supervisor level makes it a supervisor page, and user code a stranger to it.
    for operation in [READ, STORE, EXEC] {
        assert_eq!(f(&mixed, Intent::kernel(operation), both), None);
        assert_eq!(f(&user, Intent::user(operation), both), None);
    }
}

#[test]
fn fetches_are_reported_only_with_smep_or_no_execute() {
    let entries = [ALL, ALL, ALL, 0];
    let fetch = Intent::kernel(EXEC);
    let without = Limits::WIDEST.with_no_execute(false);
    let smep = Controls {
        smep: true,
        ..Controls::NONE
    };
    let code = |mode, limits, entries: &[u64], controls| {
        fault(mode, limits, entries, fetch, controls).map(|(.., code)| code)
    };
    assert_eq!(
        code(FOUR, Limits::WIDEST, &entries, Controls::NONE),
        Some(FETCH)
    );
    assert_eq!(code(FOUR, without, &entries, Controls::NONE), Some(0));
    assert_eq!(code(FOUR, without, &entries, smep), Some(FETCH));
    // Two-level paging has no no-execute, whatever EFER says.
    let two = PagingMode::TwoLevel;
    assert_eq!(
        code(two, Limits::WIDEST, &[ALL, 0], Controls::NONE),
        Some(0)
    );
    assert_eq!(code(two, Limits::WIDEST, &[ALL, 0], smep), Some(FETCH));
}

/// The bits of `entry` at `level` that fault, found by setting one after the other.
fn reserved(mode: PagingMode, limits: Limits, level: u8, entry: u64) -> u64 {
    let width = mode.entry_bytes() * 8;
    (0..width)
        .map(|bit| 1 << bit)
        .filter(|bit| entry & bit == 0)
        .fold(0, |found, bit| {
            let depth = usize::from(mode.levels() - level);
            let above = if mode == PagingMode::Pae { P } else { ALL };
            let mut entries: Vec<u64> = (0..depth)
                .map(|at| if at == 0 { above } else { ALL })
                .collect();
            entries.push(entry | bit);
            match walk(mode, limits, &entries, 0).end() {
                End::ReservedBits { level: at, bits } => {
                    assert_eq!((at, bits), (level, bit), "{mode} level {level}");
                    found | bit
                }
                _ => found,
            }
        })
}

#[test]
fn reserved_bits_are_those_of_the_manual() {
    // Bits `low` to `high`, written as the manual does.
    let bits = |high: u32, low: u32| (low..=high).fold(0u64, |all, bit| all | 1 << bit);
    let m36 = Limits::WIDEST.with_phys_bits(36);
    let no_nx = m36.with_no_execute(false);

    // 4-level (tables 5-15 to 5-20): 51:M everywhere, XD without NXE, PS where there is no such page, the low address bits.
    assert_eq!(reserved(FOUR, m36, 4, P), bits(51, 36) | PS);
    assert_eq!(reserved(FOUR, m36, 3, P), bits(51, 36));
    assert_eq!(reserved(FOUR, m36, 3, P | PS), bits(51, 36) | bits(29, 13));
    assert_eq!(
        reserved(FOUR, m36.with_gigabyte_pages(false), 3, P),
        bits(51, 36) | PS
    );
    assert_eq!(reserved(FOUR, m36, 2, P), bits(51, 36));
    assert_eq!(reserved(FOUR, m36, 2, P | PS), bits(51, 36) | bits(20, 13));
    assert_eq!(reserved(FOUR, m36, 1, P), bits(51, 36));
    assert_eq!(reserved(FOUR, no_nx, 1, P), bits(51, 36) | NX);
    assert_eq!(reserved(FOUR, Limits::WIDEST, 1, P), 0);
    assert_eq!(
        reserved(PagingMode::FiveLevel, m36, 5, P),
        bits(51, 36) | PS
    );
    assert_eq!(
        reserved(PagingMode::FiveLevel, m36, 4, P),
        bits(51, 36) | PS
    );

    // PAE (tables 5-8 to 5-11): root entries 2:1, 8:5, 63:M; below 62:M.
    let pae = PagingMode::Pae;
    assert_eq!(
        reserved(pae, m36, 3, P),
        bits(2, 1) | bits(8, 5) | bits(63, 36)
    );
    assert_eq!(reserved(pae, m36, 2, P), bits(62, 36));
    assert_eq!(reserved(pae, m36, 2, P | PS), bits(62, 36) | bits(20, 13));
    assert_eq!(reserved(pae, m36, 1, P), bits(62, 36));
    assert_eq!(reserved(pae, no_nx, 1, P), bits(63, 36));

    // Two-level (tables 5-4 to 5-6): only a 4M page reserves bits, 21:(M-19).
    let two = PagingMode::TwoLevel;
    assert_eq!(reserved(two, m36, 2, P), 0);
    assert_eq!(reserved(two, m36, 1, P), 0);
    assert_eq!(reserved(two, m36, 2, P | PS), bits(21, 17));
    assert_eq!(reserved(two, Limits::WIDEST, 2, P | PS), bits(21, 21));
    assert_eq!(
        reserved(two, Limits::WIDEST.with_phys_bits(32), 2, P | PS),
        bits(21, 13)
    );
    // Without PSE the bit is ignored, and the entry leads to a table.
    assert_eq!(reserved(two, m36.with_large_pages(false), 2, P | PS), 0);

    // The encryption bit is none of them.
    let sme = m36.with_encryption_mask(1 << 47);
    assert_eq!(reserved(FOUR, sme, 1, P), bits(51, 36) & !(1 << 47));
}

#[test]
fn a_reserved_bit_faults_before_rights_and_lower_levels() {
    let entries = [ALL, P | 1 << 51, 0];
    let limits = Limits::WIDEST.with_phys_bits(46);
    let found = fault(
        FOUR,
        limits,
        &entries,
        Intent::user(STORE),
        Controls::KERNEL,
    );
    let code = PRESENT | RESERVED | USER | WRITE;
    assert_eq!(found, Some((3, FaultCause::ReservedBits(1 << 51), code)));
}

#[test]
fn addresses_that_are_not_canonical_read_no_table() {
    let nothing = Dump::default();
    for (mode, address) in [
        (FOUR, 0x0000_8000_0000_0000),
        (FOUR, 0xffff_7fff_ffff_ffff),
        (PagingMode::Pae, 0x1_0000_0000),
        (PagingMode::TwoLevel, 0xffff_ffff_ffff_ffff),
    ] {
        let walk = Walker::new(mode, phys(0x1000), &nothing).walk(VirtAddr::new(address));
        assert_eq!(walk.end(), End::NotCanonical, "{mode} {address:x}");
        assert!(walk.steps().is_empty());
        match walk.access(Intent::kernel(READ), Controls::KERNEL) {
            Err(Refusal::Fault(fault)) => {
                assert_eq!((fault.level, fault.error_code), (None, None));
                let text =
                    format!("kernel read at {address:016x}: not canonical (general protection)");
                assert_eq!(fault.to_string(), text);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn pages_of_every_size_are_found_where_the_manual_puts_them() {
    let found = |mode, entries: &[u64], at| {
        let page = walk(mode, Limits::WIDEST, entries, at)
            .page()
            .expect("a page");
        (page.phys.as_u64(), page.size)
    };
    let two = PagingMode::TwoLevel;
    assert_eq!(
        found(two, &[ALL, ALL | 0xabcd_e000], 0x123),
        (0xabcd_e123, PageSize::Size4K)
    );
    // PSE-36: bits 20:13 are address bits 39:32.
    let large = ALL | PS | 0xabc0_0000 | 0x5a << 13;
    assert_eq!(
        found(two, &[large], 0x3f_ffff),
        (0x5a_abff_ffff, PageSize::Size4M)
    );
    let pae = PagingMode::Pae;
    let page = 0xf_edcb_a980_0000u64;
    assert_eq!(
        found(pae, &[P, ALL | PS | page], 0x1f_fff0),
        (page | 0x1f_fff0, PageSize::Size2M)
    );
    assert_eq!(
        found(FOUR, &[ALL, ALL, ALL | PS | page], 5),
        (page | 5, PageSize::Size2M)
    );
    let giant = 0xf_edcb_8000_0000u64;
    assert_eq!(
        found(FOUR, &[ALL, ALL | PS | giant], 0x3fff_ffff),
        (giant | 0x3fff_ffff, PageSize::Size1G)
    );
    let five = PagingMode::FiveLevel;
    let page = 0xf_edcb_a987_6000u64;
    let entries = [ALL, ALL, ALL, ALL, ALL | NX | page];
    assert_eq!(
        found(five, &entries, 0xfff),
        (page | 0xfff, PageSize::Size4K)
    );
}

#[test]
fn cache_types_follow_the_pat_with_its_bit_where_the_page_size_puts_it() {
    // PWT, PCD, and the PAT bit: 7 in a 4K entry, 12 in a larger one.
    let small = |index: u64| (index & 3) << 3 | (index >> 2) << 7;
    let large = |index: u64| (index & 3) << 3 | (index >> 2) << 12 | PS;
    // arch/x86/mm/pat/memtype.c, pat_bp_init: WB WC UC- UC WB WP UC- WT.
    let linux = [
        CacheType::WriteBack,
        CacheType::WriteCombining,
        CacheType::UncachedMinus,
        CacheType::Uncached,
        CacheType::WriteBack,
        CacheType::WriteProtected,
        CacheType::UncachedMinus,
        CacheType::WriteThrough,
    ];
    let cache = |mode, limits, entries: &[u64]| {
        walk(mode, limits, entries, 0)
            .page()
            .expect("a page")
            .attributes
            .cache
    };
    for (index, expected) in (0u64..).zip(linux) {
        let widest = Limits::WIDEST;
        assert_eq!(
            cache(FOUR, widest, &[ALL, ALL, ALL, ALL | small(index)]),
            expected
        );
        assert_eq!(
            cache(FOUR, widest, &[ALL, ALL, ALL | large(index)]),
            expected
        );
        assert_eq!(cache(FOUR, widest, &[ALL, ALL | large(index)]), expected);
        assert_eq!(
            cache(PagingMode::Pae, widest, &[P, ALL | large(index)]),
            expected
        );
        assert_eq!(
            cache(PagingMode::TwoLevel, widest, &[ALL | large(index)]),
            expected
        );
        assert_eq!(
            cache(PagingMode::TwoLevel, widest, &[ALL, ALL | small(index)]),
            expected
        );
    }
    let reset = Limits::WIDEST.with_pat(Pat::RESET);
    assert_eq!(
        cache(FOUR, reset, &[ALL, ALL, ALL, ALL | small(1)]),
        CacheType::WriteThrough
    );
}

#[test]
fn the_pat_msr_has_linuxs_value() {
    // What Linux prints at boot: "x86/PAT: Configuration [0-7]: WB  WC  UC- UC  WB  WP  UC- WT".
    assert_eq!(Pat::LINUX.msr(), 0x0407_0506_0007_0106);
    // Intel SDM vol. 3, section 13.12.4: after reset.
    assert_eq!(Pat::RESET.msr(), 0x0007_0406_0007_0406);
    for pat in [Pat::LINUX, Pat::RESET] {
        assert_eq!(Pat::from_msr(pat.msr()), Some(pat));
    }
    assert_eq!(
        Pat::from_msr(0x0407_0506_0007_0206),
        None,
        "2 is a reserved code"
    );
    assert_eq!(Pat::RESET.index(CacheType::WriteCombining), None);
    assert_eq!(Pat::LINUX.index(CacheType::WriteProtected), Some(5));
}

#[test]
fn raw_cr3_values_are_roots() {
    let dump = chain(&[ALL, ALL, ALL, ALL | 0x7000]);
    // PCID 5, or PWT and PCD.
    let walker = Walker::new(FOUR, phys(0x1005), &dump);
    assert_eq!(walker.translate(VirtAddr::new(0x10)), Some(phys(0x7010)));
    // PAE roots need not begin a frame.
    let mut dump = Dump::default();
    dump.0.insert(0x1040, P | 0x2000);
    dump.0.insert(0x2000, ALL | PS | 0x40_0000);
    let walker = Walker::new(PagingMode::Pae, phys(0x1058), &dump);
    assert_eq!(walker.translate(VirtAddr::new(0x10)), Some(phys(0x40_0010)));
}

#[test]
fn a_dump_without_a_table_says_which() {
    let dump = Dump(HashMap::from([
        (0x1000, ALL | 0x2000),
        (0x2000, ALL | 0x3000),
    ]));
    let walker = Walker::new(FOUR, phys(0x1000), &dump);
    let walk = walker.walk(VirtAddr::new(0x1234));
    assert_eq!(walk.steps().len(), 2, "the levels above are there");
    let error = walk
        .access(Intent::kernel(READ), Controls::KERNEL)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "walk to 0000000000001234: the level-2 entry at physical 0000000000003000 is not in this memory"
    );
    let first = walker
        .runs(range(0x1000, 0x40_0000))
        .next()
        .unwrap()
        .unwrap_err();
    assert_eq!(
        first.to_string(),
        "walk 0000000000001000-00000000001fffff: the level-2 entry at physical 0000000000003000 is not in this memory"
    );
}

#[test]
fn runs_go_on_after_an_obstacle() {
    let mut dump = chain(&[ALL, ALL, ALL, ALL | 0x7000]);
    for slot in 1..512 {
        dump.0.insert(0x4000 + 8 * slot, 0);
    }
    dump.0.insert(0x4008, ALL | 0x8000);
    dump.0.insert(0x4010, ALL | 0x9000 | 1 << 50);
    dump.0.insert(0x4018, ALL | 0xa000);
    let limits = Limits::WIDEST.with_phys_bits(40);
    let walker = Walker::new(FOUR, phys(0x1000), &dump).with_limits(limits);
    let found: Vec<_> = walker.runs(range(0, 0x20_0000)).collect();
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found[0].unwrap().virt, range(0, 0x2000));
    assert_eq!(
        found[1].unwrap_err(),
        Obstacle::ReservedBits {
            virt: range(0x2000, 0x3000),
            level: 1,
            entry: phys(0x4010),
            raw: ALL | 0x9000 | 1 << 50,
            bits: 1 << 50,
        }
    );
    assert_eq!(found[2].unwrap().virt, range(0x3000, 0x4000));
}

#[test]
fn runs_part_where_they_are_asked_to() {
    // Five 4K pages: contiguous, contiguous but dirty, elsewhere, elsewhere and global; then a 2M page that follows on.
    let mut dump = chain(&[ALL, ALL, ALL, 0]);
    for slot in 0..512 {
        dump.0.insert(0x4000 + 8 * slot, 0);
        dump.0.insert(0x3000 + 8 * slot, 0);
    }
    dump.0.insert(0x3000, ALL | 0x4000);
    dump.0.insert(0x3008, ALL | PS | 0x20_0000);
    for (slot, raw) in [
        (508, ALL | 0x1f_c000),
        (509, ALL | 0x1f_d000 | 0x60),
        (510, ALL | 0x9000 | NX),
        (511, ALL | 0x1f_f000),
    ] {
        dump.0.insert(0x4000 + 8 * slot, raw);
    }
    let walker = Walker::new(FOUR, phys(0x1000), &dump);
    let starts = |merge| -> Vec<u64> {
        let runs = walker.runs_merged(range(0, 1 << 30), merge);
        runs.map(|run| run.unwrap().virt.start().as_u64() >> 12)
            .collect()
    };
    assert_eq!(starts(Merge::default()), [508, 510, 511, 512]);
    assert_eq!(
        starts(Merge {
            same_size: false,
            ..Merge::default()
        }),
        [508, 510, 511]
    );
    assert_eq!(
        starts(Merge {
            history: true,
            ..Merge::default()
        }),
        [508, 509, 510, 511, 512]
    );
    // Whether its pages are equal in that or not, a run tells what happened to any of them.
    let first = walker.runs(range(0, 1 << 30)).next().unwrap().unwrap();
    assert!(first.attributes.accessed && first.attributes.dirty);
    let first = walker.runs(range(0, 0x1f_d000)).next().unwrap().unwrap();
    assert!(!first.attributes.accessed && !first.attributes.dirty);
    // Part of a page is part of a run.
    let run = walker
        .runs(range(0x20_1000, 0x20_3000))
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(
        (run.virt, run.phys),
        (range(0x20_1000, 0x20_3000), phys(0x20_1000))
    );
    assert_eq!(
        run.to_string(),
        "0000000000201000-0000000000202fff -> 0000000000201000 2M rwx user write-back"
    );
}

#[test]
fn rights_are_those_that_every_level_gives() {
    // Which level denies what: any of the four, alone.
    for denying in 0..4 {
        for (bit, deny_by_setting) in [(W, false), (U, false), (NX, true)] {
            let mut entries = [ALL, ALL, ALL, ALL | 0x7000];
            entries[denying] = if deny_by_setting {
                entries[denying] | bit
            } else {
                entries[denying] & !bit
            };
            let dump = chain(&entries);
            let walker = Walker::new(FOUR, phys(0x1000), &dump);
            let run = walker.runs(range(0, 0x1000)).next().unwrap().unwrap();
            let page = walker.walk(VirtAddr::ZERO).page().unwrap();
            for found in [run.attributes, page.attributes] {
                assert_eq!(found.write, bit != W, "level {}", 4 - denying);
                assert_eq!(found.user, bit != U, "level {}", 4 - denying);
                assert_eq!(found.execute, bit != NX, "level {}", 4 - denying);
            }
        }
    }
}

#[test]
fn a_table_that_points_at_itself_ends_every_walk() {
    // Linux's old recursive trick, and what a hostile dump does to a careless reader.
    let mut dump = Dump::default();
    for slot in 0..512 {
        dump.0.insert(0x1000 + 8 * slot, 0);
    }
    dump.0.insert(0x1000, ALL | G | 0x1000);
    for mode in [FOUR, PagingMode::FiveLevel] {
        let walker = Walker::new(mode, phys(0x1000), &dump);
        let walk = walker.walk(VirtAddr::ZERO);
        assert_eq!(walk.steps().len(), usize::from(mode.levels()));
        assert_eq!(walk.page().expect("the table itself").phys, phys(0x1000));
        let runs: Vec<_> = walker
            .runs(VirtRange::new(VirtAddr::ZERO, 1 << 47))
            .collect();
        assert_eq!(runs.len(), 1);
    }
}

#[test]
fn runs_reach_the_last_page_of_each_half() {
    let mut dump = Dump::default();
    for (table, next) in [
        (0x1000, 0x2000),
        (0x2000, 0x3000),
        (0x3000, 0x4000),
        (0x4000, 0x9000),
    ] {
        for slot in 0..512 {
            dump.0.insert(table + 8 * slot, 0);
        }
        dump.0.insert(table + 8 * 511, ALL | next);
    }
    let walker = Walker::new(FOUR, phys(0x1000), &dump);
    let upper = VirtRange::new(VirtAddr::new(0xff00_0000_0000_0000), 1 << 56);
    let runs: Vec<_> = walker.runs(upper).map(Result::unwrap).collect();
    assert_eq!(runs.len(), 1);
    assert_eq!(
        runs[0].virt,
        VirtRange::new(VirtAddr::new(0xffff_ffff_ffff_f000), 4096)
    );
    let hole = VirtRange::new(VirtAddr::new(1 << 50), 1 << 50);
    assert_eq!(walker.runs(hole).count(), 0);
}
