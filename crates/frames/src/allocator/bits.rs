//! One bit a frame: 512 of them, 64 bytes, one cache line, for each huge frame. A set bit is a frame in use, so zeroed
//! memory says that all are free.
//!
//! Promise: a bit goes from 0 to 1 only for who sets it and saw it 0 (a claim), and back only through who claimed it.
//! Claims acquire, releases release: what the last user did with a frame's content happened before the next one has it.
//!
//! A huge frame that is in use as a whole has its state in its counter (`huge`); its bits are then all 0.

use super::index::HUGE_FRAMES;
use super::sync::{AcqRel, Acquire, AtomicU64, Relaxed, Release};

/// Frames in one word.
pub(super) const WORD: usize = 64;

/// Words in one huge frame.
pub(super) const WORDS: usize = HUGE_FRAMES / WORD;

/// 64 frames.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct BitWord(AtomicU64);

impl BitWord {
    /// Claims up to `want` of the free frames that `choose` leaves, lowest first; the claimed ones' bits.
    #[inline]
    fn claim_any(&self, want: usize, choose: impl Fn(u64) -> u64) -> u64 {
        let mut old = self.0.load(Relaxed);
        loop {
            let free = choose(!old);
            if free == 0 {
                return 0;
            }
            let take = lowest(free, want);
            match self
                .0
                .compare_exchange_weak(old, old | take, AcqRel, Relaxed)
            {
                Ok(_) => return take,
                Err(now) => old = now,
            }
        }
    }

    /// Claims exactly `mask`, if all of it is free.
    fn claim(&self, mask: u64) -> bool {
        self.0
            .fetch_update(AcqRel, Relaxed, |old| {
                (old & mask == 0).then_some(old | mask)
            })
            .is_ok()
    }

    /// Claims `len` frames (a power of two, at most 64) that begin at a multiple of `len`.
    fn claim_run(&self, len: usize, fit: Fit) -> Option<usize> {
        let mut old = self.0.load(Relaxed);
        loop {
            let at = aligned_run(!old, len, fit)?;
            let new = old | (ones(len) << at);
            match self.0.compare_exchange_weak(old, new, AcqRel, Relaxed) {
                Ok(_) => return Some(at),
                Err(now) => old = now,
            }
        }
    }

    /// Gives `mask` back. All of it was claimed.
    #[inline]
    pub(super) fn release(&self, mask: u64) {
        self.0.fetch_and(!mask, Release);
    }

    /// The bits now.
    pub(super) fn load(&self) -> u64 {
        self.0.load(Acquire)
    }

    /// Sets bits that nobody else can be looking at.
    pub(super) fn set(&self, bits: u64) {
        self.0.store(bits, Release);
    }
}

/// `len` ones at the low end.
pub(super) const fn ones(len: usize) -> u64 {
    if len >= WORD {
        u64::MAX
    } else {
        (1 << len) - 1
    }
}

/// The lowest `count` set bits of `set`.
#[inline]
fn lowest(set: u64, count: usize) -> u64 {
    if set.count_ones() as usize <= count {
        return set;
    }
    // Nearly always a plain run: a fresh word, or the rest of one.
    let run = ones(count) << set.trailing_zeros();
    if set & run == run {
        return run;
    }
    let (mut rest, mut left) = (set, count);
    while left > 0 {
        rest &= rest - 1;
        left -= 1;
    }
    set & !rest
}

/// Without the groups of eight that are wholly `free`: runs of order 3 stay for who wants such.
#[inline]
fn crumbs(free: u64) -> u64 {
    let mut whole = free & (free >> 4);
    whole &= whole >> 2;
    whole &= whole >> 1;
    free & !((whole & 0x0101_0101_0101_0101) * 0xff)
}

/// The first bit of each group of 1, 2, 4, 8, 16, 32, 64: where blocks of these orders may begin.
pub(super) const STARTS: [u64; 7] = [
    u64::MAX,
    0x5555_5555_5555_5555,
    0x1111_1111_1111_1111,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0000_0001_0000_0001,
    1,
];

/// Which runs of a length will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// Those that are not half of a longer one.
    Exact,
    /// All, but exact ones first.
    Any,
}

/// The multiples of `len` from which `len` bits of `free` are set: those whose neighbour is not free, too, so that longer runs stay; and all.
#[inline]
fn runs(free: u64, len: usize) -> (u64, u64) {
    let order = len.trailing_zeros() as usize;
    let mut all = free;
    for step in 0..order {
        all &= all >> (1 << step);
        if all == 0 {
            return (0, 0);
        }
    }
    all &= STARTS[order];
    let longer = if len < WORD {
        let starts = all & (all >> len) & STARTS[order + 1];
        starts | (starts << len)
    } else {
        0
    };
    (all & !longer, all)
}

