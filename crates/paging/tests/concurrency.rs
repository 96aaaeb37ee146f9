//! Threads that edit disjoint ranges under the same tables at once, without a lock.

mod rig;

use std::sync::Barrier;

use kspace_layout::{PageSize, PagingMode, VirtAddr, VirtRange};
use kspace_paging::{Access, Limits, LongMode, Protection};
use rig::{phys, range, with_rig};

const K4: u64 = 4 << 10;
const M2: u64 = 2 << 20;
const G1: u64 = 1 << 30;
const THREADS: u64 = 4;
const BASE: u64 = 0xffff_c900_0000_0000;
const DATA: Protection = Protection::KERNEL_DATA;

/// Every thread has each fourth page of the same few tables, all of which are missing at first: they race for every one.
#[test]
fn fills_of_disjoint_ranges_share_tables() {
    for round in 0..50 {
        with_rig(PagingMode::FiveLevel, Limits::WIDEST, |rig| {
            let barrier = Barrier::new(THREADS as usize);
            let pages = 64;
            // Far apart, so that every page wants its own table at every level.
            let stride = if round % 2 == 0 { M2 / 4 } else { G1 / 4 };
            let page = |number: u64| BASE + number * stride;
            std::thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (barrier, editor) = (&barrier, rig.editor::<LongMode>());
                    scope.spawn(move || {
                        barrier.wait();
                        for number in (thread..pages).step_by(THREADS as usize) {
                            let at = range(page(number), page(number) + K4);
                            editor
                                .map(at, phys(number * K4), DATA, PageSize::Size1G)
                                .unwrap();
                        }
                    });
                }
            });
            for number in 0..pages {
                let found = rig.walker().translate(VirtAddr::new(page(number)));
                assert_eq!(found, Some(phys(number * K4)), "round {round}");
            }
            // Root, PML4, PDPT, then one table per large page: losers gave theirs back.
            let bottom = (pages * stride).div_ceil(M2).min(pages);
            let middle = (pages * stride).div_ceil(G1);
            assert_eq!(
                rig.frames.in_use() as u64,
                3 + middle + bottom,
                "round {round}"
            );
        });
    }
}

/// Every thread changes its own part of one large page: all want to split it, one does.
#[test]
fn splits_of_one_large_page_meet() {
    for round in 0..50 {
        with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
            let whole = range(BASE, BASE + G1);
            rig.map(whole, phys(G1), DATA, PageSize::Size1G).unwrap();
            let barrier = Barrier::new(THREADS as usize);
            let part = |thread: u64| range(BASE + thread * 3 * K4, BASE + (thread * 3 + 2) * K4);
            std::thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (barrier, editor) = (&barrier, rig.editor::<LongMode>());
                    scope.spawn(move || {
                        barrier.wait();
                        let flush = if thread.is_multiple_of(2) {
                            editor.unmap(part(thread)).unwrap()
                        } else {
                            editor
                                .protect(part(thread), Protection::kernel(Access::ReadOnly))
                                .unwrap()
                        };
                        // SAFETY: no CPU has walked these tables.
                        unsafe { flush.discharged(editor.memory(), editor.frames()) };
                    });
                }
            });
            let page = |address: u64| rig.walker().walk(VirtAddr::new(address)).page();
            for offset in (0..4 * M2).step_by(K4 as usize) {
                let thread = offset / K4 / 3;
                let inside = thread < THREADS && offset / K4 % 3 < 2;
                let found = page(BASE + offset);
                if inside && thread.is_multiple_of(2) {
                    assert_eq!(found, None, "round {round}");
                } else {
                    let found = found.unwrap();
                    assert_eq!(found.phys, phys(G1 + offset));
                    assert_eq!(found.attributes.write, !inside, "round {round}: {offset:x}");
                }
            }
            // Root, PDPT, PD, PT: one split per level, whoever made it.
            assert_eq!(rig.frames.in_use(), 4, "round {round}");
        });
    }
}

/// A CPU that sets accessed and dirty bits all the time, while the pages change: no dirty bit is lost.
#[test]
fn dirty_bits_set_meanwhile_survive_protect_and_split() {
    use core::sync::atomic::{AtomicBool, Ordering};
    use kspace_paging::{PhysMemory, RawEntry};

    for round in 0..200 {
        with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
            let user = Protection::user(Access::ReadWrite);
            let whole = VirtRange::new(VirtAddr::new(M2), M2);
            rig.map(whole, phys(M2), user, PageSize::Size2M).unwrap();
            let barrier = Barrier::new(2);
            let wrote = AtomicBool::new(false);
            let target = VirtAddr::new(M2 + 7 * K4);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..round {
                        std::hint::spin_loop();
                    }
                    // As the CPU does: walk, then a locked update that fails if the entry changed.
                    let walk = rig.walker().walk(target);
                    let step = walk.steps().last().unwrap();
                    let slot = &rig.memory.entries::<u64>(step.entry, 1).unwrap()[0];
                    let writable = walk.page().is_some_and(|page| page.attributes.write);
                    let set = <u64 as RawEntry>::compare_exchange(slot, step.raw, step.raw | 0x60);
                    wrote.store(writable && set.is_ok(), Ordering::Relaxed);
                });
                let editor = rig.editor::<LongMode>();
                barrier.wait();
                let changed = user.with_cache(kspace_paging::CacheType::WriteThrough);
                let flush = editor.protect(range(M2, M2 + 8 * K4), changed).unwrap();
                // SAFETY: no CPU has walked these tables.
                unsafe { flush.discharged(editor.memory(), editor.frames()) };
            });
            if wrote.into_inner() {
                let page = rig.walker().walk(target).page().unwrap();
                assert!(
                    page.attributes.dirty,
                    "round {round}: a write was forgotten"
                );
            }
        });
    }
}
