//! The purge of large areas: the steps that the purger takes for them beside those for chunks.

use core::sync::atomic::Ordering;

use kspace_layout::{FRAME_SIZE, PageSize, PagingMode, Pfn, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Flush, Invalidation};

use super::books::Entry;
use crate::platform::{Complaint, Cpu, WrittenAfterFree};
use crate::vmalloc::state::Vmalloc;
use crate::vmalloc::{AreaFrames, Kernel, Purged};

impl<'a, K: Kernel, const CPUS: usize> Vmalloc<'a, K, CPUS> {
    /// Takes all freed large areas for the purge under way: what the CPUs must forget, if anything, if there are some.
    pub(in crate::vmalloc) fn gather_large(&self) -> Option<Option<Invalidation>> {
        self.with_books(&self.off(), |books| books.gather())
    }

    /// Gives back what [`gather_large`](Self::gather_large) took, after the flush. Page tables that only one area used go, too: it takes
    /// one flush more, and there can be large pages again.
    pub(in crate::vmalloc) fn release_large(&self, purged: &mut Purged) {
        let token = self.with_books(&self.off(), |books| books.flushed());
        // SAFETY: the purger has made all CPUs forget what `gather_large` returned.
        unsafe { token.discharged(self.memory(), self.frames()) };
        let mut tables = Flush::nothing();
        while let Some(entry) = self.with_books(&self.off(), |books| books.next_of_batch()) {
            // SAFETY: the area was parked before it came into the books as lazy, and flushed since it was gathered.
            purged.frames += unsafe { self.collect_freed(entry) };
            match self.tables().purge(entry.range) {
                Ok(token) if token.tables() > 0 => {
                    tables.absorb(token, self.memory());
                    self.with_books(&self.off(), |books| books.hold(entry));
                }
                _ => self.release_one(entry, purged),
            }
        }
        purged.frames += self.flush_tables(tables);
        while let Some(entry) = self.with_books(&self.off(), |books| books.next_held()) {
            self.release_one(entry, purged);
        }
    }

    /// Clears the entries of a freed area, and frees its frames if it owns them; looks at them first, if freed areas are poisoned.
    ///
    /// # Safety
    ///
    /// As for [`collect_large`](Self::collect_large).
    unsafe fn collect_freed(&self, entry: Entry) -> u64 {
        let owned = entry.kind.owns_frames();
        if !self.is_poisoned(entry) {
            // SAFETY: the caller's promise.
            return unsafe { self.collect_large(entry.range, owned) };
        }
        let (mut at, mut found) = (entry.range.start(), None);
        // SAFETY: the caller's promise.
        let given = unsafe {
            self.collect_each(entry.range, |first, frames| {
                for frame in 0..frames {
                    let page = VirtAddr::new(at.as_u64() + frame * FRAME_SIZE);
                    let frame = Pfn::new(first.as_u64() + frame);
                    found = found.or_else(|| self.find_written(frame, page));
                }
                // All of the area was mapped, so runs follow each other.
                at = VirtAddr::new(at.as_u64() + frames * FRAME_SIZE);
                self.give_blocks(first, frames)
            })
        };
        if let Some((address, value)) = found {
            let [made_by, freed_by] = self.with_books(&self.off(), |books| books.callers(entry));
            let area = entry.range;
            self.platform()
                .report(&Complaint::WrittenAfterFree(WrittenAfterFree {
                    area,
                    address,
                    value,
                    made_by,
                    freed_by,
                }));
        }
        given
    }

    /// Whether the frames of a freed area have the pattern. Users may write to theirs as long as they have them mapped.
    pub(super) fn is_poisoned(&self, entry: Entry) -> bool {
        self.modes.poison
            && entry.kind.owns_frames()
            && !self.with_books(&self.off(), |books| books.is_for_users(entry))
    }

    /// Strikes an area out and frees its addresses.
    pub(super) fn release_one(&self, entry: Entry, purged: &mut Purged) {
        let pages = entry.range.size() / FRAME_SIZE;
        purged.areas += 1;
        purged.pages += pages;
        self.with_books(&self.off(), |books| books.forget(entry));
        let whole = VirtRange::new(entry.range.start(), (pages + 1) * FRAME_SIZE);
        let freed = self.with_space(&self.off(), |space| space.free(whole));
        debug_assert!(
            freed.is_ok(),
            "the addresses of a large area were allocated"
        );
    }

