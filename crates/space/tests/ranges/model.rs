//! What is right: the live allocations in a sorted map, and everything else by looking at the gaps between them.

use std::collections::BTreeMap;

use crate::{SimRanges, numbers, pages};

/// An area of pages `start..end`, with what is live in it: first page, pages.
#[derive(Clone, Debug)]
pub struct Model {
    pub start: u64,
    pub end: u64,
    pub live: BTreeMap<u64, u64>,
}

/// A request to the model. `window`: first page, and page after the last.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Wanted {
    pub pages: u64,
    pub align: u64,
    pub window: (u64, u64),
}

impl Model {
    pub fn new(start: u64, count: u64) -> Self {
        let (end, live) = (start + count, BTreeMap::new());
        Self { start, end, live }
    }

    /// The gaps: first page, and page after the last.
    pub fn gaps(&self) -> Vec<(u64, u64)> {
        let ends = self.live.iter().map(|(start, count)| start + count);
        let from = std::iter::once(self.start).chain(ends);
        let to = self.live.keys().copied().chain([self.end]);
        from.zip(to).filter(|(from, to)| from < to).collect()
    }

    pub fn is_free(&self, start: u64, count: u64) -> bool {
        let mut gaps = self.gaps().into_iter();
        gaps.any(|(from, to)| from <= start && start + count <= to)
    }

    /// The lowest place for `wanted` in a gap.
    pub fn lowest(wanted: &Wanted, gap: (u64, u64)) -> Option<u64> {
        let (from, to) = (gap.0.max(wanted.window.0), gap.1.min(wanted.window.1));
        let place = from.div_ceil(wanted.align) * wanted.align;
        (place + wanted.pages <= to).then_some(place)
    }

    /// The place that best fit gives.
    pub fn best(&self, wanted: &Wanted) -> Option<u64> {
        let gaps = self.gaps().into_iter();
        gaps.filter_map(|gap| Some((gap.1 - gap.0, Self::lowest(wanted, gap)?)))
            .min()
            .map(|(_, place)| place)
    }

    /// Gaps that are large enough and yet have no place.
    pub fn misfits(&self, wanted: &Wanted) -> usize {
        let gaps = self.gaps().into_iter();
        gaps.filter(|gap| gap.1 - gap.0 >= wanted.pages && Self::lowest(wanted, *gap).is_none())
            .count()
    }

    /// Compares everything that can be seen.
    #[track_caller]
    pub fn check(&self, ranges: &SimRanges<'_>) {
        let gaps = self.gaps();
        let seen: Vec<_> = ranges.iter().map(numbers).collect();
        let expected: Vec<_> = gaps.iter().map(|(from, to)| (*from, to - from)).collect();
        assert_eq!(seen, expected);
        let sizes = || gaps.iter().map(|(from, to)| to - from);
        assert_eq!(ranges.free_pages(), sizes().sum::<u64>());
        assert_eq!(ranges.largest_free(), sizes().max().unwrap_or(0));
        assert_eq!(ranges.range_count(), gaps.len() as u64);
        assert_eq!(ranges.allocations(), self.live.len() as u64);
        assert_eq!(ranges.area(), pages(self.start, self.end - self.start));
    }
}
