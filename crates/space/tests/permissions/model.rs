//! Random changes against a model that keeps every page by itself, on one CPU that remembers every translation it may.

use std::collections::BTreeMap;

use kspace::permissions::{Change, Problem};
use kspace_layout::{PageSize, PhysRange, SectionKind, VirtAddr, VirtRange};
use kspace_paging::{Access, CacheType, Controls, Intent, Operation};
use proptest::prelude::*;

use crate::kernel::{GIB, Machine, PageState, SECTION, STRETCHES, with_kernel};
use crate::simulated::{K4, Setup, pages};

/// What a page is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ground {
    Direct,
    Image,
    Area,
}

/// Every page that is looked at, with what must be true of it.
#[derive(Clone)]
struct Model {
    pages: BTreeMap<VirtAddr, (Ground, PageState)>,
    /// Pages whose memory type was set through an area.
    by_area: Vec<VirtAddr>,
}

impl Model {
    fn new(machine: &Machine<'_, '_, '_>) -> Self {
        let mut all = BTreeMap::new();
        let mut add = |ground, range: VirtRange| {
            for page in pages(range) {
                all.insert(page, (ground, machine.page(page)));
            }
        };
        for (start, end) in STRETCHES {
            add(Ground::Direct, machine.large(start, 1));
            add(Ground::Direct, machine.large(end - K4, 1));
        }
        for section in machine.layout.image().expect("there is one").sections() {
            add(Ground::Image, section.range);
            for page in pages(section.range) {
                let phys = machine.page(page).frame.start().as_u64();
                add(Ground::Direct, machine.direct(phys, 1));
            }
        }
        add(Ground::Area, machine.area);
        for page in pages(machine.area) {
            let phys = machine.page(page).frame.start().as_u64();
            add(Ground::Direct, machine.direct(phys, 1));
        }
        Self {
            pages: all,
            by_area: Vec::new(),
        }
    }

    /// The places of a page's frame but itself and other areas.
    fn others(&self, page: VirtAddr) -> Vec<VirtAddr> {
        let frame = self.pages[&page].1.frame;
        let is_other = |(at, (ground, state)): (&VirtAddr, &(Ground, PageState))| {
            (*at != page && state.frame == frame && *ground != Ground::Area).then_some(*at)
        };
        self.pages.iter().filter_map(is_other).collect()
    }

