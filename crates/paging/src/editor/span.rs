//! Parts of a range, cut at the borders of one level's entries.

use kspace_layout::{PagingMode, VirtAddr, VirtRange};

/// Addresses `first` to `last`, both included, as numbers; within one half, so never wrapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
}

/// The part of a span that one entry translates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) span: Span,
    /// The span is all that the entry translates.
    pub(super) whole: bool,
}

impl Span {
    pub(super) const fn of(range: VirtRange) -> Self {
        Self {
            first: range.start().as_u64(),
            last: range.last().as_u64(),
        }
    }

    pub(super) fn start(self) -> VirtAddr {
        // Spans are cut out of a range, so both ends are canonical.
        VirtAddr::new(self.first)
    }

    pub(super) fn range(self) -> VirtRange {
        VirtRange::new(self.start(), self.last - self.first + 1)
    }

    /// The span cut at multiples of `1 << shift`, one entry's worth each.
    #[inline]
    pub(super) fn pieces(self, shift: u32) -> Pieces {
        Pieces {
            rest: self,
            mask: (1 << shift) - 1,
            done: false,
        }
    }

    /// The span in at most three parts: the entries it covers wholly, and those at its ends that it does not.
    #[inline]
    pub(super) fn parts(self, shift: u32) -> impl DoubleEndedIterator<Item = Part> {
        let mask: u64 = (1 << shift) - 1;
        let ragged_start = self.first & mask != 0;
        let ragged_end = self.last & mask != mask;
        if self.first >> shift == self.last >> shift {
            let part = if ragged_start || ragged_end {
                Part::Ragged(self)
            } else {
                Part::Whole(self)
            };
            return [Some(part), None, None].into_iter().flatten();
        }
        // The span goes on in another entry, so neither sum nor difference leaves it.
        let head = Span {
            first: self.first,
            last: self.first | mask,
        };
        let tail = Span {
            first: self.last & !mask,
            last: self.last,
        };
        let first = if ragged_start {
            head.last + 1
        } else {
            self.first
        };
        let last = if ragged_end {
            tail.first - 1
        } else {
            self.last
        };
        [
            ragged_start.then_some(Part::Ragged(head)),
            (first <= last).then_some(Part::Whole(Span { first, last })),
            ragged_end.then_some(Part::Ragged(tail)),
        ]
        .into_iter()
        .flatten()
    }
}

/// See [`Span::parts`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// All that one or more entries translate.
    Whole(Span),
    /// Less than one entry translates.
    Ragged(Span),
}

impl Part {
    pub(super) const fn span(self) -> Span {
        match self {
            Self::Whole(span) | Self::Ragged(span) => span,
        }
    }
}

/// See [`Span::pieces`].
pub(super) struct Pieces {
    /// What is left, while `done` is not set.
    rest: Span,
    mask: u64,
    done: bool,
}

impl Pieces {
    fn piece(&self, span: Span) -> Piece {
        let whole = span.first & self.mask == 0 && span.last & self.mask == self.mask;
        Piece { span, whole }
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    #[inline]
    fn next(&mut self) -> Option<Piece> {
        if self.done {
            return None;
        }
        let Span { first, last } = self.rest;
        let entry_last = first | self.mask;
        if entry_last >= last {
            self.done = true;
            return Some(self.piece(self.rest));
        }
        // Below `last`, so this cannot wrap.
        self.rest.first = entry_last + 1;
        Some(self.piece(Span {
            first,
            last: entry_last,
        }))
    }
}

impl DoubleEndedIterator for Pieces {
    #[inline]
    fn next_back(&mut self) -> Option<Piece> {
        if self.done {
            return None;
        }
        let Span { first, last } = self.rest;
        let entry_first = last & !self.mask;
        if entry_first <= first {
            self.done = true;
            return Some(self.piece(self.rest));
        }
        // Above `first`, so this cannot wrap.
        self.rest.last = entry_first - 1;
        Some(self.piece(Span {
            first: entry_first,
            last,
        }))
    }
}

/// Whether `mode` translates every address of `range`.
pub(super) fn translates(mode: PagingMode, range: VirtRange) -> bool {
    mode.contains(range.start()) && mode.contains(range.last())
}
