//! Places drawn at random: the debug mode that takes every habit out of where areas lie.
//!
//! ```text
//!   one in 8 draws:   a new chunk, at a random place of the whole area
//!   the others:       a random chunk, in it a random place     (full? a few more draws; then any place, as without the mode)
//! ```
//!
//! No CPU has a run of its own then: what a chunk has free stays in the pool, so that every place can be drawn.

use super::Kernel;
use super::allocate::Shortage;
use super::arena::Spot;
use super::pool::{Books, Found, Rest};
use super::settings::Draws;
use super::state::{Off, Vmalloc};

/// So many chunks are tried before any place will do.
const TRIES: usize = 8;
/// One draw of so many is for a new chunk.
const NEW_CHUNK: u64 = 8;

impl<'a, K: Kernel, const CPUS: usize> Vmalloc<'a, K, CPUS> {
    /// A random place for `need` pages, guard included, at a multiple of `align`.
    #[cold]
    pub(super) fn place_random(
        &self,
        off: &Off<K>,
        draws: &Draws,
        need: u64,
        align: u64,
    ) -> Result<Spot, Shortage> {
        if draws.below(NEW_CHUNK) != 0 {
            for _ in 0..TRIES {
                if let Some(placed) = self.place_in_any(off, draws, need, align) {
                    return Ok(placed);
                }
            }
        }
        match self.make_chunk(off) {
            Ok(chunk) => {
                let placed = self.with_pool(off, |pool| {
                    pool.add(self, chunk);
                    pool.find_random(self, chunk, need, align, draws.draw())
                });
                placed.map(spot_of).ok_or(Shortage::Space)
            }
            Err(shortage) => self.place_left(off, need, align).ok_or(shortage),
        }
    }

    /// In a random chunk, if that has room.
    fn place_in_any(&self, off: &Off<K>, draws: &Draws, need: u64, align: u64) -> Option<Spot> {
        let chunks = self.area().size() / super::state::CHUNK_BYTES + 1;
        let from = self.number_of(self.area().start()) + draws.below(chunks);
        // The next one above the draw, or the lowest.
        let found = self
            .index
            .next(self, from)
            .or_else(|| self.index.next(self, 0));
        let (_, books) = found?;
        let chunk = self.chunk(books);
        self.with_pool(off, |pool| {
            // One that is being given up is still found, but not in the pool any more.
            let found = pool.find_random(self, chunk, need, align, draws.draw())?;
            Some(spot_of(found))
        })
    }

    /// Anywhere in the chunks that there are.
    fn place_left(&self, off: &Off<K>, need: u64, align: u64) -> Option<Spot> {
        self.with_pool(off, |pool| {
            let found = pool.find(self, None, need, align, Rest::Stays)?;
            Some(spot_of(found))
        })
    }
}

fn spot_of(found: Found<'_>) -> Spot {
    Spot {
        number: found.chunk.number(),
        first: found.first,
        lead: 0,
    }
}
