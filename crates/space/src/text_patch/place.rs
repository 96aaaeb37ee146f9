//! Where an instruction lies in physical memory, once it is known to be code.

use kspace_layout::{FRAME_SIZE, Pfn, VirtAddr, VirtRange};
use kspace_paging::{CacheType, EntryRead, Walker};

use super::PatchError;

/// The frames of an instruction, which may begin in one page and end in the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) at: VirtAddr,
    pub(super) frames: [Pfn; 2],
    /// How many of the two it has.
    pub(super) pages: usize,
    /// How the code's mapping caches them; a second view must not differ.
    pub(super) cache: CacheType,
}

impl Place {
    /// Where `range` lies; an error at the first byte that is not kernel code.
    pub(super) fn of<M: EntryRead + ?Sized>(
        walker: &Walker<'_, M>,
        range: VirtRange,
    ) -> Result<Self, PatchError> {
        let at = range.start();
        let (first, cache) = code_frame(walker, at)?;
        let mut place = Self {
            at,
            frames: [first; 2],
            pages: 1,
            cache,
        };
        let last_page = range.last().align_down(FRAME_SIZE);
        if last_page > at {
            let (second, _) = code_frame(walker, last_page)?;
            place.frames[1] = second;
            place.pages = 2;
        }
        Ok(place)
    }
}

/// The frame behind `at`, which must be code that the kernel can execute and nobody can write.
fn code_frame<M: EntryRead + ?Sized>(
    walker: &Walker<'_, M>,
    at: VirtAddr,
) -> Result<(Pfn, CacheType), PatchError> {
    let page = walker.walk(at).page().ok_or(PatchError::NotMapped(at))?;
    let found = page.attributes;
    if !found.execute || found.write || found.user {
        return Err(PatchError::NotCode { at, found });
    }
    Ok((page.phys.pfn(), found.cache))
}