    /// Makes the change, or says that it is refused.
    fn change(
        &mut self,
        own: &[VirtAddr],
        change: Change,
        machine: &Machine<'_, '_, '_>,
    ) -> Result<(), ()> {
        let before = self.clone();
        let sections = [SectionKind::Text, SectionKind::Rodata].map(|kind| machine.section(kind));
        let of_image = |page: &VirtAddr| {
            let image = machine
                .layout
                .phys_to_image(self.pages[page].1.frame.start());
            image.is_some_and(|at| sections.iter().any(|section| section.contains(at)))
        };
        let ground = self.pages[&own[0]].0;
        let spares = matches!(
            change,
            Change::ReadOnly | Change::Executable | Change::NotExecutable | Change::Present
        );
        if (ground == Ground::Direct && change == Change::Executable)
            || (!spares && own.iter().any(of_image))
        {
            return Err(());
        }
        let cache = match change {
            Change::Uncached => Some(CacheType::UncachedMinus),
            Change::WriteCombining => Some(CacheType::WriteCombining),
            Change::WriteBack => Some(CacheType::WriteBack),
            _ => None,
        };
        let places: Vec<_> = own
            .iter()
            .flat_map(|page| {
                [
                    vec![(*page, true)],
                    self.others(*page)
                        .into_iter()
                        .map(|at| (at, false))
                        .collect(),
                ]
                .concat()
            })
            .collect();
        if let Some(cache) = cache {
            let hidden = places.iter().any(|(at, _)| !self.pages[at].1.present);
            let by_area =
                ground != Ground::Area && places.iter().any(|(at, _)| self.by_area.contains(at));
            let refused = |at: &VirtAddr| {
                let now = self.pages[at].1.cache;
                now != cache && now != CacheType::WriteBack && cache != CacheType::WriteBack
            };
            // Another area's frames are changed in that area. (What is hidden there is not seen.)
            let shared = |at: &VirtAddr| {
                let frame = self.pages[at].1.frame;
                let is_other = |(page, (ground, state)): (&VirtAddr, &(Ground, PageState))| {
                    *ground == Ground::Area
                        && state.frame == frame
                        && state.present
                        && !own.contains(page)
                };
                self.pages.iter().any(is_other)
            };
            let retypes = places.iter().any(|(at, _)| self.pages[at].1.cache != cache);
            let shared = retypes && own.iter().any(shared);
            if hidden || by_area || shared || own.iter().any(refused) {
                return Err(());
            }
        }
        for (at, is_own) in places {
            let state = &mut self.pages.get_mut(&at).expect("looked at").1;
            let access = &mut state.access;
            match (change, is_own) {
                (Change::ReadOnly, _) | (Change::Executable, false)
                    if *access == Access::ReadWrite =>
                {
                    *access = Access::ReadOnly;
                }
                (Change::Writable, _) => {
                    *access = if *access == Access::ReadExecute {
                        return self.refuse(before);
                    } else {
                        Access::ReadWrite
                    }
                }
                (Change::Executable, true) => {
                    *access = if *access == Access::ReadWrite {
                        return self.refuse(before);
                    } else {
                        Access::ReadExecute
                    }
                }
                (Change::NotExecutable, true) if *access == Access::ReadExecute => {
                    *access = Access::ReadOnly
                }
                (Change::NonPresent, _) => state.present = false,
                (Change::Present, _) => state.present = true,
                _ => {}
            }
            if let Some(cache) = cache {
                state.cache = cache;
                if ground == Ground::Area && !is_own && cache != CacheType::WriteBack {
                    self.by_area.push(at);
                } else if ground == Ground::Area && !is_own {
                    self.by_area.retain(|page| *page != at);
                }
            }
        }
        if self.writes_code() {
            return self.refuse(before);
        }
        Ok(())
    }

    fn refuse(&mut self, before: Self) -> Result<(), ()> {
        *self = before;
        Err(())
    }

    /// Whether a frame can be written in one place and executed in another.
    fn writes_code(&self) -> bool {
        let mut rights = BTreeMap::new();
        for (_, state) in self.pages.values() {
            let (write, execute) = rights.entry(state.frame).or_insert((false, false));
            *write |= state.access == Access::ReadWrite;
            *execute |= state.access == Access::ReadExecute;
        }
        rights.values().any(|(write, execute)| *write && *execute)
    }
}

/// What every page is, in the tables and for the CPU, which may use what it remembers.
fn check(machine: &Machine<'_, '_, '_>, model: &Model) {
    assert!(!model.writes_code());
    for (page, (_, state)) in &model.pages {
        assert_eq!(machine.page(*page), *state, "{page}");
        let intent = Intent::kernel(Operation::Read);
        let seen = machine
            .rig
            .machine
            .access(0, *page, intent, Controls::KERNEL);
        let seen = seen.unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(seen.pages.is_empty(), !state.present, "{page}: {seen:?}");
        assert_eq!(seen.may_fault, !state.present, "{page}");
        for possible in seen.pages {
            assert_eq!(possible.translate(*page).pfn(), state.frame);
            let attributes = possible.attributes;
            let access = (attributes.write, attributes.execute);
            let right = (
                state.access == Access::ReadWrite,
                state.access == Access::ReadExecute,
            );
            assert_eq!((access, attributes.cache), (right, state.cache), "{page}");
        }
    }
    for typed in machine.permissions.types().iter() {
        assert_ne!(typed.cache, CacheType::WriteBack);
    }
}

/// The frames whose caches must have been emptied between the two.
fn emptied(before: &Model, after: &Model) -> Vec<PhysRange> {
    let cached = |cache| cache == CacheType::WriteBack;
    let mut frames: Vec<_> = after
        .pages
        .iter()
        .filter(|(page, (_, state))| cached(before.pages[*page].1.cache) && !cached(state.cache))
        .map(|(_, (_, state))| state.frame)
        .collect();
    frames.sort_unstable();
    frames.dedup();
    frames
        .into_iter()
        .map(|frame| PhysRange::new(frame.start(), K4))
        .collect()
}

