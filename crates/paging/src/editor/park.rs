//! Taking pages away so that their entries remember them: `park`. The way back out is the module `collect`.

use kspace_layout::VirtRange;

use crate::{EditError, EntryFormat, Flush, FrameSource, PhysMemory, RawEntry};

use super::known::Known;
use super::span::Span;
use super::survey::LeafJob;
use super::unmap::{Holes, run};
use super::{Edit, Editor, Slot};

impl<F: EntryFormat, M: PhysMemory, S: FrameSource> Editor<'_, F, M, S> {
    /// As [`unmap`](Self::unmap), but the entries remember what they mapped: the pages are *parked*. Nothing can be mapped there until
    /// the token is flushed and [`collect`](Self::collect) has cleared them.
    ///
    /// What the entries remember is the token holder's: it must not be reused before the flush, and a token that is lost leaves it
    /// parked for ever.
    ///
    /// # Errors
    ///
    /// [`EditError`] when a page is not mapped or parked already, or frames for a split run out.
    pub fn park(&self, range: VirtRange) -> Result<Flush, EditError> {
        self.check_range(Edit::Park, range)?;
        run(self, Edit::Park, range, Holes::Refused, &mut Park)
    }
}

/// Makes entries remember.
struct Park;

impl<F: EntryFormat> LeafJob<F> for Park {
    fn leaves(&mut self, _: u8, slots: &[Slot<F>], _: Span) {
        for slot in slots {
            // A plain store: the only other writer is a CPU that sets accessed or dirty, and it no longer matters.
            F::Raw::store(slot, F::FORMAT.parked(F::Raw::load(slot)));
        }
    }

    fn keeps(&self, _: u8, _: u64) -> bool {
        false
    }

    fn afterwards(&self, _: Known) -> Known {
        // Neither full nor empty.
        Known::Nothing
    }
}
