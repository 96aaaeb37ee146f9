//! The pages of one chunk as a set: which of them are free.

/// Pages in a chunk: 2 MiB, what one level-1 table of eight-byte entries translates, or half of one of four-byte entries.
pub(super) const CHUNK_PAGES: u64 = 512;

/// Words that hold one bit for each page.
pub(super) const PAGE_WORDS: usize = CHUNK_PAGES as usize / 64;

/// A set of a chunk's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pages(pub(super) [u64; PAGE_WORDS]);

impl Pages {
    pub(super) const NONE: Self = Self([0; PAGE_WORDS]);
    pub(super) const ALL: Self = Self([u64::MAX; PAGE_WORDS]);

    /// The pages from `first` on, before `end`.
    pub(super) fn between(first: u64, end: u64) -> Self {
        let mut pages = Self::NONE;
        for (word, bits) in (0..).zip(&mut pages.0) {
            let start = 64 * word;
            let from = first.clamp(start, start + 64) - start;
            let to = end.clamp(start, start + 64) - start;
            *bits = below(to) & !below(from);
        }
        pages
    }

    pub(super) fn insert(&mut self, other: Self) {
        for (ours, theirs) in self.0.iter_mut().zip(other.0) {
            *ours |= theirs;
        }
    }

    /// Adds the pages from `first` on, before `end`.
    pub(super) fn insert_run(&mut self, first: u64, end: u64) {
        let mut from = first;
        while from < end {
            let last = (from | 63).min(end - 1);
            self.0[from as usize / 64 % PAGE_WORDS] |= below(last - from + 1) << (from % 64);
            from = last + 1;
        }
    }

    pub(super) fn remove(&mut self, other: Self) {
        for (ours, theirs) in self.0.iter_mut().zip(other.0) {
            *ours &= !theirs;
        }
    }

    /// Whether it has no page. (Arrays are compared byte by byte.)
    #[inline]
    pub(super) fn is_none(self) -> bool {
        self.0.iter().fold(0, |all, word| all | word) == 0
    }

    /// Whether it has every page.
    #[inline]
    pub(super) fn is_all(self) -> bool {
        self.0.iter().fold(u64::MAX, |all, word| all & word) == u64::MAX
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        self.0
            .iter()
            .zip(other.0)
            .any(|(ours, theirs)| ours & theirs != 0)
    }

    /// The greatest power of two of which the longest run has as many pages, as its exponent; `None` for the empty set.
    pub(super) fn longest_log2(self) -> Option<u32> {
        if self.is_none() {
            return None;
        }
        if self.is_all() {
            return Some(CHUNK_PAGES.ilog2());
        }
        // Pages at which a run of 2^exponent pages begins.
        let (mut starts, mut exponent) = (self, 0);
        loop {
            let longer = starts.and(starts.down(1 << exponent));
            if longer.is_none() {
                return Some(exponent);
            }
            (starts, exponent) = (longer, exponent + 1);
        }
    }

    /// The lowest place for `need` pages, one at least, at a multiple of `align`, a power of two: the place, and the first page after it that
    /// is not in the set.
    pub(super) fn find(self, need: u64, align: u64) -> Option<(u64, u64)> {
        // Pages at which a run of `known` pages begins.
        let (mut starts, mut known) = (self, 1);
        while known < need {
            let more = known.min(need - known);
            starts = starts.and(starts.down(more));
            known += more;
        }
        let mut first = starts.next(0, 0)?;
        while first % align != 0 {
            first = starts.next(first.next_multiple_of(align), 0)?;
        }
        Some((first, self.next(first, u64::MAX).unwrap_or(CHUNK_PAGES)))
    }

    /// One of all places for `need` pages at a multiple of `align`: which one `number` decides, each as likely as the others.
    pub(super) fn find_random(self, need: u64, align: u64, number: u64) -> Option<u64> {
        let place = |from: u64| {
            let free = self.without_below(from);
            free.find(need, align).map(|(first, _)| first)
        };
        let places = || core::iter::successors(place(0), |first| place(first + 1));
        let count = places().count() as u128;
        let chosen = (u128::from(number) * count) >> 64;
        places().nth(chosen as usize)
    }

    fn without_below(self, first: u64) -> Self {
        let mut rest = self;
        rest.remove(Self::between(0, first));
        rest
    }

