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

    /// The span cut at multiples of `1 << shift`.
    #[inline]
    pub(super) fn pieces(self, shift: u32) -> Pieces {
        Pieces {
            next: self.first,
            last: self.last,
            mask: (1 << shift) - 1,
            done: false,
        }
    }
}

/// See [`Span::pieces`].
pub(super) struct Pieces {
    next: u64,
    last: u64,
    mask: u64,
    done: bool,
}

impl Iterator for Pieces {
    type Item = Piece;

    #[inline]
    fn next(&mut self) -> Option<Piece> {
        if self.done {
            return None;
        }
        let first = self.next;
        let entry_last = first | self.mask;
        let last = if entry_last < self.last {
            // Below `self.last`, so this cannot wrap.
            self.next = entry_last + 1;
            entry_last
        } else {
            self.done = true;
            self.last
        };
        Some(Piece {
            span: Span { first, last },
            whole: first & self.mask == 0 && last == entry_last,
        })
    }
}

/// Whether `mode` translates every address of `range`.
pub(super) fn translates(mode: PagingMode, range: VirtRange) -> bool {
    mode.contains(range.start()) && mode.contains(range.last())
}
