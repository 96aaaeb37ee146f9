//! Random edits against a model that anyone can check by eye, in all four modes.
//!
//! Edits begin and end at a few chosen points around the borders of pages and tables. Between two neighbouring points everything
//! is alike, so the model keeps one entry for each such stretch, however many pages it has.

mod rig;

use std::collections::BTreeMap;
use std::ops::Range;

use kspace_layout::{PageSize, PagingMode, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Access, CacheType, EditError, Flush, Limits, Merge, Protection, Reason};
use proptest::prelude::*;
use rig::{Rig, phys, range, with_rig};

const K4: u64 = 4 << 10;
const M2: u64 = 2 << 20;
const M4: u64 = 4 << 20;
const G1: u64 = 1 << 30;

/// The model: what each stretch maps, and what those remember that are parked.
#[derive(Clone, Debug, Default)]
struct Model {
    pages: BTreeMap<usize, (u64, Protection)>,
    parked: BTreeMap<usize, u64>,
}

impl Model {
    fn map(
        &mut self,
        at: Range<usize>,
        phys: u64,
        protection: Protection,
        points: &[u64],
    ) -> Result<(), usize> {
        let taken =
            |stretch: &usize| self.pages.contains_key(stretch) || self.parked.contains_key(stretch);
        at.clone().find(taken).map_or(Ok(()), Err)?;
        let start = points[at.start];
        self.pages
            .extend(at.map(|stretch| (stretch, (phys + points[stretch] - start, protection))));
        Ok(())
    }

    fn unmap(&mut self, at: Range<usize>) -> Result<(), usize> {
        at.clone()
            .find(|stretch| !self.pages.contains_key(stretch))
            .map_or(Ok(()), Err)?;
        self.pages.retain(|stretch, _| !at.contains(stretch));
        Ok(())
    }

    fn unmap_present(&mut self, at: Range<usize>) -> Result<(), usize> {
        let parked = at.clone().find(|stretch| self.parked.contains_key(stretch));
        parked.map_or(Ok(()), Err)?;
        self.pages.retain(|stretch, _| !at.contains(stretch));
        Ok(())
    }

    fn park(&mut self, at: Range<usize>) -> Result<(), usize> {
        let frames: Vec<_> = at
            .clone()
            .zip(at.clone().filter_map(|stretch| self.pages.get(&stretch)))
            .map(|(stretch, page)| (stretch, page.0))
            .collect();
        self.unmap(at)?;
        self.parked.extend(frames);
        Ok(())
    }

    /// What is parked there, and how many bytes from there on.
    fn collect(&mut self, at: Range<usize>, points: &[u64]) -> Vec<(u64, u64)> {
        let found = self
            .parked
            .range(at.clone())
            .map(|(&stretch, &phys)| (phys, points[stretch + 1] - points[stretch]))
            .collect();
        self.parked.retain(|stretch, _| !at.contains(stretch));
        found
    }

    fn protect(&mut self, at: Range<usize>, to: Protection, no_execute: bool) -> Result<(), usize> {
        let flips = |from: Protection| {
            no_execute
                && from.access != to.access
                && from.access != Access::ReadOnly
                && to.access != Access::ReadOnly
        };
        let refused =
            |stretch: &usize| self.pages.get(stretch).is_none_or(|(_, from)| flips(*from));
        at.clone().find(refused).map_or(Ok(()), Err)?;
        at.for_each(|stretch| self.pages.get_mut(&stretch).unwrap().1 = to);
        Ok(())
    }
}

/// The points for a mode, around a border of every level that it has.
fn points(mode: PagingMode) -> Vec<u64> {
    let offsets: &[u64] = match mode {
        PagingMode::TwoLevel => &[
            0,
            K4,
            M4 - K4,
            M4,
            M4 + K4,
            2 * M4,
            2 * M4 + 5 * K4,
            3 * M4,
            5 * M4 - K4,
            5 * M4,
        ],
        _ => &[
            0,
            K4,
            M2 - K4,
            M2,
            M2 + K4,
            2 * M2,
            2 * M2 + 5 * K4,
            5 * M2,
            G1 - M2,
            G1 - K4,
            G1,
            G1 + K4,
            G1 + M2,
            2 * G1 - M2,
            2 * G1,
            3 * G1,
        ],
    };
    // The second GiB begins a new table of the highest level that the mode can have in the middle of a range.
    let base = match mode {
        PagingMode::TwoLevel => 3 * G1,
        PagingMode::Pae => G1,
        PagingMode::FourLevel => 0xffff_8880_0000_0000 - G1,
        PagingMode::FiveLevel => 0xff12_0000_0000_0000 - G1,
    };
    offsets.iter().map(|offset| base + offset).collect()
}