/// The lowest of the [`runs`] that fit; else, unless it has to fit, the lowest of all.
#[inline]
fn aligned_run(free: u64, len: usize, fit: Fit) -> Option<usize> {
    let (fitting, all) = runs(free, len);
    let chosen = if fitting == 0 && fit == Fit::Any {
        all
    } else {
        fitting
    };
    (chosen != 0).then(|| chosen.trailing_zeros() as usize)
}

/// The first bit from which `len` bits of `free` are set.
#[inline]
fn row_in(free: u64, len: usize) -> Option<usize> {
    let (mut starts, mut have) = (free, 1);
    while have < len && starts != 0 {
        let step = have.min(len - have);
        starts &= starts.checked_shr(step as u32).unwrap_or(0);
        have += step;
    }
    (starts != 0).then(|| starts.trailing_zeros() as usize)
}

/// What a look for a run has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// There is one at this place, or a little after it.
    At(usize),
    /// There are some, but none that fits.
    NoneThatFits,
    /// There is none.
    None,
}

/// The words of one huge frame.
#[derive(Clone, Copy)]
pub(super) struct HugeBits<'a>(pub(super) &'a [BitWord]);

impl HugeBits<'_> {
    /// Claims `count` free frames, giving each word's number and its claimed bits to `sink`: first those that no run of
    /// eight is lost by, then any.
    ///
    /// The caller has reserved that many in the counter. So there always are as many 0 bits as outstanding reservations:
    /// the loop ends; it goes round again only when others took bits here and gave others back behind our eyes.
    pub(super) fn claim_reserved(self, count: usize, mut sink: impl FnMut(usize, u64)) {
        let mut left = count;
        self.claim_chosen(&mut left, crumbs, &mut sink);
        while left > 0 {
            self.claim_chosen(&mut left, |free| free, &mut sink);
            if left > 0 {
                super::sync::pause();
            }
        }
    }

    #[inline]
    fn claim_chosen(
        self,
        left: &mut usize,
        choose: impl Fn(u64) -> u64,
        sink: &mut impl FnMut(usize, u64),
    ) {
        for (index, word) in self.0.iter().enumerate() {
            let taken = word.claim_any(*left, &choose);
            if taken != 0 {
                sink(index, taken);
                *left -= taken.count_ones() as usize;
                if *left == 0 {
                    return;
                }
            }
        }
    }

    /// How many free frames there are that no run of eight is lost by.
    pub(super) fn crumbs(self) -> usize {
        let each = |word: &BitWord| crumbs(!word.load()).count_ones() as usize;
        self.0.iter().map(each).sum()
    }

    /// Where [`claim_run`](Self::claim_run) has a chance, only looking: in the first word that has a run that fits, else in the first that has
    /// any. What is longer than a word is taken as it comes.
    pub(super) fn look_for_run(self, len: usize, fit: Fit) -> Sight {
        if len > WORD {
            let is_free = |words: &[BitWord]| words.iter().all(|word| word.load() == 0);
            let found = self.0.chunks(len / WORD).position(is_free);
            return found.map_or(Sight::None, |index| Sight::At(index * len));
        }
        let mut second = None;
        for (index, word) in self.0.iter().enumerate() {
            let free = !word.load();
            if free == 0 {
                continue;
            }
            let (fitting, all) = runs(free, len);
            if fitting != 0 {
                return Sight::At(index * WORD);
            }
            if all != 0 {
                second = second.or(Some(index * WORD));
            }
        }
        match second {
            Some(place) if fit == Fit::Any => Sight::At(place),
            Some(_) => Sight::NoneThatFits,
            None => Sight::None,
        }
    }

    /// Where the first `len` free frames in a row are, wherever they begin; 512 at most.
    pub(super) fn look_for_row(self, len: usize) -> Option<usize> {
        // How many free frames there are in a row before this word.
        let mut before = 0;
        for (index, word) in self.0.iter().enumerate() {
            let (used, start) = (word.load(), index * WORD);
            let more = used.trailing_zeros() as usize;
            if before + more >= len {
                return Some(start - before);
            }
            if used == 0 {
                before += WORD;
                continue;
            }
            if let Some(at) = row_in(!used, len) {
                return Some(start + at);
            }
            before = used.leading_zeros() as usize;
        }
        None
    }

    /// Claims `len` frames (a power of two, below 512) that begin at a multiple of `len`, first trying at `place`; the first one's number.
    pub(super) fn claim_run(self, mut place: usize, len: usize, fit: Fit) -> Option<usize> {
        loop {
            let found = if len > WORD {
                self.claim_range(place, len).then_some(place)
            } else {
                let index = place / WORD;
                let in_word = self.0[index].claim_run(len, fit);
                in_word.map(|at| index * WORD + at)
            };
            if found.is_some() {
                return found;
            }
            let Sight::At(next) = self.look_for_run(len, fit) else {
                return None;
            };
            place = next;
        }
    }

    /// Claims exactly the `len` frames from `at`; all or nothing.
    pub(super) fn claim_range(self, at: usize, len: usize) -> bool {
        for (done, (index, mask)) in masks(at, len).enumerate() {
            if !self.0[index].claim(mask) {
                for (index, mask) in masks(at, len).take(done) {
                    self.0[index].release(mask);
                }
                return false;
            }
        }
        true
    }

    /// Gives the `len` frames from `at` back.
    pub(super) fn release_range(self, at: usize, len: usize) {
        for (index, mask) in masks(at, len) {
            self.0[index].release(mask);
        }
    }

    /// Sets all bits, of frames that are the caller's as one block.
    pub(super) fn set_all(self) {
        for word in self.0 {
            word.set(u64::MAX);
        }
    }

    /// Where the last frame in use among the `len` from `at` is.
    pub(super) fn last_used(self, at: usize, len: usize) -> Option<usize> {
        let mut last = None;
        for (index, mask) in masks(at, len) {
            let used = self.0[index].load() & mask;
            if used != 0 {
                last = Some(index * WORD + (WORD - 1 - used.leading_zeros() as usize));
            }
        }
        last
    }

    /// Whether all of the `len` frames from `at` are in use.
    pub(super) fn all_used(self, at: usize, len: usize) -> bool {
        masks(at, len).all(|(index, mask)| self.0[index].load() & mask == mask)
    }
}

