//! Chunks by how much is free in them, so that a request finds the fullest one that still has room.
//!
//! ```text
//!   place   1       2       3             9
//!   run   2..3    4..7    8..15   ...    512       the longest run of free pages in the chunk
//!          |       |       |              |
//!        chunk   chunk    ...           empty ones
//!          |
//!        chunk
//! ```
//!
//! The free pages written down in a chunk are those that nobody has: neither an area, nor a CPU that has taken a run of them for its
//! next areas, nor the quarantine. So a chunk all of whose pages are free is used by nobody.

use kspace_layout::PhysAddr;

use super::chunk::Chunk;
use super::pages::{CHUNK_PAGES, Pages};
use super::sync::Ordering;

/// One list for each size of the longest run: 2^place pages and more. A single page is of no use, because of the guard.
const PLACES: usize = CHUNK_PAGES.ilog2() as usize + 1;
/// On no list.
const NOWHERE: u64 = 0;
/// Chunks of a list whose longest run may be enough or not that are looked at.
const TRIES: usize = 4;

/// The lists.
pub(super) struct Pool {
    /// The first chunk of each; zero is none.
    heads: [u64; PLACES],
    /// Chunks whose pages are all free.
    empty: u64,
    chunks: u64,
}

/// Reaches the books on chunks.
pub(super) trait Books<'a> {
    fn chunk(&self, frame: PhysAddr) -> Chunk<'a>;

    /// The chunk whose books are at an address from a word; `None` for zero.
    fn linked(&self, word: u64) -> Option<Chunk<'a>> {
        (word != 0).then(|| self.chunk(PhysAddr::new(word)))
    }
}

/// What becomes of the free pages behind those that a request finds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// They are the finder's, too: its next run.
    Taken,
    /// They stay in the pool.
    Stays,
}

/// Where a request found room.
pub(super) struct Found<'a> {
    pub(super) chunk: Chunk<'a>,
    /// The first page.
    pub(super) first: u64,
    /// The one after the last page that is the finder's.
    pub(super) end: u64,
}

impl Pool {
    pub(super) const fn new() -> Self {
        Self {
            heads: [0; PLACES],
            empty: 0,
            chunks: 0,
        }
    }

    /// Chunks whose pages are all free.
    pub(super) const fn empty(&self) -> u64 {
        self.empty
    }