#[derive(Clone, Debug)]
enum Op {
    Map {
        at: Range<usize>,
        phys: u64,
        protection: Protection,
        largest: PageSize,
    },
    Unmap(Range<usize>),
    UnmapPresent(Range<usize>),
    Protect(Range<usize>, Protection),
    Merge(Range<usize>, PageSize),
    Purge(Range<usize>),
    Park(Range<usize>),
    /// As far as the first pages there that are mapped go on.
    ParkMapped(Range<usize>),
    Collect(Range<usize>),
}

fn any_protection() -> impl Strategy<Value = Protection> {
    let access = prop_oneof![
        Just(Access::ReadOnly),
        Just(Access::ReadWrite),
        Just(Access::ReadExecute)
    ];
    let cache = prop_oneof![
        4 => Just(CacheType::WriteBack),
        1 => Just(CacheType::WriteThrough),
        1 => Just(CacheType::UncachedMinus),
        1 => Just(CacheType::Uncached),
        1 => Just(CacheType::WriteCombining),
        1 => Just(CacheType::WriteProtected),
    ];
    (access, cache, any::<bool>(), any::<bool>()).prop_map(|(access, cache, user, global)| {
        Protection {
            access,
            user,
            global,
            cache,
        }
    })
}

fn any_largest() -> impl Strategy<Value = PageSize> {
    prop_oneof![
        Just(PageSize::Size4K),
        Just(PageSize::Size2M),
        Just(PageSize::Size4M),
        Just(PageSize::Size1G)
    ]
}

fn any_op(points: Vec<u64>) -> impl Strategy<Value = Op> {
    let stretches = points.len() - 1;
    let at =
        (0..stretches, 0..stretches).prop_map(|(one, other)| one.min(other)..one.max(other) + 1);
    // Where the range would go if all of memory were mapped in order, or a little beside, so that large pages do not fit.
    let shift = prop_oneof![3 => Just(0), 1 => Just(K4), 1 => Just(M2)];
    let base = points[0];
    let map = (at.clone(), shift, any_protection(), any_largest()).prop_map(
        move |(at, shift, protection, largest)| {
            // A GiB in 4 KiB pages tests nothing that a few MiB do not, at great length.
            let many = points[at.end] - points[at.start] > 32 * M2;
            let shift = if many { shift / M2 * M2 } else { shift };
            let largest = if many {
                largest.max(PageSize::Size2M)
            } else {
                largest
            };
            Op::Map {
                phys: points[at.start] - base + shift,
                at,
                protection,
                largest,
            }
        },
    );
    prop_oneof![
        5 => map,
        2 => at.clone().prop_map(Op::Unmap),
        1 => at.clone().prop_map(Op::UnmapPresent),
        3 => (at.clone(), any_protection()).prop_map(|(at, protection)| Op::Protect(at, protection)),
        2 => (at.clone(), any_largest()).prop_map(|(at, largest)| Op::Merge(at, largest)),
        1 => at.clone().prop_map(Op::Purge),
        1 => at.clone().prop_map(Op::Park),
        4 => at.clone().prop_map(Op::ParkMapped),
        2 => at.prop_map(Op::Collect),
    ]
}

/// One edit on the tables, with the frame source running dry after 0, 1, 2… frames until it is enough. Each failure must leave
/// every frame as it was.
fn edit<T>(rig: &Rig<'_>, call: impl Fn() -> Result<T, EditError>) -> Result<T, EditError> {
    let before = rig.snapshot();
    for budget in 0.. {
        rig.frames.set_budget(Some(budget));
        let result = call();
        rig.frames.set_budget(None);
        let Err(EditError {
            reason: Reason::OutOfFrames { needed, available },
            ..
        }) = result
        else {
            if result.is_err() {
                assert!(before == rig.snapshot(), "a refusal changed the tables");
            }
            return result;
        };
        assert_eq!(available, budget, "frames counted");
        assert!(needed > budget, "frames needed");
        assert!(
            before == rig.snapshot(),
            "running out of frames changed the tables"
        );
    }
    unreachable!()
}

