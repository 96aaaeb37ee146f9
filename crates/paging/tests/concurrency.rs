//! Threads that edit disjoint ranges under the same tables at once, without a lock.

mod rig;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};

use kspace_layout::{PageSize, PagingMode, Pfn, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{
    Access, CacheType, Editor, LeafBits, Limits, LongMode, PhysMemory, Protection, RawEntry,
};
use kspace_sim::{SimFrames, SimMemory};
use rig::{Rig, phys, range, with_rig};

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

/// Threads that race for the same few pages for a while: a CPU that sets accessed and dirty, and an edit.
///
/// `edit` gets the pages, and tells for each whether the bits were seen in the end.
fn dirty_bits_survive(rounds: usize, edit: impl Fn(&Rig<'_>) -> Vec<bool>) {
    with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
        let user = Protection::user(Access::ReadWrite);
        rig.map(PAGES, phys(M2), user, PageSize::Size4K).unwrap();
        let leaf = rig
            .walker()
            .walk(PAGES.start())
            .steps()
            .last()
            .unwrap()
            .entry;
        let slots = rig.memory.entries::<u64>(leaf, COUNT).unwrap();
        rig.discharge(rig.unmap(PAGES).unwrap());
        let mut met = 0;
        for round in 0..rounds {
            rig.map(PAGES, phys(M2), user, PageSize::Size4K).unwrap();
            let barrier = Barrier::new(2);
            let (set, kept) = std::thread::scope(|scope| {
                let cpu = scope.spawn(|| {
                    barrier.wait();
                    let delay = round % 64;
                    (0..delay).for_each(|_| std::hint::spin_loop());
                    slots.iter().map(set_dirty).collect::<Vec<bool>>()
                });
                barrier.wait();
                let kept = edit(rig);
                (cpu.join().unwrap(), kept)
            });
            for (page, (set, kept)) in set.into_iter().zip(kept).enumerate() {
                // A page written after the edit had looked is dirty in the tables, if they still map it.
                let now = <u64 as RawEntry>::load(&slots[page]) & DIRTY != 0;
                assert!(
                    !set || kept || now,
                    "round {round}: a write to page {page} was forgotten"
                );
                met += usize::from(set);
            }
            rig.discharge(rig.unmap_present(PAGES).unwrap());
        }
        assert!(
            met > rounds,
            "the two hardly met: {met} writes in {rounds} rounds"
        );
    });
}

const COUNT: usize = 64;
const PAGES: VirtRange = VirtRange::new(VirtAddr::new(M2), COUNT as u64 * K4);
const DIRTY: u64 = 1 << 6;

/// As the CPU does for a write: look, then a locked update that fails if the entry has changed. Returns whether it was done.
fn set_dirty(slot: &AtomicU64) -> bool {
    let raw = <u64 as RawEntry>::load(slot);
    raw & 3 == 3 && <u64 as RawEntry>::compare_exchange(slot, raw, raw | DIRTY | 1 << 5).is_ok()
}

#[test]
fn dirty_bits_set_meanwhile_survive_protect() {
    let changed = Protection::user(Access::ReadWrite).with_cache(CacheType::WriteThrough);
    dirty_bits_survive(2000, |rig| {
        rig.discharge(rig.protect(PAGES, changed).unwrap());
        vec![false; COUNT]
    });
}

#[test]
fn dirty_bits_set_meanwhile_are_told_by_unmap_each() {
    dirty_bits_survive(2000, |rig| {
        let mut told = Vec::new();
        rig.discharge(rig.unmap_each(PAGES, |page| told.push(page.dirty)).unwrap());
        told
    });
}

/// Memory in which somebody else acts just before the n-th time that an edit reaches for a table.
struct Interrupted<'a, 'm> {
    memory: &'m SimMemory,
    calls_left: AtomicI64,
    rival: Mutex<Option<Box<dyn FnOnce() + Send + 'a>>>,
}

// SAFETY: the entries are those of the memory inside.
unsafe impl PhysMemory for Interrupted<'_, '_> {
    fn entries<E: RawEntry>(&self, table: PhysAddr, count: usize) -> Option<&[E::Atomic]> {
        if self.calls_left.fetch_sub(1, Ordering::Relaxed) == 0 {
            let rival = self.rival.lock().unwrap().take();
            rival.expect("the rival acts once")();
        }
        self.memory.entries::<E>(table, count)
    }
}

