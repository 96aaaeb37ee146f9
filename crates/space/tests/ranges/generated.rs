//! Generated calls on areas of all sizes, each held against the model.

use std::ops::Range;

use kspace::ranges::{AllocateError, FreeError, Request};
use kspace_layout::{FRAME_SIZE, VirtAddr, VirtRange};
use kspace_sim::SimFrames;
use proptest::prelude::*;

use crate::model::{Model, Wanted};
use crate::{SimRanges, VMALLOC, numbers, pages, with_ranges};

/// How many ranges a search may look at in vain and still must find the best one.
const TRIES: usize = 16;

/// A call. Positions are parts of the area, in 2^32nds.
#[derive(Clone, Debug)]
enum Call {
    Allocate {
        pages: u64,
        align: u64,
    },
    Within {
        pages: u64,
        align: u64,
        from: u32,
        to: u32,
    },
    Random {
        pages: u64,
        align: u64,
        number: u64,
    },
    AllocateAt {
        at: u32,
        pages: u64,
    },
    Free {
        which: usize,
    },
    /// Frees a range that may be anything.
    FreeAny {
        at: u32,
        pages: u64,
    },
    /// Gives back some of an allocation, from one end.
    Shrink {
        which: usize,
        keep: u32,
        front: bool,
    },
    /// Adds free pages to an allocation, at one end.
    Grow {
        which: usize,
        pages: u64,
        front: bool,
    },
}

/// A size of at most 2^`bits` pages, small ones as likely as large ones.
fn size(bits: u32) -> impl Strategy<Value = u64> {
    (0..=bits, any::<u64>()).prop_map(|(bits, number)| 1 + number % (1 << bits))
}

fn alignment(bits: u32) -> impl Strategy<Value = u64> {
    prop_oneof![Just(1), (0..=bits).prop_map(|bits| 1 << bits)]
}

fn call(bits: u32) -> impl Strategy<Value = Call> {
    let which = any::<usize>;
    prop_oneof![
        4 => (size(bits), alignment(bits)).prop_map(|(pages, align)| Call::Allocate { pages, align }),
        2 => (0..=bits).prop_map(|bits| Call::Allocate { pages: 1 << bits, align: 1 << bits }),
        2 => (size(bits), alignment(bits), any::<u32>(), any::<u32>())
            .prop_map(|(pages, align, from, to)| Call::Within { pages, align, from, to }),
        1 => (size(bits), alignment(bits), any::<u64>())
            .prop_map(|(pages, align, number)| Call::Random { pages, align, number }),
        2 => (any::<u32>(), size(bits)).prop_map(|(at, pages)| Call::AllocateAt { at, pages }),
        5 => which().prop_map(|which| Call::Free { which }),
        1 => (any::<u32>(), size(bits)).prop_map(|(at, pages)| Call::FreeAny { at, pages }),
        1 => (which(), any::<u32>(), any::<bool>())
            .prop_map(|(which, keep, front)| Call::Shrink { which, keep, front }),
        1 => (which(), size(bits), any::<bool>())
            .prop_map(|(which, pages, front)| Call::Grow { which, pages, front }),
    ]
}

/// Both at once, and the frames that the books are in.
struct Pair<'t, 'a> {
    ranges: &'t mut SimRanges<'a>,
    frames: &'t SimFrames<'a>,
    model: Model,
}

impl Pair<'_, '_> {
    fn run(&mut self, call: &Call) {
        let whole = (self.model.start, self.model.end);
        match *call {
            Call::Allocate { pages, align } => {
                let window = whole;
                self.allocate(
                    Request::pages(pages),
                    Wanted {
                        pages,
                        align,
                        window,
                    },
                );
            }
            Call::Within {
                pages: count,
                align,
                from,
                to,
            } => {
                let window = self.part(from.min(to)..from.max(to));
                let wanted = Wanted {
                    pages: count,
                    align,
                    window,
                };
                let window = pages(window.0, window.1 - window.0);
                self.allocate(Request::pages(count).within(window), wanted);
            }
            Call::Random {
                pages,
                align,
                number,
            } => {
                let wanted = Wanted {
                    pages,
                    align,
                    window: whole,
                };
                self.allocate_random(wanted, number);
            }
            Call::AllocateAt { at, pages } => self.allocate_at(at, pages),
            Call::Free { which } => self.free(which),
            Call::FreeAny { at, pages } => self.free_any(at, pages),
            Call::Shrink { which, keep, front } => self.shrink(which, keep, front),
            Call::Grow {
                which,
                pages,
                front,
            } => self.grow(which, pages, front),
        }
        self.model.check(self.ranges);
        assert_eq!(self.ranges.book_bytes(), self.frames.in_use() as u64 * 4096);
    }

