//! The pages of one chunk as a set: which of them are free.

/// Pages in a chunk: 2 MiB, what one level-1 table of eight-byte entries translates, or half of one of four-byte entries.
pub(super) const CHUNK_PAGES: u64 = 512;

/// Words that hold one bit for each page.
pub(super) const PAGE_WORDS: usize = CHUNK_PAGES as usize / 64;

/// Runs that are looked at one by one in a search.
const RUNS: usize = 12;

/// A set of a chunk's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pages(pub(super) [u64; PAGE_WORDS]);

impl Pages {
    pub(super) const NONE: Self = Self([0; PAGE_WORDS]);
    pub(super) const ALL: Self = Self([u64::MAX; PAGE_WORDS]);

    /// The pages from `first` on, before `end`.
    pub(super) fn between(first: u64, end: u64) -> Self {
        let mut pages = Self::NONE;
        pages.insert_run(first, end);
        pages
    }

    pub(super) fn insert(&mut self, other: Self) {
        for (ours, theirs) in self.0.iter_mut().zip(other.0) {
            *ours |= theirs;
        }
    }

    /// Adds the pages from `first` on, before `end`.
    pub(super) fn insert_run(&mut self, first: u64, end: u64) {
        self.each_word(first, end, |word, bits| *word |= bits);
    }

    /// Takes the pages from `first` on, before `end`, out.
    pub(super) fn remove_run(&mut self, first: u64, end: u64) {
        self.each_word(first, end, |word, bits| *word &= !bits);
    }

    /// Calls `change` for each word with bits of pages from `first` on, before `end`; and with these bits.
    #[inline(always)]
    fn each_word(&mut self, first: u64, end: u64, change: impl Fn(&mut u64, u64)) {
        let mut from = first;
        while from < end {
            let last = (from | 63).min(end - 1);
            let bits = below(last - from + 1) << (from % 64);
            change(&mut self.0[from as usize / 64 % PAGE_WORDS], bits);
            from = last + 1;
        }
    }

    /// Whether it has every page. (Arrays are compared byte by byte.)
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

    /// How many pages the longest run has.
    pub(super) fn longest(self) -> u64 {
        // The longest so far, and the run that reaches up to the word.
        let (mut longest, mut open) = (0, 0);
        for word in self.0 {
            if word == u64::MAX {
                open += 64;
                continue;
            }
            let (low, high) = (word.trailing_ones(), word.leading_ones());
            longest = longest.max(open + u64::from(low));
            open = u64::from(high);
            // What is neither at its beginning nor at its end: often nothing.
            let mut within = word & !below(low.into()) & below((64 - high).into());
            let mut length = 0;
            while within != 0 {
                within &= within << 1;
                length += 1;
            }
            longest = longest.max(length);
        }
        longest.max(open)
    }

    /// The lowest place for `need` pages, one at least, at a multiple of `align`, a power of two: the place, and the first page after it that
    /// is not in the set.
    pub(super) fn find(self, need: u64, align: u64) -> Option<(u64, u64)> {
        let mut at = 0;
        for _ in 0..RUNS {
            let begin = self.next(at, 0)?;
            let end = self.end_of(begin);
            let first = begin.next_multiple_of(align);
            if first + need <= end {
                return Some((first, end));
            }
            at = end;
        }
        self.find_from(at, need, align)
    }

    /// As [`find`](Self::find), at or after `at`, which is the end of a run: for all runs at once, because there are many.
    fn find_from(self, at: u64, need: u64, align: u64) -> Option<(u64, u64)> {
        // Pages at which a run of `known` pages begins.
        let (mut starts, mut known) = (self.without_below(at), 1);
        while known < need {
            let more = known.min(need - known);
            starts = starts.and(starts.down(more));
            known += more;
        }
        let mut first = starts.next(0, 0)?;
        while first % align != 0 {
            first = starts.next(first.next_multiple_of(align), 0)?;
        }
        Some((first, self.end_of(first)))
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

    fn without_below(mut self, first: u64) -> Self {
        self.remove_run(0, first);
        self
    }

    /// The first page after `page` that is not in the set.
    #[inline]
    fn end_of(self, page: u64) -> u64 {
        self.next(page, u64::MAX).unwrap_or(CHUNK_PAGES)
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
        assert_eq!(Pages::NONE.longest(), 0);
        assert_eq!(Pages::ALL.longest(), 512);
        assert_eq!(Pages::ALL.find(CHUNK_PAGES, 1), Some((0, CHUNK_PAGES)));
        assert_eq!(Pages::between(0, 511).longest(), 511);
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
            assert_eq!(pages.longest(), longest.unwrap_or(0));
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
            let hole = (seed * 37 % 300, seed * 53 % 512);
            rest.remove_run(hole.0, hole.1);
            for (page, is_in) in flags.iter().enumerate() {
                let in_hole = (hole.0..hole.1).contains(&(page as u64));
                assert_eq!(self::flags(rest)[page], *is_in && !in_hole);
            }
            rest.remove_run(0, CHUNK_PAGES);
            assert_eq!(rest, Pages::NONE);
            assert!(!rest.overlaps(pages));
        }
    }
}
