//! What is known of ranges of pages: an ordered map from page numbers to two words, in books without a heap.
//!
//! ```text
//!   pages   |      |  a  |    b    |     |  a  |          neighbours that are equal are one piece; nothing known is no piece
//!   set         [     c      ]
//!           |   |     c      |  b  |     |  a  |          what the range cuts is cut: two pieces more at most
//! ```
//!
//! Promise: a change for which room was [reserved](SpanMap::reserve) cannot fail, and a failed reservation changes nothing.

use core::sync::atomic::Ordering::Relaxed;

use kspace_paging::{FrameSource, PhysMemory};

use crate::ranges::tree::{ByAddress, Span, Tree};
use crate::words::{NodeId, Slab};

/// What is known of a page.
pub(crate) type Value = [u64; 2];

/// The words of a node that its user has.
const VALUE: [usize; 2] = [5, 6];
const START: usize = 0;
const PAGES: usize = 1;

/// Pages of which the same is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

/// There is no room for more pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// No frame for the books.
    NoFrame,
    /// As many pieces as there may be.
    Full {
        /// So many.
        limit: u64,
    },
}

/// The map. At most `limit` pieces.
pub(crate) struct SpanMap<'a, M: PhysMemory, F: FrameSource> {
    slab: Slab<'a, M, F>,
    tree: Tree<ByAddress>,
    pieces: u64,
    limit: u64,
}

impl<'a, M: PhysMemory, F: FrameSource> SpanMap<'a, M, F> {
    /// Nothing known. Takes no frame yet.
    pub(crate) const fn new(memory: &'a M, frames: F, limit: u64) -> Self {
        Self {
            slab: Slab::new(memory, frames),
            tree: Tree::new(),
            pieces: 0,
            limit,
        }
    }

    /// How many pieces there are.
    pub(crate) const fn pieces(&self) -> u64 {
        self.pieces
    }

    /// Sees to it that there can be `more` pieces more.
    pub(crate) fn reserve(&mut self, more: u64) -> Result<(), NoRoom> {
        let limit = self.limit;
        let wanted = self.pieces.saturating_add(more);
        if wanted > limit {
            return Err(NoRoom::Full { limit });
        }
        self.slab.reserve(wanted).map_err(|_| NoRoom::NoFrame)
    }

    /// What is known of a page, and of those around it.
    pub(crate) fn get(&self, page: u64) -> Option<Piece> {
        let (below, _, _) = self.tree.around(&self.slab, page);
        below
            .map(|node| self.piece(node))
            .filter(|piece| page < piece.span.end())
    }

    /// The first piece that has pages at or behind `from`.
    pub(crate) fn next(&self, from: u64) -> Option<Piece> {
        self.get(from).or_else(|| {
            let node = self.tree.at_or_after(&self.slab, from)?;
            Some(self.piece(node))
        })
    }

    /// The first part of `span` of which the same is known: its end is that of a piece, the start of one, or the span's.
    pub(crate) fn first_of(&self, span: Span) -> (Span, Option<Value>) {
        let (end, value) = match self.next(span.start) {
            Some(piece) if piece.span.start <= span.start => (piece.span.end(), Some(piece.value)),
            Some(piece) => (piece.span.start, None),
            None => (span.end(), None),
        };
        (Span::between(span.start, end.min(span.end())), value)
    }

    /// Writes down what is known of all pages of `span`; `None`: nothing. Needs room for two pieces more.
    ///
    /// # Panics
    ///
    /// When that room was not reserved.
    pub(crate) fn set(&mut self, span: Span, value: Option<Value>) {
        self.cut(span.start);
        self.cut(span.end());
        while let Some(node) = self.tree.at_or_after(&self.slab, span.start)
            && self.piece(node).span.start < span.end()
        {
            self.remove(node);
        }
        let Some(value) = value else { return };
        let mut whole = span;
        let (below, above, _) = self.tree.around(&self.slab, span.start);
        for node in [below, above].into_iter().flatten() {
            let piece = self.piece(node);
            let touches = piece.span.end() == span.start || piece.span.start == span.end();
            if touches && piece.value == value {
                let start = whole.start.min(piece.span.start);
                whole = Span::between(start, whole.end().max(piece.span.end()));
                self.remove(node);
            }
        }
        self.insert(whole, value);
    }

    /// Gives back the room that is not needed any more.
    pub(crate) fn trim(&mut self) {
        self.slab.trim(self.pieces);
    }

    /// Makes two pieces of the one that goes on across the start of `page`.
    fn cut(&mut self, page: u64) {
        let (below, _, _) = self.tree.around(&self.slab, page);
        let Some(node) = below else { return };
        let Piece { span, value } = self.piece(node);
        if span.start < page && page < span.end() {
            self.slab.words(node)[PAGES].store(page - span.start, Relaxed);
            self.insert(Span::between(page, span.end()), value);
        }
    }

    fn insert(&mut self, span: Span, value: Value) {
        let node = self.slab.take().expect("room was reserved");
        let words = self.slab.words(node);
        span.store(words);
        VALUE
            .into_iter()
            .zip(value)
            .for_each(|(index, word)| words[index].store(word, Relaxed));
        self.tree.insert(&self.slab, node);
        self.pieces += 1;
    }

    fn remove(&mut self, node: NodeId) {
        self.tree.remove(&self.slab, node);
        self.slab.put(node);
        self.pieces -= 1;
    }

    fn piece(&self, node: NodeId) -> Piece {
        let words = self.slab.words(node);
        let load = |index: usize| words[index].load(Relaxed);
        Piece {
            span: Span {
                start: load(START),
                pages: load(PAGES),
            },
            value: VALUE.map(load),
        }
    }
}

#[cfg(test)]
mod tests;
