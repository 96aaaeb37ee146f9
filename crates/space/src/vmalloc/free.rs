//! Freeing: the area is taken from its owner, its entries stop leading anywhere, and the rest waits for the purge.

use core::panic::Location;
use core::sync::atomic::Ordering;

use kspace_layout::{FRAME_SIZE, VirtAddr};

use super::caller::Caller;
use super::chunk::Chunk;
use super::error::{FreeError, FreeProblem};
use super::pages::CHUNK_PAGES;
use super::slot::AreaWord;
use super::state::{Known, Off, Vmalloc};
use super::{AreaInfo, Kernel, State};
use crate::platform::Cpu;

impl<'a, K: Kernel, const CPUS: usize> Vmalloc<'a, K, CPUS> {
    /// Frees the area that begins at `start`. When this returns, an access to it faults, on this CPU and on others as soon as they have
    /// no translation of it any more; its frames and addresses are for others after the next purge.
    ///
    /// In any context but an NMI: in atomic context the purge that may be due is left to the next free outside one.
    ///
    /// # Errors
    ///
    /// [`FreeError`]: no area begins there, or not any more. Nothing was changed.
    ///
    /// # Safety
    ///
    /// Nobody uses the area any more, and it is the caller's to free.
    #[inline(always)]
    #[track_caller]
    pub unsafe fn free(&self, start: VirtAddr) -> Result<(), FreeError> {
        let caller = Location::caller();
        match self.free_near(start, Caller::of(caller)) {
            Some(None) => Ok(()),
            Some(Some(pages)) => {
                self.count_lazy(pages);
                Ok(())
            }
            None => self.free_any(start, caller),
        }
    }

    /// The way of nearly all frees: of an area in a chunk that this CPU has used lately. Freed pages to be told, if it is time to. `None`:
    /// nothing was done.
    ///
    /// Inlined, because it is short.
    #[inline(always)]
    fn free_near(&self, start: VirtAddr, by: Caller) -> Option<Option<u64>> {
        // An address outside the area has a number that no chunk has.
        let (number, page) = (self.number_of(start), page_of(start));
        let off = self.off();
        let known = self.known_near(&off, number)?;
        if !start.is_aligned(FRAME_SIZE) {
            return None;
        }
        let word = AreaWord::free(known.chunk.area(page), page, by.raw()).ok()?;
        Some(self.freed(&off, &known, page, word))
    }

    /// The rest of a free whose area was taken from all others. Freed pages to be told, if it is time to.
    #[inline(always)]
    fn freed(&self, off: &Off<K>, known: &Known<'a, K>, page: u64, word: AreaWord) -> Option<u64> {
        let slot = self.slot_of(known.chunk, page);
        known.table.park(slot, word.pages() as usize);
        self.defer(off, known.chunk, page);
        self.arena(off).count_freed(word.pages(), self.batch)
    }

    /// As [`free`](Self::free), for any address.
    #[cold]
    #[inline(never)]
    pub(super) fn free_any(
        &self,
        start: VirtAddr,
        caller: &'static Location<'static>,
    ) -> Result<(), FreeError> {
        let off = self.off();
        if !self.area().contains(start) || !start.is_aligned(FRAME_SIZE) {
            return self.free_slow(off, start, None, caller);
        }
        let page = page_of(start);
        let Some(known) = self.chunk_numbered(&off, self.number_of(start)) else {
            return self.free_slow(off, start, None, caller);
        };
        let by = Caller::of(caller);
        let word = match AreaWord::free(known.chunk.area(page), page, by.raw()) {
            Ok(word) => word,
            Err(found) => return self.free_slow(off, start, Some(found), caller),
        };
        if self.modes.poison {
            self.poison_area(known.chunk, page, word, word.caller());
        }
        let told = self.freed(&off, &known, page, word);
        drop(off);
        if let Some(pages) = told {
            self.count_lazy(pages);
        }
        Ok(())
    }

    /// Frees a large area or a short mapping, or says why nothing was freed. `found` is what there was in the place of a live area's word.
    #[cold]
    #[inline(never)]
    fn free_slow(
        &self,
        off: Off<K>,
        start: VirtAddr,
        found: Option<AreaWord>,
        caller: &'static Location<'static>,
    ) -> Result<(), FreeError> {
        let problem = if !self.area().contains(start) {
            FreeProblem::Outside(self.area())
        } else if let Some(known) = self.chunk_numbered(&off, self.number_of(start)) {
            let chunk = known.chunk;
            let page = page_of(start);
            if let Some(found) = found
                && found.is_mapped()
                && found.begins_at(page)
            {
                if self.unmap_in_block(&off, chunk, page, found.pages(), Caller::of(caller)) {
                    self.count_unmapped(off, found.pages());
                    return Ok(());
                }
                // Somebody else was faster.
                let found = AreaWord::load(chunk.area(page));
                self.why_not(chunk, start, Some(found))
            } else {
                self.why_not(chunk, start, found)
            }
        } else {
            drop(off);
            return self.free_large(start, caller);
        };
        Err(FreeError::new(start, caller, problem))
    }

    /// Adds to the common count of pages that wait, and purges when it is time.
    #[inline(never)]
    pub(super) fn count_lazy(&self, pages: u64) {
        let before = self.lazy.fetch_add(pages, Ordering::Relaxed);
        // Not by the count: it is below zero while another CPU's pages were purged before they were told.
        if self.modes.flush {
            if !self.platform().is_atomic() {
                self.purge_surplus();
            }
            return;
        }
        let waiting = before.wrapping_add(pages) as i64;
        if waiting < self.bound as i64 || self.platform().is_atomic() {
            return;
        }
        // What a purge under way gives back is still counted. When as much again waits, whoever frees more waits, too: else the freed frames
        // of many CPUs could become all there are.
        if waiting >= 2 * self.bound as i64 {
            self.purge_surplus();
        } else {
            self.purge_if_nobody_does();
        }
    }

    /// Why nothing was freed in a chunk.
    fn why_not(&self, chunk: Chunk<'a>, address: VirtAddr, found: Option<AreaWord>) -> FreeProblem {
        let page = page_of(address);
        // First, because an area may lie over where others began that are purged. One that begins there itself is new: it was not to be freed.
        if let Some(info) = self.around(chunk, page)
            && info.state == State::Live
            && info.range.start() != address
        {
            return FreeProblem::Inside(info.range);
        }
        match found {
            Some(found) if found.begins_at(page) && found.is_changed() => {
                FreeProblem::Changed(self.range_of(chunk.number(), page, found.pages()))
            }
            Some(found) if found.begins_at(page) => FreeProblem::Freed {
                // SAFETY: the words of areas have callers from `Caller::raw` only.
                by: unsafe { Caller::place(found.caller()) },
                range: self.range_of(chunk.number(), page, found.pages()),
            },
            _ => FreeProblem::NoArea,
        }
    }

    /// The area in which a page of a chunk lies, guard included.
    pub(super) fn around(&self, chunk: Chunk<'a>, page: u64) -> Option<AreaInfo> {
        let (slot, word) = (0..=page / 2).rev().find_map(|slot| {
            let word = AreaWord::load(chunk.area(2 * slot));
            (word.is_known() && word.first(slot) <= page).then_some((slot, word))
        })?;
        let end = word.first(slot) + word.pages() + 1;
        (page < end).then(|| self.info(chunk, slot, word))
    }
}

/// Which page of its chunk an address lies in.
#[inline(always)]
pub(super) const fn page_of(address: VirtAddr) -> u64 {
    address.as_u64() / FRAME_SIZE % CHUNK_PAGES
}
