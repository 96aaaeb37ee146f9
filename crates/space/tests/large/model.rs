//! Areas of all sizes, made, grown, freed and purged in any order, with frames that run out now and then, against a list of what there
//! should be.

use std::collections::BTreeMap;

use kspace::vmalloc::{AreaError, AreaRequest, FreeProblem, Kind, ResizeError, Resized, State};
use kspace_layout::{PagingMode, VirtAddr, VirtRange};
use kspace_paging::{EntryFormat, LongMode, Pae, TwoLevel};
use proptest::prelude::*;

use crate::rig::{K4, Rig, Setup, guard, pages, with_rig_of};

/// What is done. Indices are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many pages at a multiple of 2^`align` pages.
    Allocate {
        pages: u64,
        align: u32,
        stack: bool,
    },
    Free {
        index: usize,
    },
    /// A page inside a live area, if it has more than one.
    FreeInside {
        index: usize,
    },
    /// One that was freed and not purged yet.
    FreeAgain {
        index: usize,
    },
    Resize {
        index: usize,
        pages: u64,
    },
    Reallocate {
        index: usize,
        pages: u64,
    },
    Purge,
    /// From now on, only so many more requests for frames are served; or all.
    Budget {
        left: Option<u64>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let pages = prop_oneof![6 => 1..20_u64, 3 => 200..300_u64, 3 => 400..1600_u64];
    let align = prop_oneof![6 => Just(0_u32), 3 => 0..12_u32];
    let index = 0..1000_usize;
    prop_oneof![
        8 => (pages.clone(), align, any::<bool>())
            .prop_map(|(pages, align, stack)| Step::Allocate { pages, align, stack }),
        5 => index.clone().prop_map(|index| Step::Free { index }),
        1 => index.clone().prop_map(|index| Step::FreeInside { index }),
        1 => index.clone().prop_map(|index| Step::FreeAgain { index }),
        3 => (index.clone(), pages.clone()).prop_map(|(index, pages)| Step::Resize { index, pages }),
        3 => (index, pages).prop_map(|(index, pages)| Step::Reallocate { index, pages }),
        1 => Just(Step::Purge),
        1 => prop_oneof![2 => Just(None), 1 => (0..40_u64).prop_map(Some)]
            .prop_map(|left| Step::Budget { left }),
    ]
}

/// What there should be.
#[derive(Default)]
struct Model {
    live: BTreeMap<u64, (VirtRange, Kind, Vec<u64>)>,
    /// Freed, and perhaps purged since.
    freed: BTreeMap<u64, (VirtRange, Vec<u64>)>,
    /// A small area did not come to be, and waits like a freed one, with fewer frames.
    abandoned: bool,
}

impl Model {
    fn pick(&self, index: usize) -> Option<VirtRange> {
        let count = self.live.len().max(1);
        self.live.values().nth(index % count).map(|area| area.0)
    }

