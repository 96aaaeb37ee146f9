//! One token for several edits: it asks for all that each of them asks for.

mod rig;

use kspace_layout::{PageSize, PagingMode};
use kspace_paging::{Access, Flush, Invalidation, Limits, Protection, Stale};
use rig::{Rig, phys, range, with_rig};

const GLOBAL: Protection = Protection::KERNEL_DATA;
const LOCAL: Protection = Protection::user(Access::ReadWrite);

fn stale(token: &Flush) -> Stale {
    match token.invalidation() {
        Some(Invalidation::Range(stale)) => *stale,
        other => panic!("{other:?}"),
    }
}

/// A token for one page, mapped and unmapped again.
fn unmapped(rig: &Rig<'_>, start: u64, page: PageSize, protection: Protection) -> Flush {
    let range = range(start, start + page.bytes());
    rig.map(range, phys(0x4000_0000), protection, page)
        .expect("frames");
    rig.unmap(range).expect("mapped")
}

#[test]
fn in_either_order_all_of_both_is_asked_for() {
    for swapped in [false, true] {
        with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
            let global = unmapped(rig, 0x20_0000, PageSize::Size4K, GLOBAL);
            let local = unmapped(rig, 0x4000_0000, PageSize::Size2M, LOCAL);
            let (mut one, other) = if swapped {
                (local, global)
            } else {
                (global, local)
            };
            one.absorb(other, rig.memory);
            assert_eq!(
                stale(&one),
                Stale {
                    range: range(0x20_0000, 0x4020_0000),
                    page: PageSize::Size4K,
                    global: true,
                    tables: false,
                    root: false,
                }
            );
            rig.discharge(one);

            let purged = rig.purge(range(0, 1 << 30)).expect("whole pages");
            let page = unmapped(rig, 0x8000_0000, PageSize::Size4K, LOCAL);
            let (mut one, other) = if swapped {
                (page, purged)
            } else {
                (purged, page)
            };
            one.absorb(other, rig.memory);
            assert!(stale(&one).tables && !stale(&one).global);
            rig.discharge(one);
        });
    }
}

#[test]
fn a_root_that_must_be_loaded_again_stays_so() {
    for swapped in [false, true] {
        // The rig has filled all root entries; this one begins without.
        let memory = kspace_sim::SimMemory::sparse();
        let frames = kspace_sim::SimFrames::new(&memory, rig::TABLES);
        let rig = Rig {
            mode: PagingMode::Pae,
            limits: Limits::WIDEST,
            memory: &memory,
            frames: &frames,
            root: kspace_paging::FrameSource::allocate(&frames).expect("a root"),
        };
        rig.discharge(rig.populate(range(0, 1 << 30)).expect("frames"));
        let page = unmapped(&rig, 0x20_0000, PageSize::Size4K, LOCAL);
        let root = rig.populate(range(1 << 30, 2 << 30)).expect("frames");
        let (mut one, other) = if swapped { (page, root) } else { (root, page) };
        one.absorb(other, rig.memory);
        assert!(stale(&one).root);
        rig.discharge(one);
    }
}

#[test]
fn both_halves_are_everything() {
    with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
        let mut low = unmapped(rig, 0x20_0000, PageSize::Size4K, LOCAL);
        let high = unmapped(rig, 0xffff_8000_0000_0000, PageSize::Size4K, LOCAL);
        low.absorb(high, rig.memory);
        assert_eq!(low.invalidation(), Some(&Invalidation::Everything));
        let more = unmapped(rig, 0x20_0000, PageSize::Size4K, LOCAL);
        low.absorb(more, rig.memory);
        assert_eq!(low.invalidation(), Some(&Invalidation::Everything));
        rig.discharge(low);
    });
}