/// Applies `op` to both, and compares what they answer.
fn apply(rig: &Rig<'_>, model: &mut Model, points: &[u64], op: &Op) {
    let span = |at: &Range<usize>| range(points[at.start], points[at.end]);
    let no_execute = rig.limits.no_execute() && rig.mode != PagingMode::TwoLevel;
    let (at, result, expected) = match op.clone() {
        Op::Map {
            at,
            phys: to,
            protection,
            largest,
        } => {
            let result = edit(rig, || rig.map(span(&at), phys(to), protection, largest));
            let expected = model.map(at.clone(), to, protection, points);
            (at, result.map(|()| Flush::nothing()), expected)
        }
        Op::Unmap(at) => (
            at.clone(),
            edit(rig, || rig.unmap(span(&at))),
            model.unmap(at),
        ),
        Op::UnmapPresent(at) => (
            at.clone(),
            edit(rig, || rig.unmap_present(span(&at))),
            model.unmap_present(at),
        ),
        Op::Park(at) => (
            at.clone(),
            edit(rig, || rig.park(span(&at))),
            model.park(at),
        ),
        Op::ParkMapped(at) => {
            let mapped = |stretch: &usize| model.pages.contains_key(stretch);
            let Some(start) = at.clone().find(mapped) else {
                return;
            };
            let count = (start..at.end).take_while(mapped).count();
            return apply(rig, model, points, &Op::Park(start..start + count));
        }
        Op::Collect(at) => return collect(rig, model, points, at),
        Op::Protect(at, to) => {
            let result = edit(rig, || rig.protect(span(&at), to));
            (at.clone(), result, model.protect(at, to, no_execute))
        }
        Op::Merge(at, largest) => (at.clone(), rig.merge(span(&at), largest), Ok(())),
        Op::Purge(at) => (at.clone(), rig.purge(span(&at)), Ok(())),
    };
    match (result, expected) {
        (Ok(flush), Ok(())) => rig.discharge(flush),
        (Err(error), Err(stretch)) => {
            let page = match error.reason {
                Reason::Parked { page } => {
                    assert!(model.parked.contains_key(&stretch), "{op:?}: {error}");
                    page
                }
                Reason::AlreadyMapped { page, .. }
                | Reason::NotMapped { page }
                | Reason::WriteExecute { page } => page,
                other => panic!("{op:?}: {other:?}"),
            };
            assert_eq!(page, VirtAddr::new(points[stretch]), "{op:?}: {error}");
            assert_eq!(error.range, span(&at));
        }
        (Ok(_), Err(stretch)) => panic!("{op:?} must fail at {:x}", points[stretch]),
        (Err(error), Ok(())) => panic!("{op:?}: {error}"),
    }
}

/// The parked large page that an end of `at` lies inside of, if there is one, read from the tables themselves: not present, with the
/// bit of a large page.
fn parked_beyond(rig: &Rig<'_>, at: VirtRange) -> bool {
    [at.start(), at.last()].into_iter().any(|end| {
        let walk = rig.walker().walk(end);
        let step = walk.steps().last().expect("the root has an entry");
        let size = rig.mode.leaf_size(step.level).map_or(K4, PageSize::bytes);
        let inside = at.contains(end.align_down(size))
            && at.last().as_u64() >= end.align_down(size).as_u64() + size - 1;
        step.level > 1 && step.raw & 0x81 == 0x80 && !inside
    })
}

