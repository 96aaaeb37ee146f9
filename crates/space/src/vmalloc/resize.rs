//! Giving a live area another size: where it is, or at another place.
//!
//! ```text
//!   grow     | pages of the area | guard | free addresses ...         the guard becomes a page of the area,
//!            | pages of the area   more pages   | guard | free ...    and the last of the new addresses the guard
//!
//!   shrink   | pages of the area                | guard |             the first of the pages that go becomes the guard
//!            | pages of the area | guard | free addresses ...
//!
//!   move     | pages | guard |     ...     | the same frames | new ones | guard |
//!              gone                          nothing is copied
//! ```
//!
//! What goes away is flushed before the call returns, and then free: frames and addresses do not wait for a purge. They could not wait
//! by themselves, because the area, by which the purge would know them, lives on; and frames that move stay in use, so that an old
//! translation of them must not outlive the call.
//!
//! A failure leaves the area as it was.

use core::fmt;
use core::panic::Location;

use kspace_layout::{FRAME_SIZE, PageSize, Pfn, VirtAddr, VirtRange};
use kspace_paging::{Invalidation, LeafSlot, Stale};

use super::allocate::{Checked, Shortage};
use super::caller::Caller;
use super::chunk::Chunk;
use super::pages::{CHUNK_PAGES, Pages};
use super::slot::{AreaWord, SMALL_PAGES};
use super::state::Vmalloc;
use super::{AreaError, AreaFrames, AreaInfo, AreaRequest, Kernel, State};

/// What came of a request for another size in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resized {
    /// The area is there, with at least what was asked for. These are its addresses: more than that when it could not be cut there.
    InPlace(VirtRange),
    /// The addresses behind the area are taken. Nothing was changed.
    Elsewhere,
}

/// Why an area could not get another size. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeError {
    /// No live area of the kind that was asked for begins there.
    NoArea {
        /// The address.
        address: VirtAddr,
        /// What is there instead.
        found: Option<AreaInfo>,
    },
    /// The area may be mapped in user spaces, which have its frames: it stays where it is, and does not shrink.
    ForUsers(VirtRange),
    /// Pages of the area are [changed](crate::permissions).
    Changed(VirtRange),
    /// There could be no area of that size.
    Area(AreaError),
}