/// Runs `edit` on fresh tables that `prepare` has filled, with `rival` acting at every point in turn, and `check`s the result.
fn at_every_point(
    prepare: impl Fn(&Rig<'_>),
    edit: impl Fn(&Editor<'_, LongMode, Interrupted<'_, '_>, SimFrames<'_>>),
    rival: impl Fn(&Rig<'_>) + Sync,
    check: impl Fn(&Rig<'_>, i64),
) {
    let mut point = 0;
    let mut finished = false;
    while !finished {
        with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
            prepare(rig);
            let memory = Interrupted {
                memory: rig.memory,
                calls_left: AtomicI64::new(i64::MAX),
                rival: Mutex::new(Some(Box::new(|| rival(rig)))),
            };
            // SAFETY: the two sides edit disjoint ranges of these tables, and nobody else does.
            let editor =
                unsafe { Editor::new(rig.mode, rig.root, rig.limits, &memory, rig.frames) }
                    .unwrap();
            memory.calls_left.store(point, Ordering::Relaxed);
            edit(&editor);
            finished = memory.rival.lock().unwrap().is_some();
            memory.calls_left.store(i64::MAX, Ordering::Relaxed);
            if !finished {
                check(rig, point);
            }
        });
        point += 1;
    }
    assert!(
        point > 8,
        "only {point} points: the edit was hardly interrupted"
    );
}

#[test]
fn a_fill_may_be_overtaken_anywhere() {
    let page = |number: u64| range(BASE + number * K4, BASE + (number + 1) * K4);
    let map = |rig: &Rig<'_>, number| {
        rig.map(page(number), phys(number * K4), DATA, PageSize::Size1G)
            .unwrap();
    };
    at_every_point(
        |_| {},
        |editor| {
            editor
                .map(page(1), phys(K4), DATA, PageSize::Size1G)
                .unwrap()
        },
        |rig| map(rig, 2),
        |rig, point| {
            for number in [1, 2] {
                let found = rig.walker().translate(page(number).start());
                assert_eq!(found, Some(phys(number * K4)), "point {point}");
            }
            assert_eq!(
                rig.frames.in_use(),
                4,
                "point {point}: the loser's tables came back"
            );
        },
    );
}

#[test]
fn a_split_may_be_overtaken_anywhere() {
    let part = |number: u64| range(BASE + number * K4, BASE + (number + 1) * K4);
    at_every_point(
        |rig| {
            rig.map(range(BASE, BASE + G1), phys(G1), DATA, PageSize::Size1G)
                .unwrap()
        },
        |editor| {
            let flush = editor.unmap(part(1)).unwrap();
            // SAFETY: no CPU has walked these tables.
            unsafe { flush.discharged(editor.memory(), editor.frames()) };
        },
        |rig| rig.discharge(rig.protect(part(2), Protection::KERNEL_RODATA).unwrap()),
        |rig, point| {
            let page = |number| rig.walker().walk(part(number).start()).page();
            assert_eq!(page(1), None, "point {point}");
            assert!(!page(2).unwrap().attributes.write, "point {point}");
            assert!(page(3).unwrap().attributes.write, "point {point}");
            assert_eq!(page(3).unwrap().phys, phys(G1 + 3 * K4), "point {point}");
            assert_eq!(
                rig.frames.in_use(),
                4,
                "point {point}: the loser's tables came back"
            );
        },
    );
}

#[test]
fn a_write_during_a_split_is_not_forgotten() {
    let user = Protection::user(Access::ReadWrite);
    let wrote = AtomicBool::new(false);
    at_every_point(
        |rig| {
            rig.map(range(M2, 2 * M2), phys(M2), user, PageSize::Size2M)
                .unwrap()
        },
        |editor| {
            let flush = editor.unmap(range(M2, M2 + K4)).unwrap();
            // SAFETY: no CPU has walked these tables.
            unsafe { flush.discharged(editor.memory(), editor.frames()) };
        },
        |rig| {
            let step = *rig
                .walker()
                .walk(VirtAddr::new(M2 + 7 * K4))
                .steps()
                .last()
                .unwrap();
            let slots = rig.memory.entries::<u64>(step.entry, 1).unwrap();
            wrote.store(set_dirty(&slots[0]), Ordering::Relaxed);
        },
        |rig, point| {
            assert!(
                wrote.load(Ordering::Relaxed),
                "point {point}: nobody else changes the page"
            );
            let page = rig
                .walker()
                .walk(VirtAddr::new(M2 + 7 * K4))
                .page()
                .unwrap();
            assert!(
                page.attributes.dirty,
                "point {point}: a write was forgotten"
            );
        },
    );
}

/// Threads that each have some slots of one table, while another edits its part of the same table from the root.
#[test]
fn handles_and_editors_share_a_table() {
    with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
        let barrier = Barrier::new(THREADS as usize + 1);
        let each = 64;
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (barrier, editor) = (&barrier, rig.editor::<LongMode>());
                scope.spawn(move || {
                    barrier.wait();
                    // All race for the missing tables, and get the same one.
                    let handle = editor.leaf_table(VirtAddr::new(BASE)).unwrap();
                    let bits = LeafBits::new(DATA, editor.limits());
                    let first = thread as usize * each;
                    for round in 0..200 {
                        let frame = (thread << 20) + round;
                        handle.fill(first, each, Pfn::new(frame), bits);
                        handle.park(first, each);
                        let mut runs = Vec::new();
                        // SAFETY: no CPU has walked these tables.
                        unsafe {
                            handle.collect(first, each, |start, count| runs.push((start, count)))
                        };
                        assert_eq!(runs, [(Pfn::new(frame), each)]);
                    }
                    handle.fill(first, each, Pfn::new(thread << 20), bits);
                });
            }
            let editor = rig.editor::<LongMode>();
            barrier.wait();
            let start = BASE + THREADS * each as u64 * K4;
            for _ in 0..200 {
                let at = range(start, start + 8 * K4);
                editor.map(at, phys(G1), DATA, PageSize::Size2M).unwrap();
                rig.discharge(editor.unmap(at).unwrap());
            }
        });
        for page in 0..THREADS * each as u64 {
            let (thread, index) = (page / each as u64, page % each as u64);
            let found = rig.walker().translate(VirtAddr::new(BASE + page * K4));
            assert_eq!(found, Some(phys((thread << 20 | index) * K4)));
        }
        // One table a level, whoever made it.
        assert_eq!(rig.frames.in_use(), 4);
    });
}