    fn allocate(&mut self, request: Request, wanted: Wanted) {
        let best = self.model.best(&wanted);
        match self.ranges.allocate(&request.aligned(wanted.align)) {
            Ok(range) => {
                let (start, count) = numbers(range);
                assert_eq!(count, wanted.pages);
                if self.model.misfits(&wanted) <= TRIES {
                    assert_eq!(Some(start), best, "{wanted:?}");
                } else {
                    let gaps = self.model.gaps();
                    let gap = gaps.iter().find(|gap| (gap.0..gap.1).contains(&start));
                    let gap = *gap.expect("it was free");
                    assert_eq!(Model::lowest(&wanted, gap), Some(start));
                }
                self.model.live.insert(start, count);
            }
            Err(error) => {
                assert!(matches!(error, AllocateError::NoSpace { .. }), "{error}");
                assert_eq!(best, None, "{wanted:?} has a place, and yet: {error}");
            }
        }
    }

    fn allocate_random(&mut self, wanted: Wanted, number: u64) {
        let request = Request::pages(wanted.pages)
            .aligned(wanted.align)
            .random(number);
        match self.ranges.allocate(&request) {
            Ok(range) => {
                let (start, count) = numbers(range);
                assert_eq!((start % wanted.align, count), (0, wanted.pages));
                assert!(self.model.is_free(start, count));
                self.model.live.insert(start, count);
            }
            Err(_) => assert_eq!(self.model.best(&wanted), None),
        }
    }

    fn allocate_at(&mut self, at: u32, count: u64) {
        let start = self.part(at..at).0;
        let count = count.min(self.model.end - start);
        let result = self.ranges.allocate_at(pages(start, count));
        if self.model.is_free(start, count) {
            assert_eq!(result, Ok(()));
            self.model.live.insert(start, count);
            return;
        }
        let Err(AllocateError::NotFree { taken, .. }) = result else {
            panic!("{result:?}")
        };
        let (first, length) = numbers(taken);
        assert!(start <= first && first + length <= start + count);
        assert!(first == start || self.model.is_free(start, first - start));
        assert!((first..first + length.min(1000)).all(|page| !self.model.is_free(page, 1)));
        let next = first + length;
        assert!(next == start + count || self.model.is_free(next, 1));
    }

    /// Frees an allocation, with no frame to be had.
    fn free(&mut self, which: usize) {
        if let Some((start, count)) = self.live(which) {
            self.frames.set_budget(Some(0));
            assert_eq!(self.ranges.free(pages(start, count)), Ok(()));
            self.frames.set_budget(None);
            self.model.live.remove(&start);
        }
    }

    fn free_any(&mut self, at: u32, count: u64) {
        let start = self.part(at..at).0;
        let count = count.min(self.model.end - start);
        let range = pages(start, count);
        let mut gaps = self.model.gaps().into_iter();
        match gaps.find(|gap| gap.0 < start + count && start < gap.1) {
            Some((from, to)) => {
                let free = pages(from, to - from);
                assert_eq!(
                    self.ranges.free(range),
                    Err(FreeError::AlreadyFree { range, free })
                );
            }
            None if self.model.live.get(&start) == Some(&count) => {
                assert_eq!(self.ranges.free(range), Ok(()));
                self.model.live.remove(&start);
            }
            // A piece of what is live, or several: whether that shows depends on what is free elsewhere.
            None => {}
        }
    }