    /// The pages that are in both.
    #[inline]
    fn and(self, other: Self) -> Self {
        Self(core::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    /// Every page as the one `count` before it; the first ones fall out.
    fn down(self, count: u64) -> Self {
        if count >= 64 {
            let words = (count / 64) as usize;
            let word = |index: usize| self.0.get(index + words).copied().unwrap_or(0);
            return Self(core::array::from_fn(word)).down(count % 64);
        }
        let word = |index: usize| self.0.get(index).copied().unwrap_or(0);
        Self(core::array::from_fn(|index| {
            // In two steps, because a shift by 64 is none.
            word(index) >> count | word(index + 1) << 1 << (63 - count)
        }))
    }

    /// The first page from `at` on that is in the set, or with `flip` of all ones, that is not.
    fn next(self, at: u64, flip: u64) -> Option<u64> {
        let mut ignored = below(at % 64);
        for word in at / 64..PAGE_WORDS as u64 {
            let bits = (self.0[word as usize] ^ flip) & !ignored;
            if bits != 0 {
                return Some(64 * word + u64::from(bits.trailing_zeros()));
            }
            ignored = 0;
        }
        None
    }
}

/// The `count` lowest bits, at most 64.
const fn below(count: u64) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    /// One flag for each page: what the words must say.
    fn flags(pages: Pages) -> Vec<bool> {
        (0..CHUNK_PAGES)
            .map(|page| pages.0[page as usize / 64] >> (page % 64) & 1 != 0)
            .collect()
    }

    fn scattered(seed: u64) -> Pages {
        let mut state = seed;
        let mut pages = Pages::NONE;
        for _ in 0..40 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let first = (state >> 33) % CHUNK_PAGES;
            let end = (first + (state >> 50) % 24).min(CHUNK_PAGES);
            pages.insert(Pages::between(first, end));
        }
        pages
    }

    #[test]
    fn a_range_has_exactly_its_pages() {
        for (first, end) in [
            (0, 0),
            (0, 1),
            (63, 65),
            (64, 128),
            (5, 500),
            (0, 512),
            (511, 512),
        ] {
            let expected: Vec<bool> = (0..CHUNK_PAGES).map(|p| first <= p && p < end).collect();
            assert_eq!(
                flags(Pages::between(first, end)),
                expected,
                "{first}..{end}"
            );
        }
    }

    #[test]
    fn a_run_is_inserted_as_a_range() {
        for (first, end) in [
            (0, 1),
            (0, 64),
            (63, 64),
            (63, 65),
            (64, 128),
            (5, 500),
            (0, 512),
            (511, 512),
        ] {
            let mut pages = Pages::between(200, 300);
            pages.insert_run(first, end);
            let mut expected = Pages::between(200, 300);
            expected.insert(Pages::between(first, end));
            assert_eq!(pages, expected, "{first}..{end}");
        }
    }

    #[test]
    fn whole_and_empty_sets_are_as_long_as_they_are() {
        assert_eq!(Pages::NONE.longest_log2(), None);
        assert_eq!(Pages::ALL.longest_log2(), Some(9));
        assert_eq!(Pages::ALL.find(CHUNK_PAGES, 1), Some((0, CHUNK_PAGES)));
        assert_eq!(Pages::between(0, 511).longest_log2(), Some(8));
        assert_eq!(Pages::between(1, 512).find(256, 256), Some((256, 512)));
        assert_eq!(Pages::between(1, 511).find(256, 256), None);
        assert_eq!(Pages::NONE.find(1, 1), None);
    }

    #[test]
    fn runs_and_places_are_what_a_walk_over_all_pages_finds() {
        for seed in 0..20 {
            let pages = scattered(seed);
            let flags = flags(pages);
            let free = |first: u64, count: u64| {
                first + count <= CHUNK_PAGES
                    && (first..first + count).all(|page| flags[page as usize])
            };
            let longest = (1..=CHUNK_PAGES)
                .rev()
                .find(|&n| (0..CHUNK_PAGES).any(|p| free(p, n)));
            assert_eq!(pages.longest_log2(), longest.map(u64::ilog2));
            for (need, align) in [
                (1, 1),
                (2, 1),
                (7, 1),
                (65, 1),
                (2, 8),
                (9, 4),
                (20, 16),
                (3, 128),
                (130, 256),
            ] {
                let expected = (0..CHUNK_PAGES)
                    .step_by(align as usize)
                    .find(|&p| free(p, need));
                let found = pages.find(need, align);
                assert_eq!(found.map(|(first, _)| first), expected);
                if let Some((first, end)) = found {
                    assert!(first + need <= end && free(first, end - first));
                    assert!(end == CHUNK_PAGES || !flags[end as usize]);
                }
            }
            let mut rest = pages;
            rest.remove(pages);
            assert_eq!(rest, Pages::NONE);
            assert!(!rest.overlaps(pages));
        }
    }
}