/// Collects from both, and compares what they tell.
fn collect(rig: &Rig<'_>, model: &mut Model, points: &[u64], at: Range<usize>) {
    let span = range(points[at.start], points[at.end]);
    let (mut found, before, beyond) = (Vec::new(), rig.snapshot(), parked_beyond(rig, span));
    let result = rig.collect(span, |first, size, count| {
        assert!(first.is_aligned(size.bytes()), "{first} in pages of {size}");
        found.push((first.as_u64(), size.bytes() * count as u64));
    });
    if let Err(error) = result {
        assert!(
            matches!(error.reason, Reason::ParkedBeyond { .. }),
            "{error}"
        );
        assert!(beyond, "{error}");
        assert!(before == rig.snapshot() && found.is_empty());
        return;
    }
    assert!(!beyond, "part of a large page was collected");
    assert_eq!(joined(&found), joined(&model.collect(at, points)));
    let mut again = 0;
    rig.collect(span, |_, _, count| again += count).unwrap();
    assert_eq!(again, 0, "collected twice");
}

/// The same memory in as few pieces as there can be.
fn joined(pieces: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = Vec::new();
    for &(start, size) in pieces {
        match all.last_mut() {
            Some((first, bytes)) if *first + *bytes == start => *bytes += size,
            _ => all.push((start, size)),
        }
    }
    all
}

type Expected = (VirtRange, PhysAddr, Protection);

/// The model's mappings, neighbours merged.
fn merged(model: &Model, points: &[u64]) -> Vec<Expected> {
    let mut all: Vec<Expected> = Vec::new();
    for (&stretch, &(to, protection)) in &model.pages {
        let virt = range(points[stretch], points[stretch + 1]);
        match all.last_mut() {
            Some((run, start, same))
                if *same == protection
                    && run.end_u64() == virt.start().as_u64()
                    && start.as_u64() + run.size() == to =>
            {
                *run = range(run.start().as_u64(), points[stretch + 1]);
            }
            _ => all.push((virt, phys(to), protection)),
        }
    }
    all
}

/// Holds every page of the whole address space against the model.
fn compare(rig: &Rig<'_>, model: &Model, points: &[u64]) {
    let merge = Merge {
        contiguous: true,
        same_size: false,
        history: false,
    };
    let halves = match rig.mode {
        PagingMode::TwoLevel | PagingMode::Pae => vec![VirtRange::new(VirtAddr::ZERO, 1 << 32)],
        _ => vec![
            VirtRange::new(VirtAddr::ZERO, 1 << 56),
            VirtRange::new(VirtAddr::new(0xff00_0000_0000_0000), 1 << 56),
        ],
    };
    let no_execute = rig.limits.no_execute() && rig.mode != PagingMode::TwoLevel;
    let runs = halves
        .into_iter()
        .flat_map(|half| rig.walker().runs_merged(half, merge));
    let found: Vec<_> = runs.map(|run| run.expect("no obstacle")).collect();
    let expected = merged(model, points);
    // Without no-execute, read-only and executable look alike, and runs grow together: compare page by page below instead.
    if no_execute {
        assert_eq!(
            found.len(),
            expected.len(),
            "runs: {found:#?}\nmodel: {expected:#?}"
        );
    }
    let size = |all: &mut dyn Iterator<Item = VirtRange>| all.map(|virt| virt.size()).sum::<u64>();
    assert_eq!(
        size(&mut found.iter().map(|run| run.virt)),
        size(&mut expected.iter().map(|(virt, ..)| *virt)),
    );
    for (virt, to, protection) in expected {
        let run = found
            .iter()
            .find(|run| run.virt.contains_range(virt))
            .expect("a run covers it");
        let offset = virt.start().as_u64() - run.virt.start().as_u64();
        assert_eq!(run.phys.as_u64() + offset, to.as_u64());
        assert_eq!(run.attributes.write, protection.access == Access::ReadWrite);
        assert_eq!(
            run.attributes.execute,
            !no_execute || protection.access == Access::ReadExecute
        );
        assert_eq!(run.attributes.user, protection.user);
        assert_eq!(run.attributes.global, protection.global);
        assert_eq!(run.attributes.cache, protection.cache);
        if !run.attributes.write {
            assert!(
                !run.attributes.dirty,
                "read-only and dirty is a shadow stack"
            );
        }
        // The one-address walk must say the same at both ends.
        for address in [virt.start(), virt.last()] {
            let offset = address.as_u64() - virt.start().as_u64();
            let page = rig.walker().walk(address).page().expect("mapped");
            assert_eq!(page.phys.as_u64(), to.as_u64() + offset);
            assert_eq!(
                page.attributes.without_history(),
                run.attributes.without_history()
            );
        }
    }
}