    /// Clears the parked entries of `range`, and frees their frames if they are `owned`. Returns how many were freed.
    ///
    /// # Safety
    ///
    /// All CPUs have been flushed since these entries were parked, and the range is the caller's.
    pub(super) unsafe fn collect_large(&self, range: VirtRange, owned: bool) -> u64 {
        let give = |first, frames| {
            if owned {
                self.give_blocks(first, frames)
            } else {
                0
            }
        };
        // SAFETY: the caller's promise.
        unsafe { self.collect_each(range, give) }
    }

    /// Clears the parked entries of `range`, and hands each run of frames to `give`, which tells how many it has freed. Returns their sum.
    ///
    /// # Safety
    ///
    /// As for [`collect_large`](Self::collect_large).
    pub(super) unsafe fn collect_each(
        &self,
        range: VirtRange,
        mut give: impl FnMut(Pfn, u64) -> u64,
    ) -> u64 {
        let mut given = 0;
        let each = |first: PhysAddr, size: PageSize, count: usize| {
            given += give(first.pfn(), count as u64 * (size.bytes() / FRAME_SIZE));
        };
        // SAFETY: the caller's promise.
        if let Err(error) = unsafe { self.tables().collect(range, each) } {
            panic!("entries of a freed area were changed by somebody else: {error}");
        }
        given
    }

    /// Gives back blocks that lie one behind the other: how many frames they had.
    pub(super) fn give_blocks(&self, first: Pfn, frames: u64) -> u64 {
        let (mut done, mut given) = (0, 0);
        while done < frames {
            let block = self.give_block(Pfn::new(first.as_u64() + done));
            given += block;
            done += block.max(1);
        }
        given
    }

    /// Gives back the block that begins at `first`: how many frames it had; 0 when the books on frames know no such block.
    fn give_block(&self, first: Pfn) -> u64 {
        // Interrupts are off for one block at a time.
        // SAFETY: an area's frames were taken for it, its entries do not lead there any more, and all CPUs have been flushed.
        let order = unsafe { self.frames().give(&self.off(), first) };
        if order.is_none() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        order.map_or(0, |order| order.frames() as u64)
    }

    /// Takes out and frees the page tables that areas have left behind in the free address space. Only the purger calls this.
    ///
    /// It looks where addresses were given back since the last time, and as far around as root entries translate: tables are made only in
    /// addresses that are taken. It holds one such part after the other meanwhile.
    pub(in crate::vmalloc) fn trim_tables(&self, purged: &mut Purged) {
        let given_back = self.with_space(&self.off(), |space| space.take_given_back());
        let Some(given_back) = given_back else { return };
        let span = root_span(self.tables().mode());
        let first = given_back.start().align_down(span);
        let mut from = Some(first.max(self.area().start()));
        let last = given_back.last().as_u64() | (span - 1);
        while let Some(part) = from.and_then(|from| self.hold_free(from, last)) {
            from = part.last().checked_add(1).ok();
            if let Ok(token) = self.tables().purge(part) {
                purged.frames += self.flush_tables(token);
            }
            let freed = self.with_space(&self.off(), |space| space.let_go(part));
            debug_assert!(freed.is_ok(), "it was held");
        }
    }

    fn flush_tables(&self, token: Flush) -> u64 {
        let tables = token.tables() as u64;
        token.flush(self.shootdown(), self.memory(), self.frames());
        tables
    }

    /// Holds the first free addresses at or after `from` and up to `end`, as far as a root entry goes.
    fn hold_free(&self, from: VirtAddr, end: u64) -> Option<VirtRange> {
        let span = root_span(self.tables().mode());
        self.with_space(&self.off(), |space| {
            let mut from = from;
            loop {
                let free = space.next_free(from)?;
                let start = free.start().max(from);
                if start.as_u64() > end {
                    return None;
                }
                let last = VirtAddr::try_new(start.as_u64() | (span - 1)).ok()?;
                let last = last.min(free.last());
                let part = VirtRange::try_from_bounds(start, last).ok()?;
                // In a smaller one there is no whole table.
                if part.size() >= PageSize::Size2M.bytes() && space.allocate_at(part).is_ok() {
                    return Some(part);
                }
                from = last.checked_add(1).ok()?;
            }
        })
    }
}

/// The bytes that an entry of the root translates.
const fn root_span(mode: PagingMode) -> u64 {
    match mode {
        PagingMode::TwoLevel => 1 << 22,
        PagingMode::Pae => 1 << 30,
        PagingMode::FourLevel => 1 << 39,
        PagingMode::FiveLevel => 1 << 48,
    }
}