fn changes() -> impl Strategy<Value = Change> {
    prop::sample::select(vec![
        Change::ReadOnly,
        Change::Writable,
        Change::Executable,
        Change::NotExecutable,
        Change::Uncached,
        Change::WriteCombining,
        Change::WriteBack,
        Change::NonPresent,
        Change::Present,
    ])
}

/// A range of one ground.
fn range_of(machine: &Machine<'_, '_, '_>, what: usize, from: u64, to: u64) -> VirtRange {
    let part = |whole: VirtRange| {
        let pages = whole.size() / K4;
        let (from, to) = (from % pages, to % pages);
        let (from, to) = (from.min(to), from.max(to));
        let start = whole.start().checked_add(from * K4).expect("inside");
        VirtRange::new(start, (to - from + 1) * K4)
    };
    let kinds = [
        SectionKind::Text,
        SectionKind::Rodata,
        SectionKind::Data,
        SectionKind::Bss,
    ];
    match what {
        0 | 1 => part(machine.area),
        2 => part(machine.section(kinds[(from / SECTION) as usize % 4])),
        3 => {
            // The direct map's view of the area's pages, one at a time.
            let phys = machine
                .page(part(machine.area).start())
                .frame
                .start()
                .as_u64();
            machine.direct(phys, 1)
        }
        4 => {
            let section = part(machine.section(kinds[(from / SECTION) as usize % 4]));
            let phys = machine.page(section.start()).frame.start().as_u64();
            machine.direct(phys, section.size() / K4)
        }
        _ => {
            // Stretches that lie side by side: five, or two.
            let at = |index: u64| STRETCHES[index as usize % STRETCHES.len()];
            let (first, last) = (at(from.min(to)), at(from.max(to)));
            let (start, end) =
                if first.0 < 2 * (2 << 20) && last.1 <= 2 * (2 << 20) && first.0 < last.1 {
                    (first.0, last.1)
                } else {
                    first
                };
            machine.large(start, (end - start) / K4)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_page_is_what_the_model_says(
        steps in prop::collection::vec((0..8_usize, 0..40_u64, 0..40_u64, changes()), 1..24),
    ) {
        with_kernel(Setup::new(), |machine| {
            let mut model = Model::new(machine);
            let first = model.clone();
            let sizes: Vec<_> = model.pages.keys().map(|page| machine.size(*page)).collect();
            for (what, from, to, change) in steps {
                check(machine, &model);
                let range = range_of(machine, what, from, to);
                let own: Vec<_> = model.pages.keys().copied().filter(|page| range.contains(*page)).collect();
                let before = model.clone();
                let _ = machine.rig.machine.emptied();
                let expected = model.change(&own, change, machine);
                let done = machine.set(range, change);
                assert_eq!(done.is_ok(), expected.is_ok(), "{} {}: {:?}", change, range, done);
                let told = machine.rig.machine.emptied();
                for frame in emptied(&before, &model) {
                    assert!(told.iter().any(|range| range.contains_range(frame)), "{change} {range}: caches have {frame} still");
                }
            }
            check(machine, &model);
            // The way back.
            machine.restore(machine.area).expect("it is there");
            machine.restore(machine.direct(0, 3 * GIB / K4)).expect("it is there");
            for section in machine.layout.image().expect("there is one").sections() {
                machine.restore(section.range).expect("it is there");
            }
            check(machine, &first);
            let now: Vec<_> = model.pages.keys().map(|page| machine.size(*page)).collect();
            assert_eq!(now, sizes);
            assert_eq!(machine.permissions.in_books(), (0, 0));
            assert_eq!(machine.permissions.types().iter().count(), 0);
        });
    }
}

#[test]
fn a_page_of_1_gib_is_split_and_comes_back() {
    with_kernel(Setup::new(), |machine| {
        let page = machine.large(5 * K4, 1);
        let other = machine.large(GIB / 2, 3);
        assert_eq!(machine.size(page.start()), PageSize::Size1G);
        let frames = machine.rig.frames.frames.in_use();
        machine.set(page, Change::ReadOnly).expect("frames");
        assert_eq!(machine.size(page.start()), PageSize::Size4K);
        assert_eq!(machine.size(other.start()), PageSize::Size2M);
        machine.set(other, Change::NonPresent).expect("frames");
        machine.set(page, Change::Writable).expect("no table");
        // Its table is uniform again, but the gigabyte is not.
        assert_eq!(machine.size(page.start()), PageSize::Size2M);
        machine.set(other, Change::Present).expect("no table");
        assert_eq!(machine.size(page.start()), PageSize::Size1G);
        assert_eq!(machine.size(other.start()), PageSize::Size1G);
        assert_eq!(machine.permissions.in_books(), (0, 0));
        // But for one frame of each book, for the next time.
        assert_eq!(machine.rig.frames.frames.in_use(), frames + 2);
        let violation = machine.rig.machine.check();
        violation.unwrap_or_else(|violation| panic!("{violation}"));
    });
}

#[test]
fn what_was_not_there_needs_no_flush_and_the_rest_exactly_one() {
    with_kernel(Setup::new(), |machine| {
        let page = machine.large(5 * K4, 1);
        let beside = machine.large(7 * K4, 1);
        machine.set(beside, Change::ReadOnly).expect("frames");
        let flushes = || machine.rig.machine.performed(0);
        let _ = flushes();
        machine.set(page, Change::NonPresent).expect("frames");
        let told = flushes();
        assert_eq!(told, [kspace::platform::LocalFlush::Page(page.start())]);
        machine.set(page, Change::Present).expect("frames");
        assert_eq!(flushes(), []);
        machine.set(page, Change::Present).expect("it is");
        assert_eq!(flushes(), []);
    });
}

#[test]
fn frames_of_two_areas_never_get_both_rights() {
    use kspace::vmalloc::{AreaRequest, Kind};
    with_kernel(Setup::new(), |machine| {
        let frame = |page| {
            machine
                .page(machine.area.start().checked_add(page * K4).expect("inside"))
                .frame
        };
        let request = AreaRequest::new(2 * K4).kind(Kind::Frames);
        // SAFETY: the area lives as long.
        let writable = unsafe { machine.rig.areas.map(&request, frame) }.expect("room");
        let one = VirtRange::new(machine.area.start(), K4);
        machine.set(one, Change::ReadOnly).expect("frames");
        let error = machine
            .set(one, Change::Executable)
            .expect_err("it can be written");
        assert_eq!(
            error.problem,
            Problem::WriteExecute {
                page: writable.start()
            }
        );
        assert_eq!(machine.page(one.start()).access, Access::ReadOnly);
        machine.set(writable, Change::ReadOnly).expect("frames");
        machine
            .set(one, Change::Executable)
            .expect("nobody can write");
        // Neither by the other area, nor by the direct map.
        let direct = machine.direct(frame(0).start().as_u64(), 1);
        for place in [VirtRange::new(writable.start(), K4), direct] {
            let error = machine
                .set(place, Change::Writable)
                .expect_err("it is code");
            assert!(
                matches!(error.problem, Problem::WriteExecute { .. }),
                "{error}"
            );
        }
        machine.set(one, Change::NotExecutable).expect("no table");
        machine
            .set(direct, Change::Writable)
            .expect("it is no code any more");
    });
}

#[test]
fn what_becomes_code_loses_the_right_to_write_in_its_other_place() {
    with_kernel(Setup::new(), |machine| {
        let one = VirtRange::new(machine.area.start(), K4);
        let frame = machine.page(one.start()).frame;
        let direct = machine.direct(frame.start().as_u64(), 1);
        machine.set(one, Change::ReadOnly).expect("frames");
        machine
            .set(direct, Change::Writable)
            .expect("it is no code");
        machine.rig.machine.speculate_at(direct.start());
        assert!(machine.rig.machine.may_write(0, direct.start()));
        machine.set(one, Change::Executable).expect("frames");
        assert_eq!(machine.page(one.start()).access, Access::ReadExecute);
        assert_eq!(machine.page(direct.start()).access, Access::ReadOnly);
        assert!(!machine.rig.machine.may_write(0, direct.start()));
    });
}
