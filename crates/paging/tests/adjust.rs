//! Changing one thing about pages: against a model of pages, in all four modes; what tokens name; hidden pages; running out of frames.

mod rig;

use std::collections::BTreeMap;

use kspace_layout::{PageSize, PagingMode, VirtAddr, VirtRange};
use kspace_paging::{
    Access, Adjustment, CacheType, Invalidation, Limits, Page, Pat, Protection, Reason,
};
use proptest::prelude::*;
use rig::{Rig, phys, range, with_rig};

const K4: u64 = 4 << 10;
const M4: u64 = 4 << 20;
/// Where the pages are: a border of 1 GiB in the middle.
const START: u64 = (1 << 30) - M4;
const PHYS: u64 = 3 << 30;

/// What a page is, as anybody would write it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    access: Access,
    cache: CacheType,
    hidden: bool,
}

/// What becomes of a page; `None` when that is refused.
fn model(page: Known, adjustment: Adjustment, decides: bool) -> Option<Known> {
    use Access::{ReadExecute, ReadOnly, ReadWrite};
    let access = match (adjustment, page.access) {
        (Adjustment::Writable, ReadExecute) if decides => return None,
        (Adjustment::Executable, ReadWrite) if decides => return None,
        (Adjustment::Writable, _) => ReadWrite,
        (Adjustment::ReadOnly, ReadWrite) => ReadOnly,
        (Adjustment::Executable, _) if decides => ReadExecute,
        (Adjustment::NotExecutable, ReadExecute) if decides => ReadOnly,
        (_, access) => access,
    };
    let cache = match adjustment {
        Adjustment::Cache(cache) => cache,
        _ => page.cache,
    };
    let hidden = match adjustment {
        Adjustment::Hidden => true,
        Adjustment::Shown => false,
        _ => page.hidden,
    };
    Some(Known {
        access,
        cache,
        hidden,
    })
}

fn adjustments() -> impl Strategy<Value = Adjustment> {
    prop_oneof![
        Just(Adjustment::ReadOnly),
        Just(Adjustment::Writable),
        Just(Adjustment::Executable),
        Just(Adjustment::NotExecutable),
        Just(Adjustment::Cache(CacheType::Uncached)),
        Just(Adjustment::Cache(CacheType::WriteThrough)),
        Just(Adjustment::Cache(CacheType::WriteBack)),
        Just(Adjustment::Hidden),
        Just(Adjustment::Shown),
    ]
}

/// What the tables say of a page: present or hidden.
fn found(rig: &Rig<'_>, address: u64) -> (Page, bool) {
    let walk = rig.walker().walk(VirtAddr::new(address));
    match (walk.page(), walk.hidden()) {
        (Some(page), None) => (page, false),
        (None, Some(page)) => (page, true),
        both => panic!("{address:x}: {both:?}"),
    }
}

fn access_of(page: &Page, decides: bool) -> Access {
    match (page.attributes.write, page.attributes.execute && decides) {
        (false, false) => Access::ReadOnly,
        (true, false) => Access::ReadWrite,
        (false, true) => Access::ReadExecute,
        (true, true) => panic!("writable and executable: {page:?}"),
    }
}

/// Addresses around the borders of pages and tables, between which all pages are alike.
fn points() -> Vec<u64> {
    [
        0,
        K4,
        2 * M4 / 8 - K4,
        M4 / 2,
        M4 / 2 + 3 * K4,
        M4 - K4,
        M4,
        M4 + K4,
        M4 + M4 / 2,
        2 * M4 - K4,
        2 * M4,
    ]
    .map(|offset| START + offset)
    .to_vec()
}

