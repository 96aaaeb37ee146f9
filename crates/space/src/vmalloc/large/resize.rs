//! Another size for a large area, where it is.

use kspace_layout::{AddressError, FRAME_SIZE, VirtAddr, VirtRange};
use kspace_paging::Reason;

use super::allocate::Source;
use super::books::Entry;
use crate::vmalloc::allocate::{Checked, Shortage, want_of};
use crate::vmalloc::state::Vmalloc;
use crate::vmalloc::{AreaRequest, Kernel, Resized};

impl<K: Kernel, const CPUS: usize> Vmalloc<'_, K, CPUS> {
    /// The live large area that begins at `start`.
    pub(in crate::vmalloc) fn large_at(&self, start: VirtAddr) -> Option<Entry> {
        self.with_books(&self.off(), |books| books.live_at(start))
    }

    pub(in crate::vmalloc) fn grow(
        &self,
        entry: Entry,
        request: &AreaRequest,
        checked: Checked,
    ) -> Result<Resized, Shortage> {
        let old = entry.range.size() / FRAME_SIZE;
        let more = (checked.pages - old) * FRAME_SIZE;
        let (Ok(added), Ok(behind), Ok(whole)) = (
            after(entry.range.start(), old, more),
            after(entry.range.start(), old + 1, more),
            VirtRange::try_new(entry.range.start(), checked.pages * FRAME_SIZE),
        ) else {
            return Ok(Resized::Elsewhere);
        };
        let grown = self.with_space(&self.off(), |space| space.grow(behind));
        if grown.is_err() {
            return Ok(Resized::Elsewhere);
        }
        let source = Source::Own(want_of(request));
        if let Err(partial) = self.fill_large(added, request, source) {
            self.take_away(added.start(), partial.mapped, true);
            let shrunk = self.with_space(&self.off(), |space| space.shrink(behind));
            debug_assert!(shrunk.is_ok(), "it was added just now");
            return Err(partial.shortage.after(old));
        }
        self.with_books(&self.off(), |books| books.set_pages(entry, checked.pages));
        Ok(Resized::InPlace(whole))
    }

    pub(in crate::vmalloc) fn shrink(
        &self,
        entry: Entry,
        checked: Checked,
    ) -> Result<Resized, Shortage> {
        let (start, old) = (entry.range.start(), entry.range.size() / FRAME_SIZE);
        let pages = checked.pages;
        let less = (old - pages) * FRAME_SIZE;
        let tail = VirtRange::new(at_page(start, pages), less);
        let frame = |page| {
            let phys = self.walker().translate(at_page(start, page))?;
            Some(phys.pfn())
        };
        if !self.is_cut(frame(pages - 1), frame(pages)) {
            return Ok(Resized::InPlace(entry.range));
        }
        let token = match self.tables().park(tail) {
            Ok(token) => token,
            Err(error) if matches!(error.reason, Reason::OutOfFrames { .. }) => {
                return Err(Shortage::Tables);
            }
            Err(error) => panic!("entries of a live area were changed by somebody else: {error}"),
        };
        token.flush(self.shootdown(), self.memory(), self.frames());
        let give = |first, frames| {
            // Only now: what fails must leave the content as it was.
            if self.modes.poison {
                self.poison_frames(first, frames);
            }
            self.give_blocks(first, frames)
        };
        // SAFETY: the token has just been flushed, and the area is the caller's.
        unsafe { self.collect_each(tail, give) };
        self.with_books(&self.off(), |books| books.set_pages(entry, pages));
        let free = VirtRange::new(at_page(start, pages + 1), less);
        let shrunk = self.with_space(&self.off(), |space| space.shrink(free));
        debug_assert!(
            shrunk.is_ok(),
            "the addresses of a large area were allocated"
        );
        let rest = VirtRange::new(start, pages * FRAME_SIZE);
        Ok(Resized::InPlace(rest))
    }
}

/// `bytes` bytes from page `page` after `start` on.
pub(super) fn after(start: VirtAddr, page: u64, bytes: u64) -> Result<VirtRange, AddressError> {
    VirtRange::try_new(start.checked_add(page * FRAME_SIZE)?, bytes)
}

/// A page of an area that is there.
pub(super) fn at_page(start: VirtAddr, page: u64) -> VirtAddr {
    VirtAddr::new(start.as_u64() + page * FRAME_SIZE)
}