    /// A new area, or a larger one, must be nobody else's: neither its addresses, its guard, nor its frames.
    fn check_new<E: EntryFormat>(&self, rig: &Rig<'_, '_, E>, range: VirtRange) -> Vec<u64> {
        let with_guard = VirtRange::new(range.start(), range.size() + K4);
        for (other, ..) in self.live.values() {
            let other = VirtRange::new(other.start(), other.size() + K4);
            assert!(!other.overlaps(with_guard), "{range} overlaps {other}");
        }
        let frames = rig.frames_of(range);
        let mut sorted = frames.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), frames.len(), "a frame is there twice");
        for (_, _, others) in self.live.values() {
            assert!(
                others
                    .iter()
                    .all(|frame| sorted.binary_search(frame).is_err())
            );
        }
        assert_eq!(rig.page(guard(range)), None);
        frames
    }

    fn check_all<E: EntryFormat>(&self, rig: &Rig<'_, '_, E>) {
        let infos: Vec<_> = rig.areas.areas().collect();
        assert!(infos.is_sorted_by_key(|info| info.range.start()));
        let live = infos.iter().filter(|info| info.state == State::Live);
        let live: Vec<_> = live.map(|info| (info.range, info.kind)).collect();
        let expected = self.live.values().map(|(range, kind, _)| (*range, *kind));
        assert!(live.iter().copied().eq(expected), "{live:?}");
        let totals = rig.areas.totals();
        let used: u64 = self.live.values().map(|area| area.0.size()).sum();
        assert_eq!((totals.areas, totals.used), (live.len() as u64, used));
        for (range, _, frames) in self.live.values() {
            assert_eq!(&rig.frames_of(*range), frames);
            assert_eq!(rig.page(guard(*range)), None);
        }
        // What waits is not mapped, and its frames are still taken.
        let blocks = rig.frames.blocks();
        for info in infos.iter().filter(|info| info.state == State::Freed) {
            assert!(pages(info.range).all(|page| rig.page(page).is_none()));
            if self.abandoned {
                continue;
            }
            let (range, frames) = &self.freed[&info.range.start().as_u64()];
            assert_eq!(*range, info.range);
            for frame in frames {
                let (first, order) = blocks.range(..=frame).next_back().expect("it is taken");
                assert!(frame - first < 1 << order, "frame {frame:x} is free");
            }
        }
    }

    fn perform<E: EntryFormat>(&mut self, rig: &Rig<'_, '_, E>, step: Step) {
        match step {
            Step::Allocate {
                pages,
                align,
                stack,
            } => self.allocate(rig, pages, align, stack),
            Step::Free { index } => {
                let Some(range) = self.pick(index) else {
                    return;
                };
                // SAFETY: nobody uses the area.
                unsafe { rig.areas.free(range.start()) }.expect("it is live");
                let (_, _, frames) = self.live.remove(&range.start().as_u64()).expect("live");
                self.freed.insert(range.start().as_u64(), (range, frames));
            }
            Step::FreeInside { index } => {
                let Some(range) = self.pick(index).filter(|range| range.size() > K4) else {
                    return;
                };
                let inside = VirtAddr::new(range.start().as_u64() + K4);
                // SAFETY: it is refused.
                let error = unsafe { rig.areas.free(inside) }.expect_err("it is inside");
                assert_eq!(error.problem(), FreeProblem::Inside(range));
            }
            Step::FreeAgain { index } => {
                let waiting = rig.areas.areas().filter(|info| info.state == State::Freed);
                let waiting: Vec<_> = waiting.collect();
                let Some(info) = waiting.get(index % waiting.len().max(1)) else {
                    return;
                };
                // SAFETY: it is refused.
                let error = unsafe { rig.areas.free(info.range.start()) }.expect_err("freed");
                assert!(
                    matches!(error.problem(), FreeProblem::Freed { .. }),
                    "{error}"
                );
            }
            Step::Reallocate { index, pages } => self.reallocate(rig, index, pages),
            Step::Resize { index, pages } => self.resize(rig, index, pages),
            Step::Purge => {
                rig.areas.purge();
                assert_eq!(rig.areas.totals().lazy_pages, 0);
                self.abandoned = false;
            }
            Step::Budget { left } => rig.frames.budget.set(left),
        }
    }

    fn allocate<E: EntryFormat>(
        &mut self,
        rig: &Rig<'_, '_, E>,
        pages: u64,
        align: u32,
        stack: bool,
    ) {
        let kind = if stack { Kind::Stack } else { Kind::Memory };
        let request = AreaRequest::new(pages * K4).aligned(K4 << align).kind(kind);
        match rig.areas.allocate(&request) {
            Ok(range) => {
                assert!(range.size() == pages * K4 && range.start().is_aligned(K4 << align));
                let frames = self.check_new(rig, range);
                self.live
                    .insert(range.start().as_u64(), (range, kind, frames));
            }
            Err(AreaError::NoFrames { .. } | AreaError::NoTables) => {
                self.abandoned = true;
                let tight = rig.frames.budget.get().is_some();
                assert!(tight || rig.frames.free_frames() < pages + 100);
            }
            Err(AreaError::NoSpace { .. }) => assert!(rig.setup.area.size() < 1 << 30),
            Err(error) => panic!("{error}"),
        }
    }

    /// An area is somewhere or something else now: what it keeps it has as it was, and the rest is gone.
    fn check_resized<E: EntryFormat>(
        &self,
        rig: &Rig<'_, '_, E>,
        old: VirtRange,
        new: VirtRange,
        frames: &[u64],
    ) -> (VirtRange, Vec<u64>) {
        let found = self.check_new(rig, new);
        let kept = found.len().min(frames.len());
        assert_eq!(found[..kept], frames[..kept]);
        let mut gone = pages(old).filter(|page| !new.contains(*page));
        assert!(gone.all(|page| rig.page(page).is_none()));
        (new, found)
    }

    fn reallocate<E: EntryFormat>(&mut self, rig: &Rig<'_, '_, E>, index: usize, pages: u64) {
        let Some(range) = self.pick(index) else {
            return;
        };
        let start = range.start().as_u64();
        let (_, kind, frames) = self.live.remove(&start).expect("live");
        let request = AreaRequest::new(pages * K4).kind(kind);
        // SAFETY: the area is the model's.
        let (now, frames) = match unsafe { rig.areas.reallocate(range.start(), &request) } {
            Ok(now) => self.check_resized(rig, range, now, &frames),
            Err(ResizeError::Area(AreaError::NoSpace { .. })) => {
                assert!(rig.setup.area.size() < 1 << 30);
                (range, frames)
            }
            Err(ResizeError::Area(AreaError::NoFrames { .. } | AreaError::NoTables)) => {
                (range, frames)
            }
            Err(error) => panic!("{error}"),
        };
        self.live.insert(now.start().as_u64(), (now, kind, frames));
    }

    fn resize<E: EntryFormat>(&mut self, rig: &Rig<'_, '_, E>, index: usize, pages: u64) {
        let Some(range) = self.pick(index) else {
            return;
        };
        let start = range.start().as_u64();
        let (_, kind, frames) = self.live.remove(&start).expect("live");
        let request = AreaRequest::new(pages * K4).kind(kind);
        // SAFETY: the area is the model's.
        let resized = unsafe { rig.areas.resize(range.start(), &request) };
        let (now, frames) = match resized {
            Ok(Resized::InPlace(larger)) => {
                assert!(larger.start() == range.start() && larger.size() == pages * K4);
                self.check_resized(rig, range, larger, &frames)
            }
            Ok(Resized::Elsewhere) => (range, frames),
            Err(ResizeError::Area(AreaError::NoFrames { .. } | AreaError::NoTables)) => {
                (range, frames)
            }
            Err(error) => panic!("{error}"),
        };
        self.live.insert(start, (now, kind, frames));
    }
}

