//! Making areas: checked, placed, filled, known.

use core::ops::ControlFlow;

use kspace_layout::{FRAME_SIZE, Pfn, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{FrameSource, LeafTable, Protection};

use super::arena::{LEAD, Run, Spot};
use super::caller::Caller;
use super::chunk::Chunk;
use super::lazy;
use super::pages::{CHUNK_PAGES, Pages};
use super::pool::{Books, Pool, Rest};
use super::slot::{AreaWord, SMALL_PAGES};
use super::state::{Known, Off, Vmalloc};
use super::{AreaError, AreaFrames, AreaRequest, Kernel, Want};
use crate::platform::Cpu;
use crate::ranges;

/// The largest alignment of an area in a chunk, in pages.
const SMALL_ALIGN: u64 = CHUNK_PAGES / 2;
/// Up to so many pages, frames are taken one by one. A run costs the allocator a search, however long it is; a single frame is at hand.
pub(super) const FEW: u64 = 8;

/// A request that was checked, in pages.
#[derive(Clone, Copy)]
pub(super) struct Checked {
    /// Without the guard.
    pub(super) pages: u64,
    pub(super) align: u64,
}

/// Something ran out: a purge may have it.
pub(super) enum Shortage {
    Space,
    Frames { filled: u64 },
    Tables,
}

impl Shortage {
    /// Pages that had got their frames.
    pub(super) const fn filled(&self) -> u64 {
        match *self {
            Self::Frames { filled } => filled,
            _ => 0,
        }
    }

    /// The same, when so many pages were there before.
    pub(super) const fn after(self, pages: u64) -> Self {
        match self {
            Self::Frames { filled } => Self::Frames {
                filled: pages + filled,
            },
            other => other,
        }
    }
}

impl<'a, K: Kernel, const CPUS: usize> Vmalloc<'a, K, CPUS> {
    /// An area with frames of its own, and an unmapped page after it. Returns its addresses, without that page. It is the caller's until
    /// it is [freed](Self::free).
    ///
    /// # Errors
    ///
    /// [`AreaError`].
    #[inline(always)]
    #[track_caller]
    pub fn allocate(&self, request: &AreaRequest) -> Result<VirtRange, AreaError> {
        let caller = Caller::here();
        match self.allocate_few(request, caller) {
            Some(start) => Ok(VirtRange::new(
                start,
                request.bytes.next_multiple_of(FRAME_SIZE),
            )),
            None => self.allocate_any(*request, caller),
        }
    }

    /// The way of nearly all requests: few pages, in this CPU's own run. `None` says nothing.
    ///
    /// Inlined, because most callers know what they want when they are compiled, and then half of this is folded away.
    #[inline(always)]
    fn allocate_few(&self, request: &AreaRequest, caller: Caller) -> Option<VirtAddr> {
        let align = request.align.max(FRAME_SIZE) / FRAME_SIZE;
        if request.bytes.wrapping_sub(1) >= FEW * FRAME_SIZE
            || align > SMALL_ALIGN
            || !request.align.is_power_of_two()
            || !request.kind.owns_frames()
            || request.user
            || request.protection != Protection::KERNEL_DATA
            || self.platform().is_atomic()
        {
            return None;
        }
        let pages = request.bytes.div_ceil(FRAME_SIZE);
        let off = self.off();
        let arena = self.arena(&off);
        let spot = arena.place(pages + 1, align)?;
        let Known { chunk, table } = self.chunk_of(&off, spot.number);
        let word = word_of(request, &spot, pages, caller);
        let slot = self.slot_of(chunk, spot.first);
        let (bits, want) = (self.bits(Protection::KERNEL_DATA), want_of(request));
        let mut at = slot;
        let filled = self.frames().take_singles(&off, pages, want, |frame| {
            table.fill(at, 1, frame, bits);
            at += 1;
        });
        if filled < pages {
            self.abandon(&off, chunk, spot.first, word, filled);
            return None;
        }
        word.publish(chunk.area(spot.first));
        arena.count_new(pages);
        Some(self.address_of(spot.number, spot.first))
    }

    /// As [`allocate`](Self::allocate), for any request.
    #[cold]
    #[inline(never)]
    fn allocate_any(&self, request: AreaRequest, caller: Caller) -> Result<VirtRange, AreaError> {
        let request = &request;
        let checked = self.check(request, true)?;
        // Only the books on large areas count user mappings.
        if checked.pages > SMALL_PAGES || checked.align > SMALL_ALIGN || request.user {
            return self.allocate_large(request, checked, caller);
        }
        self.make(request, checked, caller, |off, table, slot| {
            self.fill(off, table, slot, checked.pages, request)
        })
    }

    /// An area that maps given frames: `frame` tells that of each page. They are not freed with it.
    ///
    /// # Errors
    ///
    /// [`AreaError`].
    ///
    /// # Safety
    ///
    /// The caller may use these frames so, with the rights and the cache type that the request says, until the area is freed and purged.
    /// The machine's entries can name them.
    #[inline]
    #[track_caller]
    pub unsafe fn map(
        &self,
        request: &AreaRequest,
        frame: impl Fn(u64) -> Pfn,
    ) -> Result<VirtRange, AreaError> {
        self.map_for(request, Caller::here(), &frame)
    }

    /// As [`map`](Self::map), in the name of `caller`, whose contract is the same.
    #[inline]
    pub(super) fn map_for(
        &self,
        request: &AreaRequest,
        caller: Caller,
        frame: &impl Fn(u64) -> Pfn,
    ) -> Result<VirtRange, AreaError> {
        let checked = self.check(request, false)?;
        if checked.pages > SMALL_PAGES || checked.align > SMALL_ALIGN {
            return self.map_large(request, checked, caller, frame);
        }
        self.make(request, checked, caller, |_, table, slot| {
            let bits = self.bits(request.protection);
            for page in 0..checked.pages {
                table.fill(slot + page as usize, 1, frame(page), bits);
            }
            ControlFlow::Continue(())
        })
    }

    #[inline]
    pub(super) fn check(
        &self,
        request: &AreaRequest,
        owns_frames: bool,
    ) -> Result<Checked, AreaError> {
        let AreaRequest { bytes, align, .. } = *request;
        if bytes.wrapping_sub(1) >= self.area().size()
            || !align.is_power_of_two()
            || request.kind.owns_frames() != owns_frames
            || request.user && !request.is_for_users()
            || request.protection_problem().is_some()
            || self.platform().is_atomic()
        {
            return Err(self.refuse(request, owns_frames));
        }
        Ok(Checked {
            pages: bytes.div_ceil(FRAME_SIZE),
            align: (align / FRAME_SIZE).max(1),
        })
    }

    #[cold]
    fn refuse(&self, request: &AreaRequest, owns_frames: bool) -> AreaError {
        let AreaRequest { bytes, align, .. } = *request;
        if bytes == 0 {
            AreaError::Empty
        } else if bytes > self.area().size() {
            AreaError::TooLarge {
                bytes,
                within: self.area(),
            }
        } else if !align.is_power_of_two() {
            AreaError::Alignment { align }
        } else if request.kind.owns_frames() != owns_frames {
            AreaError::Kind(request.kind)
        } else if request.user && !request.is_for_users() {
            AreaError::UserMappable(request.kind)
        } else if let Some(problem) = request.protection_problem() {
            AreaError::Protection {
                protection: request.protection,
                kind: request.kind,
                problem,
            }
        } else {
            AreaError::AtomicContext
        }
    }

    /// A small area, with `fill` to fill its entries. When something runs out, all that was freed is purged, and then it is tried again.
    #[inline]
    fn make(
        &self,
        request: &AreaRequest,
        checked: Checked,
        caller: Caller,
        fill: impl Fn(&Off<K>, LeafTable<'a, K::Format>, usize) -> ControlFlow<u64>,
    ) -> Result<VirtRange, AreaError> {
        match self.try_make(request, checked, caller, &fill) {
            Ok(range) => Ok(range),
            Err(_) => self.make_again(request, checked, caller, &fill),
        }
    }

    #[cold]
    #[inline(never)]
    fn make_again(
        &self,
        request: &AreaRequest,
        checked: Checked,
        caller: Caller,
        fill: &impl Fn(&Off<K>, LeafTable<'a, K::Format>, usize) -> ControlFlow<u64>,
    ) -> Result<VirtRange, AreaError> {
        self.after_purges(|| self.try_make(request, checked, caller, fill))
            .map_err(|shortage| self.explain(checked, &shortage))
    }

    /// What is said about a shortage that a purge has not ended.
    pub(super) fn explain(&self, checked: Checked, shortage: &Shortage) -> AreaError {
        match *shortage {
            Shortage::Space => AreaError::NoSpace {
                pages: checked.pages + 1,
                align: checked.align,
                largest: self.with_space(&self.off(), |space| space.largest_free()),
                within: self.area(),
            },
            Shortage::Frames { filled } => AreaError::NoFrames {
                pages: checked.pages,
                filled,
            },
            Shortage::Tables => AreaError::NoTables,
        }
    }

    #[inline]
    fn try_make(
        &self,
        request: &AreaRequest,
        checked: Checked,
        caller: Caller,
        fill: &impl Fn(&Off<K>, LeafTable<'a, K::Format>, usize) -> ControlFlow<u64>,
    ) -> Result<VirtRange, Shortage> {
        let off = self.off();
        let spot = self.place(&off, checked)?;
        let Known { chunk, table } = self.chunk_of(&off, spot.number);
        let first = spot.first;
        let word = word_of(request, &spot, checked.pages, caller);
        if let ControlFlow::Break(filled) = fill(&off, table, self.slot_of(chunk, first)) {
            self.abandon(&off, chunk, first, word, filled);
            return Err(Shortage::Frames { filled });
        }
        word.publish(chunk.area(first));
        self.arena(&off).count_new(checked.pages);
        Ok(self.range_of(chunk.number(), first, checked.pages))
    }

    /// Fills entries with frames of the area's own. `Break`: how many pages had got theirs when there were no more.
    #[inline]
    pub(super) fn fill(
        &self,
        off: &Off<K>,
        table: LeafTable<'a, K::Format>,
        slot: usize,
        pages: u64,
        request: &AreaRequest,
    ) -> ControlFlow<u64> {
        let (bits, want) = (self.bits(request.protection), want_of(request));
        let mut at = slot;
        let mut each = |first, frames: u64| {
            table.fill(at, frames as usize, first, bits);
            at += frames as usize;
        };
        let filled = if pages <= FEW {
            let each = |frame| each(frame, 1);
            self.frames().take_singles(off, pages, want, each)
        } else {
            self.frames().take_run(off, pages, want, &mut each)
        };
        if filled < pages {
            return ControlFlow::Break(filled);
        }
        ControlFlow::Continue(())
    }

    /// Leaves an area whose frames ran out to the purge.
    #[cold]
    #[inline(never)]
    fn abandon(&self, off: &Off<K>, chunk: Chunk<'a>, first: u64, word: AreaWord, filled: u64) {
        let slot = self.slot_of(chunk, first);
        if self.modes.poison {
            self.poison_area(chunk, first, word, 0);
        }
        self.leaf_table(chunk).park(slot, filled as usize);
        word.abandon(chunk.area(first));
        self.defer(off, chunk, first);
        self.lazy
            .fetch_add(word.pages(), super::sync::Ordering::Relaxed);
    }

    /// Leaves an area whose entries are parked to the purge.
    #[inline]
    pub(super) fn defer(&self, _off: &Off<K>, chunk: Chunk<'a>, first: u64) {
        if lazy::set_lazy(chunk.lazy(), chunk.mark(), first / 2) {
            self.dirty.push(chunk.frame().as_u64(), chunk.dirty_next());
        }
    }

    /// A place for the pages and their guard.
    #[inline]
    fn place(&self, off: &Off<K>, checked: Checked) -> Result<Spot, Shortage> {
        let need = checked.pages + 1;
        match self.arena(off).place(need, checked.align) {
            Some(spot) => Ok(spot),
            None => self.place_slow(off, need, checked.align),
        }
    }

    /// A place outside this CPU's run.
    #[cold]
    #[inline(never)]
    fn place_slow(&self, off: &Off<K>, need: u64, align: u64) -> Result<Spot, Shortage> {
        if let Some(draws) = &self.modes.random {
            return self.place_random(off, draws, need, align);
        }
        let placed = self.with_pool(off, |pool| self.place_in(off, pool, None, need, align));
        if let Some(placed) = placed {
            return Ok(placed);
        }
        let chunk = self.make_chunk(off)?;
        let placed = self.with_pool(off, |pool| {
            pool.add(self, chunk);
            self.place_in(off, pool, Some(chunk), need, align)
        });
        placed.ok_or(Shortage::Space)
    }

    /// A place in the pool. What is left of the run that it lies in becomes this CPU's run, and what this CPU had goes back; but a place at a
    /// large alignment is taken by itself.
    fn place_in(
        &self,
        off: &Off<K>,
        pool: &mut Pool,
        preferred: Option<Chunk<'a>>,
        need: u64,
        align: u64,
    ) -> Option<Spot> {
        let (mut preferred, mut rest) = (preferred, Rest::Stays);
        if align <= LEAD {
            let old = self.arena(off).exchange(need, Run::NONE);
            preferred = self.give_run(off, pool, old).or(preferred);
            rest = Rest::Taken;
        }
        let found = pool.find(self, preferred, need, align, rest)?;
        let (number, first) = (found.chunk.number(), found.first);
        if rest == Rest::Taken {
            let run = Run::new(number, first + need, found.end);
            self.arena(off).exchange(need, run);
        }
        Some(Spot {
            number,
            first,
            lead: 0,
        })
    }

    /// Gives the rest of a run back to its chunk.
    pub(super) fn give_run(&self, off: &Off<K>, pool: &mut Pool, run: Run) -> Option<Chunk<'a>> {
        if run.left() == 0 {
            return None;
        }
        let chunk = self.chunk_of(off, run.number()).chunk;
        pool.give(
            self,
            chunk,
            Pages::between(run.next(), run.next() + run.left()),
        );
        Some(chunk)
    }

    /// A new chunk, with its page table, known in the index.
    pub(super) fn make_chunk(&self, off: &Off<K>) -> Result<Chunk<'a>, Shortage> {
        let books = self.frames().allocate().ok_or(Shortage::Tables)?;
        let made = self.with_space(off, |space| {
            let request = ranges::Request::pages(CHUNK_PAGES).aligned(CHUNK_PAGES);
            let request = self.drawn(request);
            let range = match space.allocate(&request) {
                Ok(range) => range,
                Err(ranges::AllocateError::NoSpace { .. }) => return Err(Shortage::Space),
                Err(_) => return Err(Shortage::Tables),
            };
            let made = self.make_chunk_at(books, range);
            if made.is_err() {
                let freed = space.free(range);
                debug_assert!(freed.is_ok(), "it was allocated just now");
            }
            made
        });
        if made.is_err() {
            self.frames().release(books);
        }
        made
    }

    /// The space is held.
    fn make_chunk_at(&self, books: PhysAddr, range: VirtRange) -> Result<Chunk<'a>, Shortage> {
        let number = self.number_of(range.start());
        let nodes = self.index.reserve(self, self.frames(), number);
        let nodes = nodes.map_err(|_| Shortage::Tables)?;
        let Ok(table) = self.tables().leaf_table(range.start()) else {
            nodes.release(self.frames());
            return Err(Shortage::Tables);
        };
        let chunk = self.chunk(books);
        chunk.begin(books, number, table.table());
        self.index.insert(self, number, books, nodes);
        Ok(chunk)
    }
}

/// The word of an area that is made for a request.
#[inline(always)]
fn word_of(request: &AreaRequest, spot: &Spot, pages: u64, caller: Caller) -> AreaWord {
    let node = request.node.map_or(0, |node| u64::from(node.get()) + 1);
    let word = AreaWord::live(spot.first, pages, request.kind as u64, node, caller.raw());
    word.with_lead(spot.lead)
}

/// What its frames are for.
#[inline]
pub(super) fn want_of(request: &AreaRequest) -> Want {
    Want {
        owner: request.kind.owner(),
        node: request.node,
        strict: request.strict,
        zeroed: request.zeroed,
    }
}
