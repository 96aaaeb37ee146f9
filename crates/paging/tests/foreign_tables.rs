//! Editing tables that others made, or share: what an edit may not change though it could.

mod rig;

use std::sync::atomic::{AtomicU64, Ordering};

use kspace_layout::{PageSize, PagingMode};
use kspace_paging::{Access, Attributes, Limits, Protection, Reason};
use kspace_sim::{SimFrames, SimMemory};
use rig::{Rig, TABLES, phys, range, with_rig};

const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const NO_EXECUTE: u64 = 1 << 63;
const C_BIT: u64 = 1 << 47;

const DATA: Protection = Protection::KERNEL_DATA;

/// The entry at `level` over `address`, as the atomic that it is.
fn entry<'m>(rig: &Rig<'m>, address: u64, level: u8) -> &'m AtomicU64 {
    let walk = rig.walker().walk(range(address, address + 1).start());
    let step = walk.steps().iter().find(|step| step.level == level);
    let at = step.expect("the walk gets there").entry;
    &rig.memory.words(at.pfn())[(at.as_u64() % 4096 / 8) as usize]
}

fn attributes(rig: &Rig<'_>, address: u64) -> Attributes {
    let walk = rig.walker().walk(range(address, address + 1).start());
    walk.page().expect("it is mapped").attributes
}

/// Merging took the rights of the leaves alone: a table that was writable but not executable as a whole became a page that was both.
#[test]
fn a_merge_gives_no_right_that_the_entry_above_denies() {
    with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
        let table = range(0x20_0000, 0x40_0000);
        rig.map(table, phys(0x4000_0000), DATA, PageSize::Size4K)
            .expect("frames");
        // As boot loaders have it: the leaves allow everything, and an entry above denies it.
        for page in 0..512 {
            entry(rig, 0x20_0000 + page * 4096, 1).fetch_and(!NO_EXECUTE, Ordering::Relaxed);
        }
        let above = entry(rig, 0x20_0000, 2);
        for denial in [NO_EXECUTE, NO_EXECUTE | WRITE] {
            above.store(
                (above.load(Ordering::Relaxed) | WRITE | NO_EXECUTE) ^ (denial & WRITE),
                Ordering::Relaxed,
            );
            let before = attributes(rig, 0x20_0000);
            rig.discharge(rig.merge(table, PageSize::Size2M).expect("whole pages"));
            assert_eq!(attributes(rig, 0x20_0000), before);
        }
    });
}

/// One writable page among others is enough, wherever it is.
#[test]
fn no_page_of_a_range_turns_from_writable_to_executable() {
    for mode in [PagingMode::Pae, PagingMode::FourLevel] {
        for writable in 0..512 {
            with_rig(mode, Limits::WIDEST, |rig| {
                let table = range(0x20_0000, 0x40_0000);
                rig.map(
                    table,
                    phys(0x1000),
                    Protection::KERNEL_RODATA,
                    PageSize::Size4K,
                )
                .expect("frames");
                let start = 0x20_0000 + writable * 4096;
                let page = range(start, start + 4096);
                rig.discharge(rig.protect(page, DATA).expect("mapped"));
                let error = rig.protect(table, Protection::KERNEL_TEXT).unwrap_err();
                let first = page.start();
                assert_eq!(error.reason, Reason::WriteExecute { page: first });
                assert!(attributes(rig, start).write);
            });
        }
    }
}

#[test]
fn pages_for_user_mode_are_refused_below_an_entry_that_denies_it() {
    with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
        let page = range(0x20_0000, 0x20_1000);
        rig.map(page, phys(0x1000), DATA, PageSize::Size4K)
            .expect("frames");
        let above = entry(rig, 0x20_0000, 2);
        let raw = above.fetch_and(!USER, Ordering::Relaxed) & !USER;
        let user = Protection::user(Access::ReadOnly);
        for (edit, page, error) in [
            (
                "protect",
                page,
                rig.protect(page, user).map(|_| ()).unwrap_err(),
            ),
            {
                let page = range(0x20_1000, 0x20_2000);
                let error = rig.map(page, phys(0x1000), user, PageSize::Size4K);
                ("map", page, error.unwrap_err())
            },
        ] {
            assert_eq!(
                error.to_string(),
                format!(
                    "{edit} {page}: the level-2 entry {raw:016x} over page 1 of 1 ({}) denies what is asked for; widen it first; \
                     nothing was changed",
                    page.start()
                )
            );
        }
    });
}

