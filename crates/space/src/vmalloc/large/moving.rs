//! Moving an area: its frames to other addresses, and new ones behind them.
//!
//! ```text
//!   1  addresses; new frames in their second part     (what can fail for want of frames comes first)
//!   2  the area's frames in their first part, too     (both places lead to them, with one cache type)
//!   3  known in the books
//!   4  the old area: taken, parked, flushed; its addresses free, its frames not
//! ```
//!
//! Wherever it was, it is a large area then: it has grown once, and a range of its own is where it can grow again.

use kspace_layout::{FRAME_SIZE, VirtAddr, VirtRange};

use super::allocate::Source;
use super::fill::{Filler, NoTable};
use super::resize::{after, at_page};
use crate::vmalloc::allocate::{Checked, Shortage, want_of};
use crate::vmalloc::caller::Caller;
use crate::vmalloc::pages::Pages;
use crate::vmalloc::slot::AreaWord;
use crate::vmalloc::state::Vmalloc;
use crate::vmalloc::{AreaError, AreaInfo, AreaRequest, Kernel, Purged};

impl<K: Kernel, const CPUS: usize> Vmalloc<'_, K, CPUS> {
    /// Moves a live area of the caller's to a place with room for all that `request` asks for, which is more than it has. When something
    /// runs out, all that was freed is purged, and then it is tried again.
    pub(in crate::vmalloc) fn move_area(
        &self,
        info: AreaInfo,
        request: &AreaRequest,
        checked: Checked,
        caller: Caller,
    ) -> Result<VirtRange, AreaError> {
        let first = self.try_move(info, request, checked, caller);
        first.or_else(|_| {
            self.after_purges(|| self.try_move(info, request, checked, caller))
                .map_err(|shortage| self.explain(checked, &shortage))
        })
    }

    fn try_move(
        &self,
        info: AreaInfo,
        request: &AreaRequest,
        checked: Checked,
        caller: Caller,
    ) -> Result<VirtRange, Shortage> {
        let source = Source::Own(want_of(request));
        let whole = self.place_large(checked, request, source)?;
        let range = VirtRange::new(whole.start(), checked.pages * FRAME_SIZE);
        let made = self
            .fill_moved(info, range, request, source)
            .and_then(|()| {
                let known = self.with_books(&self.off(), |books| books.add(range, request, caller));
                if known {
                    return Ok(());
                }
                self.take_away(range.start(), info.pages, false);
                self.take_away(
                    at_page(range.start(), info.pages),
                    checked.pages - info.pages,
                    true,
                );
                Err(Shortage::Tables)
            });
        if let Err(shortage) = made {
            let freed = self.with_space(&self.off(), |space| space.free(whole));
            debug_assert!(freed.is_ok(), "it was allocated just now");
            return Err(shortage);
        }
        self.retire(info, caller);
        Ok(range)
    }

    /// Steps 1 and 2, or nothing of them.
    fn fill_moved(
        &self,
        info: AreaInfo,
        range: VirtRange,
        request: &AreaRequest,
        source: Source<'_>,
    ) -> Result<(), Shortage> {
        let more = range.size() - info.pages * FRAME_SIZE;
        let Ok(added) = after(range.start(), info.pages, more) else {
            return Err(Shortage::Space);
        };
        self.fill_large(added, request, source).map_err(|partial| {
            self.take_away(added.start(), partial.mapped, true);
            partial.shortage.after(info.pages)
        })?;
        self.map_again(info.range, range.start(), request)
            .map_err(|mapped| {
                self.take_away(range.start(), mapped, false);
                self.take_away(added.start(), more / FRAME_SIZE, true);
                Shortage::Tables
            })
    }

    /// Maps the frames of `from` at `to`, too. `Err`: so many are mapped, and there is no frame for a page table.
    fn map_again(&self, from: VirtRange, to: VirtAddr, request: &AreaRequest) -> Result<(), u64> {
        let mut filler = Filler::new(*self.tables(), request);
        let mut mapped = 0;
        for run in self.walker().runs(from).flatten() {
            let (at, count) = (at_page(to, mapped), run.virt.size() / FRAME_SIZE);
            filler
                .map(at, run.phys.pfn(), count)
                .map_err(|NoTable { mapped: part }| mapped + part)?;
            mapped += count;
        }
        Ok(())
    }

    /// Step 4. Its frames are another area's now.
    fn retire(&self, info: AreaInfo, caller: Caller) {
        let start = info.range.start();
        if self.large_at(start).is_none() {
            return self.retire_small(info, caller);
        }
        let taken = self.with_books(&self.off(), |books| books.take(start, caller));
        let Ok(entry) = taken else {
            panic!("{info:?} was freed while it moved");
        };
        self.take_away(start, info.pages, false);
        self.release_one(entry, &mut Purged::default());
    }

    fn retire_small(&self, info: AreaInfo, caller: Caller) {
        let (chunk, first, _) = self.small_at(info.range.start());
        let Ok(word) = AreaWord::free(chunk.area(first), first, caller.raw()) else {
            panic!("{info:?} was freed while it moved");
        };
        let slot = self.slot_of(chunk, first);
        self.leaf_table(chunk).park(slot, info.pages as usize);
        self.collect_flushed(chunk, first, info.pages, false);
        // With who moved it, for who frees the old address.
        AreaWord::load(chunk.area(first)).release(chunk.area(first));
        let off = self.off();
        self.arena(&off).count_moved(info.pages);
        self.with_pool(&off, |pool| {
            let all = Pages::between(first - word.lead(), first + info.pages + 1);
            pool.give(self, chunk, all);
        });
    }
}