fn run<E: EntryFormat>(setup: Setup, steps: &[Step]) {
    with_rig_of::<E>(setup, |rig| {
        // The books keep a frame or two once there have been areas.
        let all = AreaRequest::new(600 * K4);
        let first = rig.areas.allocate(&all).expect("room");
        // SAFETY: nobody uses the area.
        unsafe { rig.areas.free(first.start()) }.expect("it is there");
        rig.areas.purge();
        let before = rig.everything();
        let mut model = Model::default();
        for (count, &step) in steps.iter().enumerate() {
            model.perform(rig, step);
            if count % 8 == 7 {
                model.check_all(rig);
            }
        }
        model.check_all(rig);
        rig.frames.budget.set(None);
        for (range, ..) in model.live.values() {
            // SAFETY: nobody uses the area.
            unsafe { rig.areas.free(range.start()) }.expect("it is live");
        }
        rig.areas.purge();
        assert_eq!(rig.everything(), before);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn long_mode(steps in prop::collection::vec(step(), 1..60)) {
        run::<LongMode>(Setup::new(), &steps);
    }

    /// 32 bits: addresses run out, too.
    #[test]
    fn pae(steps in prop::collection::vec(step(), 1..60)) {
        let area = VirtRange::new(VirtAddr::new(0xf780_0000), 40 << 20);
        run::<Pae>(Setup { mode: PagingMode::Pae, area, ..Setup::new() }, &steps);
    }

    /// Two chunks share a page table there.
    #[test]
    fn two_level(steps in prop::collection::vec(step(), 1..60)) {
        let area = VirtRange::new(VirtAddr::new(0xf780_0000), 40 << 20);
        run::<TwoLevel>(Setup { mode: PagingMode::TwoLevel, area, ..Setup::new() }, &steps);
    }

    /// A flush for every free.
    #[test]
    fn purged_at_once(steps in prop::collection::vec(step(), 1..40)) {
        run::<LongMode>(Setup { bound: 0, ..Setup::new() }, &steps);
    }
}