fn mode_and_limits() -> impl Strategy<Value = (PagingMode, Limits)> {
    let modes = [
        PagingMode::TwoLevel,
        PagingMode::Pae,
        PagingMode::FourLevel,
        PagingMode::FiveLevel,
    ];
    let limits = |nx: bool| Limits::WIDEST.with_phys_bits(40).with_no_execute(nx);
    (0..modes.len(), prop::bool::weighted(0.9))
        .prop_map(move |(mode, nx)| (modes[mode], limits(nx)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn pages_are_what_the_model_says(
        (mode, limits) in mode_and_limits(),
        access in prop_oneof![Just(Access::ReadOnly), Just(Access::ReadWrite), Just(Access::ReadExecute)],
        edits in prop::collection::vec((0..10_usize, 1..11_usize, adjustments(), prop::option::weighted(0.2, 0..2_usize)), 1..24),
    ) {
        let points = points();
        let decides = limits.no_execute() && mode != PagingMode::TwoLevel;
        with_rig(mode, limits, |rig| {
            let whole = range(START, START + 2 * M4);
            rig.map(whole, phys(PHYS), Protection::kernel(access), PageSize::Size1G).expect("room");
            let access = if decides || access == Access::ReadWrite { access } else { Access::ReadOnly };
            let first = Known { access, cache: CacheType::WriteBack, hidden: false };
            let mut pages: BTreeMap<usize, Known> = (0..points.len() - 1).map(|at| (at, first)).collect();
            for (from, to, adjustment, budget) in edits {
                let (from, to) = (from.min(to), from.max(to));
                if from == to { continue; }
                let at = range(points[from], points[to]);
                let before = (rig.snapshot(), rig.frames.in_use());
                let needed = rig.tables_to_adjust(at, adjustment);
                rig.frames.set_budget(budget);
                let done = rig.adjust(at, adjustment);
                rig.frames.set_budget(None);
                let refused = (from..to).find(|stretch| model(pages[stretch], adjustment, decides).is_none());
                let token = match (done, refused) {
                    (Err(error), refused) => {
                        match (error.reason, refused) {
                            (Reason::WriteExecute { page }, Some(stretch)) => assert_eq!(page.as_u64(), points[stretch]),
                            (Reason::OutOfFrames { needed: tables, .. }, None) => {
                                assert_eq!(Ok(tables), needed);
                                assert!(tables > budget.expect("frames are there"));
                            }
                            other => panic!("{error}: {other:?}"),
                        }
                        assert_eq!((rig.snapshot(), rig.frames.in_use()), before);
                        continue;
                    }
                    (Ok(_), Some(stretch)) => panic!("{adjustment} of {:?}", pages[&stretch]),
                    (Ok(token), None) => token,
                };
                assert_eq!(rig.frames.in_use() - before.1, needed.expect("it was done"));
                let named = token.invalidation().copied();
                rig.discharge(token);
                for stretch in from..to {
                    let old = pages[&stretch];
                    let new = model(old, adjustment, decides).expect("not refused");
                    pages.insert(stretch, new);
                    // What a CPU may know otherwise is in the token, and only then is there one at all.
                    if old != new && !old.hidden {
                        let Some(Invalidation::Range(stale)) = named else { panic!("{adjustment}: nothing is flushed") };
                        assert!(stale.range.contains_range(range(points[stretch], points[stretch + 1])));
                        assert!(stale.global && !stale.tables);
                    }
                }
                if (from..to).all(|stretch| pages[&stretch].hidden) && adjustment != Adjustment::Hidden {
                    assert_eq!(named, None, "{} of hidden pages", adjustment);
                }
                if let Some(Invalidation::Range(stale)) = named {
                    assert!(at.contains_range(stale.range));
                }
            }
            for (stretch, known) in &pages {
                for address in [points[*stretch], points[stretch + 1] - K4] {
                    let (page, hidden) = found(rig, address);
                    assert_eq!(hidden, known.hidden);
                    assert_eq!(page.phys, phys(PHYS + address - START));
                    assert_eq!((access_of(&page, decides), page.attributes.cache), (known.access, known.cache));
                }
            }
        });
    }
}

fn long(test: impl FnOnce(&Rig<'_>, VirtRange)) {
    with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
        let whole = range(1 << 30, 2 << 30);
        rig.map(
            whole,
            phys(1 << 30),
            Protection::KERNEL_DATA,
            PageSize::Size1G,
        )
        .expect("room");
        test(rig, whole);
    });
}

#[test]
fn what_is_hidden_is_nobody_elses_to_fill_or_take() {
    long(|rig, whole| {
        let page = range((1 << 30) + 5 * K4, (1 << 30) + 6 * K4);
        rig.discharge(rig.adjust(page, Adjustment::Hidden).expect("frames"));
        let before = rig.snapshot();
        let hidden = Reason::Hidden { page: page.start() };
        let large = PageSize::Size2M;
        let map = rig.map(page, phys(0), Protection::KERNEL_DATA, large);
        assert_eq!(map.expect_err("hidden").reason, hidden);
        assert_eq!(rig.unmap(page).expect_err("hidden").reason, hidden);
        assert_eq!(rig.unmap_present(page).expect_err("hidden").reason, hidden);
        assert_eq!(rig.park(page).expect_err("hidden").reason, hidden);
        let error = rig
            .protect(page, Protection::KERNEL_RODATA)
            .expect_err("hidden");
        assert_eq!(
            error.to_string(),
            format!(
                "protect {page}: page 1 of 1 ({}) is hidden; show it first; nothing was changed",
                page.start()
            )
        );
        // Neither merged away, nor collected, nor its table taken.
        rig.discharge(rig.merge(whole, PageSize::Size1G).expect("whole pages"));
        rig.discharge(rig.purge(whole).expect("whole pages"));
        rig.collect(whole, |first, _, _| panic!("{first} was not parked"))
            .expect("whole pages");
        assert_eq!(rig.snapshot(), before);
        assert_eq!(
            found(rig, page.start().as_u64()).0.phys,
            phys((1 << 30) + 5 * K4)
        );
    });
}

#[test]
fn a_large_page_that_is_hidden_is_shown_in_parts() {
    long(|rig, whole| {
        let tables = rig.frames.in_use();
        rig.discharge(rig.adjust(whole, Adjustment::Hidden).expect("no table"));
        assert_eq!(rig.frames.in_use(), tables, "a whole page needs no table");
        let part = range((1 << 30) + M4, (1 << 30) + M4 + K4);
        let token = rig.adjust(part, Adjustment::Shown).expect("frames");
        assert_eq!(token.invalidation(), None, "nobody knew the page");
        rig.discharge(token);
        assert_eq!(rig.frames.in_use(), tables + 2);
        let (shown, hidden) = found(rig, part.start().as_u64());
        assert_eq!(
            (shown.phys, shown.size, hidden),
            (phys((1 << 30) + M4), PageSize::Size4K, false)
        );
        assert!(found(rig, part.end_u64()).1);
        rig.discharge(rig.adjust(whole, Adjustment::Shown).expect("no table"));
        rig.discharge(rig.merge(whole, PageSize::Size1G).expect("whole pages"));
        assert_eq!(rig.frames.in_use(), tables);
        assert_eq!(found(rig, 1 << 30).0.size, PageSize::Size1G);
    });
}

#[test]
fn what_cannot_be_adjusted_says_why() {
    long(|rig, whole| {
        let behind = range(2 << 30, (2 << 30) + K4);
        let error = rig
            .adjust(behind, Adjustment::ReadOnly)
            .expect_err("no page");
        assert_eq!(
            error.reason,
            Reason::NotMapped {
                page: behind.start()
            }
        );
        let error = rig
            .adjust(whole, Adjustment::Executable)
            .expect_err("writable");
        assert_eq!(
            error.to_string(),
            format!(
                "adjust {whole}: page 1 of 262144 ({}) would be writable and executable until the flush; protect it read-only and flush first; nothing was changed",
                whole.start()
            )
        );
        rig.discharge(rig.park(range(1 << 30, (1 << 30) + K4)).expect("frames"));
        let error = rig.adjust(whole, Adjustment::Hidden).expect_err("parked");
        assert_eq!(
            error.reason,
            Reason::Parked {
                page: whole.start()
            }
        );
    });
    let limits = Limits::WIDEST.with_pat(Pat::RESET);
    with_rig(PagingMode::FourLevel, limits, |rig| {
        let page = range(0, K4);
        rig.map(page, phys(0), Protection::KERNEL_DATA, PageSize::Size4K)
            .expect("room");
        let combining = CacheType::WriteCombining;
        let error = rig
            .adjust(page, Adjustment::Cache(combining))
            .expect_err("no such type");
        assert_eq!(error.reason, Reason::NoSuchCache(combining));
    });
}