impl fmt::Display for ResizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoArea { address, found } => {
                write!(f, "vmalloc: resize {address}: no such area begins there")?;
                match found {
                    None => f.write_str("; give the address that allocating it returned"),
                    Some(found) if found.state == State::Freed => {
                        write!(f, "; {} was freed", found.range)
                    }
                    Some(found) => write!(f, "; there is {}, for {}", found.range, found.kind),
                }
            }
            Self::ForUsers(range) => write!(
                f,
                "vmalloc: resize {range}: it may be mapped in user spaces, so it can only grow where it is; allocate another one"
            ),
            Self::Changed(range) => write!(
                f,
                "vmalloc: resize {range}: pages of it are changed; restore them first"
            ),
            Self::Area(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ResizeError {}

impl<'a, K: Kernel, const CPUS: usize> Vmalloc<'a, K, CPUS> {
    /// Gives the area at `start` the size that `request` says, which is otherwise the request that it was made by, if that can be done
    /// where it is. What it has already stays as it is; new pages are zeros if the request says so.
    ///
    /// A shrunk area's last pages are gone when this returns: an access faults on every CPU. A cut inside a large page splits it. Where the
    /// frames cannot be cut, the area keeps more than was asked for, as the range says that is returned.
    ///
    /// # Errors
    ///
    /// [`ResizeError`].
    ///
    /// # Safety
    ///
    /// The area is the caller's: nobody else frees or resizes it meanwhile, and nobody uses what goes away.
    pub unsafe fn resize(
        &self,
        start: VirtAddr,
        request: &AreaRequest,
    ) -> Result<Resized, ResizeError> {
        let (info, checked) = self.check_resize(start, request)?;
        self.resize_in_place(info, request, checked)
    }

    /// As [`resize`](Self::resize), and where there is no room, the area's frames move to another place, with new ones behind them. Nothing
    /// is copied, and its old addresses fault on every CPU when this returns. Returns where the area is now (Linux: `vrealloc`).
    ///
    /// All pages that move have the rights that the request says.
    ///
    /// # Errors
    ///
    /// [`ResizeError`].
    ///
    /// # Safety
    ///
    /// As for [`resize`](Self::resize); nobody uses the area meanwhile.
    #[track_caller]
    pub unsafe fn reallocate(
        &self,
        start: VirtAddr,
        request: &AreaRequest,
    ) -> Result<VirtRange, ResizeError> {
        let caller = Location::caller();
        let (info, checked) = self.check_resize(start, request)?;
        match self.resize_in_place(info, request, checked)? {
            Resized::InPlace(range) => Ok(range),
            Resized::Elsewhere if info.user => Err(ResizeError::ForUsers(info.range)),
            Resized::Elsewhere => self
                .move_area(info, request, checked, Caller::of(caller))
                .map_err(ResizeError::Area),
        }
    }

    fn check_resize(
        &self,
        start: VirtAddr,
        request: &AreaRequest,
    ) -> Result<(AreaInfo, Checked), ResizeError> {
        let checked = self.check(request, true).map_err(ResizeError::Area)?;
        let found = self.find(start);
        let info = found.filter(|info| {
            info.range.start() == start && info.state == State::Live && info.kind == request.kind
        });
        match info {
            Some(info) if info.changed => Err(ResizeError::Changed(info.range)),
            Some(info) => Ok((info, checked)),
            None => Err(ResizeError::NoArea {
                address: start,
                found,
            }),
        }
    }

    /// When something runs out, all that was freed is purged, and then it is tried again.
    fn resize_in_place(
        &self,
        info: AreaInfo,
        request: &AreaRequest,
        checked: Checked,
    ) -> Result<Resized, ResizeError> {
        if checked.pages == info.pages {
            return Ok(Resized::InPlace(info.range));
        }
        if checked.pages < info.pages && info.user {
            return Err(ResizeError::ForUsers(info.range));
        }
        if checked.pages > info.pages {
            self.check_memory(checked).map_err(ResizeError::Area)?;
        }
        // User mode may see all of it, whoever asks for more.
        let request = &if info.user {
            request.zeroed()
        } else {
            *request
        };
        let resize = || match self.large_at(info.range.start()) {
            Some(entry) if checked.pages > info.pages => self.grow(entry, request, checked),
            Some(entry) => self.shrink(entry, checked),
            None if checked.pages > info.pages => self.grow_small(info, request, checked),
            None => self.shrink_small(info, checked),
        };
        let resized = resize().or_else(|_| self.after_purges(resize));
        resized.map_err(|shortage| ResizeError::Area(self.explain(checked, &shortage)))
    }

    /// The chunk of a live small area, its first page there, and its word.
    pub(super) fn small_at(&self, start: VirtAddr) -> (Chunk<'a>, u64, AreaWord) {
        let off = self.off();
        let chunk = self.chunk_of(&off, self.number_of(start)).chunk;
        let first = start.as_u64() / FRAME_SIZE % CHUNK_PAGES;
        (chunk, first, AreaWord::load(chunk.area(first)))
    }

    fn grow_small(
        &self,
        info: AreaInfo,
        request: &AreaRequest,
        checked: Checked,
    ) -> Result<Resized, Shortage> {
        let (chunk, first, word) = self.small_at(info.range.start());
        let (old, pages) = (info.pages, checked.pages);
        let (behind, end) = (first + old + 1, first + pages + 1);
        if pages > SMALL_PAGES || end > CHUNK_PAGES {
            return Ok(Resized::Elsewhere);
        }
        let off = self.off();
        let taken = self.with_pool(&off, |pool| {
            // What follows an area is most often what its CPU has for the next ones.
            for run in self.arena(&off).take_runs() {
                self.give_run(&off, pool, run);
            }
            pool.take(self, chunk, behind, end)
        });
        if !taken {
            return Ok(Resized::Elsewhere);
        }
        let (table, slot) = (self.leaf_table(chunk), self.slot_of(chunk, first + old));
        let filled = self.fill(&off, table, slot, pages - old, request);
        if let core::ops::ControlFlow::Break(filled) = filled {
            table.park(slot, filled as usize);
            drop(off);
            self.collect_flushed(chunk, first + old, filled, true);
            let off = self.off();
            self.with_pool(&off, |pool| {
                pool.give(self, chunk, Pages::between(behind, end));
            });
            let filled = old + filled;
            return Err(Shortage::Frames { filled });
        }
        word.resized(pages).publish(chunk.area(first));
        self.arena(&off).count_pages(pages - old);
        Ok(Resized::InPlace(self.range_of(
            chunk.number(),
            first,
            pages,
        )))
    }

    fn shrink_small(&self, info: AreaInfo, checked: Checked) -> Result<Resized, Shortage> {
        let (chunk, first, word) = self.small_at(info.range.start());
        let (old, pages) = (info.pages, checked.pages);
        let table = self.leaf_table(chunk);
        let frame = |page| match table.load(self.slot_of(chunk, first + page)) {
            LeafSlot::Page(frame) => Some(frame),
            _ => None,
        };
        if !self.is_cut(frame(pages - 1), frame(pages)) {
            return Ok(Resized::InPlace(info.range));
        }
        if self.modes.poison {
            self.poison_range(self.range_of(chunk.number(), first + pages, old - pages));
        }
        table.park(self.slot_of(chunk, first + pages), (old - pages) as usize);
        self.collect_flushed(chunk, first + pages, old - pages, true);
        word.resized(pages).publish(chunk.area(first));
        let off = self.off();
        self.arena(&off).count_pages((old - pages).wrapping_neg());
        self.with_pool(&off, |pool| {
            let back = Pages::between(first + pages + 1, first + old + 1);
            pool.give(self, chunk, back);
        });
        Ok(Resized::InPlace(self.range_of(
            chunk.number(),
            first,
            pages,
        )))
    }

    /// Whether the frames of two neighbouring pages belong to different blocks, or do now.
    pub(super) fn is_cut(&self, before: Option<Pfn>, at: Option<Pfn>) -> bool {
        match (before, at) {
            (Some(before), Some(at)) if before.as_u64() + 1 == at.as_u64() => {
                self.frames().cut(&self.off(), at)
            }
            (Some(_), Some(_)) => true,
            // Not mapped as it was made: somebody else has changed it.
            _ => false,
        }
    }

    /// Flushes parked pages of a chunk on all CPUs, clears them, and frees their frames, if they are `owned`.
    pub(super) fn collect_flushed(&self, chunk: Chunk<'a>, first: u64, pages: u64, owned: bool) {
        if pages == 0 {
            return;
        }
        let range = self.range_of(chunk.number(), first, pages);
        self.shootdown().invalidate_all([Invalidation::Range(Stale {
            range,
            page: PageSize::Size4K,
            global: true,
            tables: false,
            root: false,
        })]);
        let off = self.off();
        let each = |frame: Pfn, count: usize| {
            if owned {
                self.give_frames(&off, frame, count as u64);
            }
        };
        let (table, slot) = (self.leaf_table(chunk), self.slot_of(chunk, first));
        // SAFETY: the pages are the caller's, who parked them, and all CPUs have been flushed since.
        unsafe { table.collect(slot, pages as usize, each) };
    }
}
