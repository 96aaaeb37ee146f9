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

    /// Adds the pages from `first` on, before `end`, of which there is one at least.
    #[inline]
    pub(super) fn insert_run(&mut self, first: u64, end: u64) {
        let word = first / 64;
        if (end - 1) / 64 == word {
            self.0[word as usize % PAGE_WORDS] |= below(end - first) << (first % 64);
        } else {
            self.insert(Self::between(first, end));
        }
    }

    pub(super) fn remove(&mut self, other: Self) {
        for (ours, theirs) in self.0.iter_mut().zip(other.0) {
            *ours &= !theirs;
        }
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        self.0
            .iter()
            .zip(other.0)
            .any(|(ours, theirs)| ours & theirs != 0)
    }

    /// The runs of pages in the set, ascending: first page, and the one after the last.
    pub(super) fn runs(self) -> impl Iterator<Item = (u64, u64)> {
        let mut at = 0;
        core::iter::from_fn(move || {
            let first = self.next(at, 0)?;
            let end = self.next(first, u64::MAX).unwrap_or(CHUNK_PAGES);
            at = end;
            Some((first, end))
        })
    }

    /// The length of the longest run.
    pub(super) fn longest(self) -> u64 {
        if self == Self::ALL {
            return CHUNK_PAGES;
        }
        self.runs()
            .map(|(first, end)| end - first)
            .max()
            .unwrap_or(0)
    }

    /// The lowest place for `need` pages at a multiple of `align`: the place, and the run that it lies in.
    pub(super) fn find(self, need: u64, align: u64) -> Option<(u64, (u64, u64))> {
        self.runs().find_map(|run| {
            let first = run.0.next_multiple_of(align);
            (first + need <= run.1).then_some((first, run))
        })
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
    fn runs_and_places_are_what_a_walk_over_all_pages_finds() {
        for seed in 0..20 {
            let pages = scattered(seed);
            let flags = flags(pages);
            let free = |first: u64, count: u64| {
                first + count <= CHUNK_PAGES
                    && (first..first + count).all(|page| flags[page as usize])
            };
            let longest = (0..=CHUNK_PAGES)
                .rev()
                .find(|&n| (0..CHUNK_PAGES).any(|p| free(p, n)));
            assert_eq!(pages.longest(), longest.unwrap_or(0));
            for (need, align) in [(1, 1), (2, 1), (7, 1), (2, 8), (9, 4), (20, 16)] {
                let expected = (0..CHUNK_PAGES)
                    .step_by(align as usize)
                    .find(|&p| free(p, need));
                let found = pages.find(need, align);
                assert_eq!(found.map(|(first, _)| first), expected);
                if let Some((first, (start, end))) = found {
                    assert!(start <= first && first + need <= end && free(start, end - start));
                }
            }
            let mut rest = pages;
            rest.remove(pages);
            assert_eq!(rest, Pages::NONE);
            assert!(!rest.overlaps(pages));
        }
    }
}