/// Bits above the address are free for software and protection keys, also on the last page of memory.
#[test]
fn the_last_physical_page_is_merged_and_split_with_every_ignored_bit_set() {
    with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
        let table = range(0x20_0000, 0x40_0000);
        let last = phys((1 << 52) - 0x20_0000);
        rig.map(table, last, DATA, PageSize::Size4K)
            .expect("frames");
        for page in 0..512 {
            entry(rig, 0x20_0000 + page * 4096, 1).fetch_or(0x7ff << 52, Ordering::Relaxed);
        }
        rig.discharge(rig.merge(table, PageSize::Size2M).expect("whole pages"));
        let walk = rig.walker().walk(table.start());
        assert_eq!(walk.page().expect("mapped").size, PageSize::Size2M);
        rig.discharge(rig.unmap(range(0x20_0000, 0x20_1000)).expect("frames"));
        let left = rig.walker().translate(range(0x3f_f000, 0x40_0000).start());
        assert_eq!(left, Some(phys((1 << 52) - 0x1000)));
    });
}

/// The root entries that others have copies of kept their tables in `purge` only.
#[test]
fn a_merge_keeps_the_tables_of_permanent_root_entries() {
    with_rig(PagingMode::TwoLevel, Limits::WIDEST, |rig| {
        let all = range(0xc000_0000, 0xc080_0000);
        rig.map(all, phys(0), DATA, PageSize::Size4K)
            .expect("frames");
        let shared = range(0xc000_0000, 0xc040_0000);
        let editor = rig
            .editor::<kspace_paging::TwoLevel>()
            .keep_root_entries(shared);
        rig.discharge(editor.merge(all, PageSize::Size4M).expect("whole pages"));
        let size = |address| {
            let walk = rig.walker().walk(range(address, address + 1).start());
            walk.page().expect("mapped").size
        };
        assert_eq!(size(0xc000_0000), PageSize::Size4K);
        assert_eq!(size(0xc040_0000), PageSize::Size4M);
    });
}

/// The address of bit 47 was mapped as encrypted address 0.
#[test]
fn an_address_cannot_reach_the_encryption_bit() {
    let limits = Limits::WIDEST.with_encryption_mask(C_BIT);
    with_rig(PagingMode::FourLevel, limits, |rig| {
        let page = range(0x20_0000, 0x20_1000);
        let error = rig
            .map(page, phys(C_BIT), DATA, PageSize::Size4K)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "map 0000000000200000-0000000000200fff: page 1 of 1 (0000000000200000) would lie at physical 0000800000000000, \
             but the entries end below 0000800000000000; nothing was changed"
        );
    });
}

/// A page shared with a hypervisor was encrypted by making it read-only.
#[test]
fn protect_neither_encrypts_nor_decrypts() {
    let limits = Limits::WIDEST.with_encryption_mask(C_BIT);
    with_rig(PagingMode::FourLevel, limits, |rig| {
        let pages = range(0x20_0000, 0x20_2000);
        rig.map(pages, phys(0x1000), DATA, PageSize::Size4K)
            .expect("frames");
        entry(rig, 0x20_0000, 1).fetch_and(!C_BIT, Ordering::Relaxed);
        rig.discharge(
            rig.protect(pages, Protection::KERNEL_RODATA)
                .expect("mapped"),
        );
        assert_eq!(entry(rig, 0x20_0000, 1).load(Ordering::Relaxed) & C_BIT, 0);
        assert_eq!(
            entry(rig, 0x20_1000, 1).load(Ordering::Relaxed) & C_BIT,
            C_BIT
        );
    });
}

/// The link between two lists of freed tables was read with the width of the first.
#[test]
fn one_token_owns_tables_of_two_modes() {
    let memory = SimMemory::sparse();
    let frames = SimFrames::new(&memory, TABLES);
    let rig = |mode| Rig {
        mode,
        limits: Limits::WIDEST,
        memory: &memory,
        frames: &frames,
        root: kspace_paging::FrameSource::allocate(&frames).expect("a root"),
    };
    let both = [rig(PagingMode::TwoLevel), rig(PagingMode::FourLevel)];
    for (first, second) in [(0, 1), (1, 0)] {
        let freed = |rig: &Rig<'_>| {
            for page in [range(0x40_0000, 0x40_1000), range(0x80_0000, 0x80_1000)] {
                rig.map(page, phys(0x1000), DATA, PageSize::Size4K)
                    .expect("frames");
                rig.discharge(rig.unmap(page).expect("mapped"));
            }
            rig.purge(range(0, 0x100_0000)).expect("whole pages")
        };
        let mut token = freed(&both[first]);
        token.absorb(freed(&both[second]), &memory);
        assert_eq!(token.tables(), 4);
        both[0].discharge(token);
        // Two roots, and the two tables above the ones that were freed.
        assert_eq!(frames.in_use(), 2 + 2);
    }
}