    fn shrink(&mut self, which: usize, keep: u32, front: bool) {
        let Some((start, count)) = self.live(which) else {
            return;
        };
        let keep = 1 + ((u128::from(keep) * u128::from(count - 1)) >> 32) as u64;
        if keep == count {
            return;
        }
        self.frames.set_budget(Some(0));
        let part = if front {
            pages(start, count - keep)
        } else {
            pages(start + keep, count - keep)
        };
        assert_eq!(self.ranges.shrink(part), Ok(()));
        self.frames.set_budget(None);
        self.model.live.remove(&start);
        let start = if front { start + count - keep } else { start };
        self.model.live.insert(start, keep);
    }

    fn grow(&mut self, which: usize, more: u64, front: bool) {
        let Some((start, count)) = self.live(which) else {
            return;
        };
        let first = if front {
            start.checked_sub(more)
        } else {
            Some(start + count)
        };
        let Some((first, range)) = first.and_then(|first| Some((first, try_pages(first, more)?)))
        else {
            return;
        };
        self.frames.set_budget(Some(0));
        let result = self.ranges.grow(range);
        self.frames.set_budget(None);
        assert_eq!(
            result.is_ok(),
            self.model.is_free(first, more),
            "{result:?}"
        );
        if result.is_ok() {
            self.model.live.remove(&start);
            self.model.live.insert(start.min(first), count + more);
        }
    }

    fn live(&self, which: usize) -> Option<(u64, u64)> {
        let live = &self.model.live;
        let index = which.checked_rem(live.len())?;
        live.iter()
            .nth(index)
            .map(|(start, count)| (*start, *count))
    }

    /// Part of the area, at least one page.
    fn part(&self, part: Range<u32>) -> (u64, u64) {
        let count = u128::from(self.model.end - self.model.start);
        let at = |part: u32| ((u128::from(part) * count) >> 32) as u64;
        let (from, to) = (at(part.start), at(part.end).max(at(part.start) + 1));
        (self.model.start + from, self.model.start + to)
    }
}

/// The pages, unless they leave the address space.
fn try_pages(start: u64, count: u64) -> Option<VirtRange> {
    let start = VirtAddr::try_new(start.checked_mul(FRAME_SIZE)?).ok()?;
    VirtRange::try_new(start, count * FRAME_SIZE).ok()
}

/// Runs the calls on the area of `count` pages from page `start` on, and frees everything.
fn check(start: u64, count: u64, calls: &[Call]) {
    with_ranges(pages(start, count), |frames, ranges| {
        let model = Model::new(start, count);
        let mut pair = Pair {
            ranges,
            frames,
            model,
        };
        for call in calls {
            pair.run(call);
        }
        while !pair.model.live.is_empty() {
            pair.run(&Call::Free { which: calls.len() });
        }
        assert_eq!((pair.ranges.range_count(), frames.in_use()), (1, 1));
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn tiny_areas(start in 0_u64..64, calls in prop::collection::vec(call(5), 1..400)) {
        check(VMALLOC + start, 40, &calls);
    }

    #[test]
    fn areas_of_an_odd_size(start in 0_u64..5000, calls in prop::collection::vec(call(9), 1..300)) {
        check(VMALLOC + start, 9_999, &calls);
    }

    #[test]
    fn linuxs_vmalloc_area_of_four_levels(calls in prop::collection::vec(call(33), 1..200)) {
        check(VMALLOC, 1 << 33, &calls);
    }

    #[test]
    fn linuxs_vmalloc_area_of_five_levels(calls in prop::collection::vec(call(42), 1..200)) {
        check(0xffa0_0000_0000_0000 >> 12, 12_800 << 28, &calls);
    }

    #[test]
    fn the_last_pages_of_all(calls in prop::collection::vec(call(20), 1..200)) {
        check((1 << 52) - (1 << 20), 1 << 20, &calls);
    }

    #[test]
    fn the_first_pages_of_all(calls in prop::collection::vec(call(20), 1..200)) {
        check(0, 1 << 20, &calls);
    }
}