    /// All chunks.
    pub(super) const fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Adds a new chunk, all of whose pages are free.
    pub(super) fn add<'a>(&mut self, books: &impl Books<'a>, chunk: Chunk<'a>) {
        self.chunks += 1;
        self.empty += 1;
        chunk.set_free(Pages::ALL);
        self.link(books, chunk, place_of(CHUNK_PAGES));
    }

    /// Takes an empty chunk out, for good.
    pub(super) fn take_empty<'a>(
        &mut self,
        books: &impl Books<'a>,
        may: impl Fn(Chunk<'a>) -> bool,
    ) -> Option<Chunk<'a>> {
        let mut next = self.heads[place_of(CHUNK_PAGES)];
        while let Some(chunk) = books.linked(next) {
            if may(chunk) {
                self.unlink(books, chunk);
                self.empty -= 1;
                self.chunks -= 1;
                return Some(chunk);
            }
            next = chunk.pool_next().load(Ordering::Relaxed);
        }
        None
    }

    /// Takes `need` pages at a multiple of `align`, and perhaps the rest of their run: from `preferred`, if it has room, or from the
    /// fullest chunk that has.
    pub(super) fn find<'a>(
        &mut self,
        books: &impl Books<'a>,
        preferred: Option<Chunk<'a>>,
        need: u64,
        align: u64,
        rest: Rest,
    ) -> Option<Found<'a>> {
        if let Some(chunk) = preferred
            && let Some(found) = self.find_in(books, chunk, need, align, rest)
        {
            return Some(found);
        }
        for place in place_of(need)..PLACES {
            // In the first lists the longest run may be too short, or lie badly for the alignment.
            let mut next = self.heads[place];
            for _ in 0..TRIES {
                let Some(chunk) = books.linked(next) else {
                    break;
                };
                next = chunk.pool_next().load(Ordering::Relaxed);
                if let Some(found) = self.find_in(books, chunk, need, align, rest) {
                    return Some(found);
                }
            }
        }
        None
    }

    fn find_in<'a>(
        &mut self,
        books: &impl Books<'a>,
        chunk: Chunk<'a>,
        need: u64,
        align: u64,
        rest: Rest,
    ) -> Option<Found<'a>> {
        let mut free = chunk.free();
        let (first, end) = free.find(need, align)?;
        let end = match rest {
            Rest::Taken => end,
            Rest::Stays => first + need,
        };
        let before = free;
        free.remove_run(first, end);
        self.change(books, chunk, before, free);
        Some(Found { chunk, first, end })
    }

    /// Takes `need` pages of this chunk at a random multiple of `align`, and nothing else of their run. `None` also when the pool does not have
    /// the chunk.
    pub(super) fn find_random<'a>(
        &mut self,
        books: &impl Books<'a>,
        chunk: Chunk<'a>,
        need: u64,
        align: u64,
        number: u64,
    ) -> Option<Found<'a>> {
        let first = chunk.free().find_random(need, align, number)?;
        let end = first + need;
        self.take(books, chunk, first, end)
            .then_some(Found { chunk, first, end })
    }

    /// Takes the pages from `first` on before `end`, if they are all free and the pool has the chunk.
    pub(super) fn take<'a>(
        &mut self,
        books: &impl Books<'a>,
        chunk: Chunk<'a>,
        first: u64,
        end: u64,
    ) -> bool {
        let (before, wanted) = (chunk.free(), Pages::between(first, end));
        let mut free = before;
        free.insert(wanted);
        let is_here = chunk.pool_place().load(Ordering::Relaxed) != NOWHERE;
        if !is_here || free != before {
            return false;
        }
        free.remove_run(first, end);
        self.change(books, chunk, before, free);
        true
    }

    /// Gives pages back.
    pub(super) fn give<'a>(&mut self, books: &impl Books<'a>, chunk: Chunk<'a>, pages: Pages) {
        let before = chunk.free();
        debug_assert!(!before.overlaps(pages), "pages are given back twice");
        let mut free = before;
        free.insert(pages);
        self.change(books, chunk, before, free);
    }

    fn change<'a>(
        &mut self,
        books: &impl Books<'a>,
        chunk: Chunk<'a>,
        before: Pages,
        after: Pages,
    ) {
        self.empty -= u64::from(before.is_all());
        self.empty += u64::from(after.is_all());
        chunk.set_free(after);
        let place = place_of(after.longest());
        if place as u64 != chunk.pool_place().load(Ordering::Relaxed) {
            self.unlink(books, chunk);
            self.link(books, chunk, place);
        }
    }

    fn link<'a>(&mut self, books: &impl Books<'a>, chunk: Chunk<'a>, place: usize) {
        chunk.pool_place().store(place as u64, Ordering::Relaxed);
        if place as u64 == NOWHERE {
            return;
        }
        let head = self.heads[place];
        let frame = chunk.frame().as_u64();
        chunk.pool_previous().store(0, Ordering::Relaxed);
        chunk.pool_next().store(head, Ordering::Relaxed);
        if let Some(next) = books.linked(head) {
            next.pool_previous().store(frame, Ordering::Relaxed);
        }
        self.heads[place] = frame;
    }

    fn unlink<'a>(&mut self, books: &impl Books<'a>, chunk: Chunk<'a>) {
        let place = chunk.pool_place().load(Ordering::Relaxed);
        if place == NOWHERE {
            return;
        }
        let previous = chunk.pool_previous().load(Ordering::Relaxed);
        let next = chunk.pool_next().load(Ordering::Relaxed);
        if let Some(next) = books.linked(next) {
            next.pool_previous().store(previous, Ordering::Relaxed);
        }
        match books.linked(previous) {
            Some(previous) => previous.pool_next().store(next, Ordering::Relaxed),
            None => self.heads[place as usize % PLACES] = next,
        }
        chunk.pool_place().store(NOWHERE, Ordering::Relaxed);
    }
}

/// The list of chunks whose longest run has `pages` pages; for none or one, nowhere.
const fn place_of(pages: u64) -> usize {
    if pages == 0 {
        return NOWHERE as usize;
    }
    pages.ilog2() as usize
}