/// What entries remember of the tables they lead to (see the module `known` of the editor) must be true.
fn check_memories(rig: &Rig<'_>, level: u8, table: u64) {
    let words = rig.memory.snapshot(phys(table).pfn());
    // Only 8-byte formats remember anything.
    let entries = words.iter().take(rig.mode.entries(level) as usize);
    let is_leaf = |level: u8, raw: u64| level == 1 || (level <= 3 && raw & 0x80 != 0);
    for raw in entries.filter(|&&raw| raw & 1 != 0 && !is_leaf(level, raw)) {
        let below = raw & 0x000f_ffff_ffff_f000 & !rig.limits.encryption_mask();
        let inner = rig.memory.snapshot(phys(below).pfn());
        match raw >> 9 & 3 {
            0 => {}
            // Copies of root entries in other roots would not be told.
            _ if level == rig.mode.levels() => panic!("a root entry remembers something"),
            1 => assert!(inner.iter().all(|&raw| raw == 0), "remembered as empty"),
            code => {
                assert!(
                    inner
                        .iter()
                        .all(|&raw| raw & 1 != 0 && is_leaf(level - 1, raw)),
                    "remembered as full"
                );
                let global = inner.iter().any(|raw| raw & 0x100 != 0);
                assert!(
                    !global || code == 3,
                    "remembered as full of pages that are not global"
                );
            }
        }
        if level > 2 {
            check_memories(rig, level - 1, below);
        }
    }
}

fn check(mode: PagingMode, limits: Limits, ops: &[Op]) {
    with_rig(mode, limits, |rig| {
        let points = points(mode);
        let mut model = Model::default();
        let at_first = rig.frames.in_use();
        for op in ops {
            apply(rig, &mut model, &points, op);
            compare(rig, &model, &points);
            if mode != PagingMode::TwoLevel {
                check_memories(rig, mode.levels(), rig.root.as_u64());
            }
        }
        let all = range(points[0], *points.last().unwrap());
        // Tables at the window's ends span more than the window; the whole half holds them.
        let half = match mode {
            PagingMode::TwoLevel | PagingMode::Pae => VirtRange::new(VirtAddr::ZERO, 1 << 32),
            PagingMode::FourLevel => VirtRange::new(VirtAddr::new(0xffff_8000_0000_0000), 1 << 47),
            PagingMode::FiveLevel => VirtRange::new(VirtAddr::new(0xff00_0000_0000_0000), 1 << 56),
        };
        // A purge leaves what is parked where it is.
        rig.discharge(rig.purge(half).unwrap());
        collect(rig, &mut model, &points, 0..points.len() - 1);
        assert!(model.parked.is_empty());
        rig.discharge(rig.unmap_present(all).unwrap());
        rig.discharge(rig.purge(half).unwrap());
        assert_eq!(rig.frames.in_use(), at_first, "every table must come back");
    });
}

macro_rules! against_the_model {
    ($($name:ident: $mode:expr, $limits:expr;)*) => {$(
        proptest! {
            #![proptest_config(ProptestConfig {
                cases: 48,
                failure_persistence: None,
                ..ProptestConfig::default()
            })]
            #[test]
            fn $name(ops in prop::collection::vec(any_op(points($mode)), 1..24)) {
                check($mode, $limits, &ops);
            }
        }
    )*};
}

against_the_model! {
    two_level: PagingMode::TwoLevel, Limits::WIDEST;
    two_level_without_large_pages: PagingMode::TwoLevel, Limits::WIDEST.with_large_pages(false);
    pae: PagingMode::Pae, Limits::WIDEST;
    pae_without_no_execute: PagingMode::Pae, Limits::WIDEST.with_no_execute(false);
    four_level: PagingMode::FourLevel, Limits::WIDEST;
    four_level_without_gigabyte_pages: PagingMode::FourLevel, Limits::WIDEST.with_gigabyte_pages(false).with_phys_bits(40);
    four_level_encrypted: PagingMode::FourLevel, Limits::WIDEST.with_phys_bits(47).with_encryption_mask(1 << 47);
    five_level: PagingMode::FiveLevel, Limits::WIDEST;
}