/// The words and the bits in them that `len` frames from `at` make up.
fn masks(at: usize, len: usize) -> impl Iterator<Item = (usize, u64)> {
    let end = at + len;
    (at / WORD..end.div_ceil(WORD)).map(move |index| {
        let start = index * WORD;
        let from = at.max(start) - start;
        let to = end.min(start + WORD) - start;
        (index, ones(to - from) << from)
    })
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::{BitWord, Fit, HugeBits, WORDS, aligned_run, crumbs, lowest, masks};
    use std::vec::Vec;

    #[test]
    fn rows_agree_with_trying_every_place() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        for round in 0..600 {
            let bits: [BitWord; WORDS] = core::array::from_fn(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                // Free rows of all lengths: nothing, single frames, a few, whole words.
                let used = match (seed >> 60) % 4 {
                    0 => 0,
                    1 => seed,
                    2 => seed & seed.rotate_left(17) & seed.rotate_left(31),
                    _ => 1 << (seed % 64),
                };
                let word = BitWord::default();
                word.set(used);
                word
            });
            let is_free = |at: usize| bits[at / 64].load() >> (at % 64) & 1 == 0;
            for len in (1..=512).step_by(1 + round % 7) {
                let mut row = 0;
                let first = (0..512).find_map(|at| {
                    row = if is_free(at) { row + 1 } else { 0 };
                    (row == len).then(|| at + 1 - len)
                });
                assert_eq!(HugeBits(&bits).look_for_row(len), first, "{len}");
            }
        }
    }

    #[test]
    fn runs_agree_with_trying_every_place() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..2000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            // Denser words have longer runs.
            let free = seed | seed.rotate_left(21) | seed.rotate_left(40);
            for order in 0..7 {
                let len = 1_usize << order;
                let is_free = |at: usize| at < 64 && (at..at + len).all(|bit| free >> bit & 1 == 1);
                let all: Vec<usize> = (0..64).step_by(len).filter(|&at| is_free(at)).collect();
                let alone = all.iter().find(|&&at| !is_free(at ^ len));
                let any = alone.or(all.first()).copied();
                assert_eq!(aligned_run(free, len, Fit::Any), any, "{free:#x} {len}");
                let exact = alone.copied();
                assert_eq!(aligned_run(free, len, Fit::Exact), exact, "{free:#x} {len}");
            }
            let groups = (0..8).filter(|group| free >> (8 * group) & 0xff == 0xff);
            let whole: u64 = groups.map(|group| 0xff << (8 * group)).sum();
            assert_eq!(crumbs(free), free & !whole, "{free:#x}");
        }
    }

    #[test]
    fn lowest_takes_the_lowest() {
        assert_eq!(lowest(0b1011_0110, 3), 0b1_0110);
        assert_eq!(lowest(0b1011_0110, 9), 0b1011_0110);
        assert_eq!(lowest(u64::MAX, 64), u64::MAX);
        assert_eq!(lowest(u64::MAX << 60, 2), 0b11 << 60);
    }

    #[test]
    fn masks_cover_each_frame_once() {
        for (at, len) in [(0, 512), (63, 2), (5, 1), (100, 300), (448, 64), (64, 128)] {
            let frames: Vec<usize> = masks(at, len)
                .flat_map(|(word, mask)| {
                    (0..64)
                        .filter(move |bit| mask >> bit & 1 == 1)
                        .map(move |bit| word * 64 + bit)
                })
                .collect();
            assert_eq!(frames, (at..at + len).collect::<Vec<_>>());
        }
    }
}
