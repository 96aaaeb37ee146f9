//! Making a large area: placed, filled, known; or undone.

use kspace_frames::Order;
use kspace_layout::{FRAME_SIZE, PageSize, Pfn, VirtAddr, VirtRange};

use super::fill::{Filler, NoTable};
use super::resize::at_page;
use crate::ranges;
use crate::vmalloc::allocate::{Checked, Shortage, want_of};
use crate::vmalloc::caller::Caller;
use crate::vmalloc::state::Vmalloc;
use crate::vmalloc::{AreaError, AreaFrames, AreaRequest, Kernel, Want};

/// The frames of an area to be made.
#[derive(Clone, Copy)]
pub(super) enum Source<'f> {
    /// Its own.
    Own(Want),
    /// Given ones: of each page the frame.
    Given(&'f dyn Fn(u64) -> Pfn),
}

/// An area is not whole: so many of its pages are mapped.
pub(super) struct Partial {
    pub(super) mapped: u64,
    pub(super) shortage: Shortage,
}

impl<'a, K: Kernel, const CPUS: usize> Vmalloc<'a, K, CPUS> {
    /// A large area with frames of its own.
    #[cold]
    pub(in crate::vmalloc) fn allocate_large(
        &self,
        request: &AreaRequest,
        checked: Checked,
        caller: Caller,
    ) -> Result<VirtRange, AreaError> {
        self.check_memory(checked)?;
        let want = want_of(request);
        self.make_large(request, checked, caller, Source::Own(want))
    }

    /// Refuses what no machine could fill.
    pub(in crate::vmalloc) fn check_memory(&self, checked: Checked) -> Result<(), AreaError> {
        let (pages, memory) = (checked.pages, self.frames().total());
        if pages > memory {
            return Err(AreaError::BeyondMemory { pages, memory });
        }
        Ok(())
    }

    /// A large area that maps given frames.
    #[cold]
    pub(in crate::vmalloc) fn map_large(
        &self,
        request: &AreaRequest,
        checked: Checked,
        caller: Caller,
        frame: &dyn Fn(u64) -> Pfn,
    ) -> Result<VirtRange, AreaError> {
        self.make_large(request, checked, caller, Source::Given(frame))
    }

    /// When something runs out, all that was freed is purged, and then it is tried again.
    fn make_large(
        &self,
        request: &AreaRequest,
        checked: Checked,
        caller: Caller,
        source: Source<'_>,
    ) -> Result<VirtRange, AreaError> {
        let first = self.try_large(request, checked, caller, source);
        first.or_else(|_| {
            self.after_purges(|| self.try_large(request, checked, caller, source))
                .map_err(|shortage| self.explain(checked, &shortage))
        })
    }

    fn try_large(
        &self,
        request: &AreaRequest,
        checked: Checked,
        caller: Caller,
        source: Source<'_>,
    ) -> Result<VirtRange, Shortage> {
        let whole = self.place_large(checked, request, source)?;
        let range = VirtRange::new(whole.start(), checked.pages * FRAME_SIZE);
        let made = self.fill_large(range, request, source).and_then(|()| {
            let known = self.with_books(&self.off(), |books| books.add(range, request, caller));
            known.then_some(()).ok_or(Partial {
                mapped: checked.pages,
                shortage: Shortage::Tables,
            })
        });
        made.map(|()| range).map_err(|partial| {
            self.take_away(
                range.start(),
                partial.mapped,
                matches!(source, Source::Own(_)),
            );
            let freed = self.with_space(&self.off(), |space| space.free(whole));
            debug_assert!(freed.is_ok(), "it was allocated just now");
            partial.shortage
        })
    }

    /// Addresses for the area and its guard: at a multiple of the largest page that it can be made of, if there is such a place.
    pub(super) fn place_large(
        &self,
        checked: Checked,
        request: &AreaRequest,
        source: Source<'_>,
    ) -> Result<VirtRange, Shortage> {
        let wanted = [3, 2].map(|level| self.large_page(level, checked, request, source));
        let aligns = wanted
            .into_iter()
            .flatten()
            .filter(|&align| align > checked.align);
        let off = self.off();
        self.with_space(&off, |space| {
            for align in aligns.chain([checked.align]) {
                let request = ranges::Request::pages(checked.pages + 1).aligned(align);
                let request = self.drawn(request);
                match space.allocate(&request) {
                    Ok(range) => return Ok(range),
                    Err(ranges::AllocateError::NoSpace { .. }) => {}
                    Err(_) => return Err(Shortage::Tables),
                }
            }
            Err(Shortage::Space)
        })
    }

    /// How many pages a page of this level stands for, if the area can have one.
    fn large_page(
        &self,
        level: u8,
        checked: Checked,
        request: &AreaRequest,
        source: Source<'_>,
    ) -> Option<u64> {
        if request.small_pages {
            return None;
        }
        let tables = self.tables();
        let pages = tables.mode().leaf_size(level)?.bytes() / FRAME_SIZE;
        let possible = match source {
            // Of the largest, there may be none: then smaller ones are taken, and nothing but addresses is lost.
            Source::Own(_) => true,
            Source::Given(frame) => frame(0).as_u64().is_multiple_of(pages),
        };
        let largest = tables
            .limits()
            .largest_leaf_level(tables.mode(), PageSize::Size1G);
        // Entries of the root lead to tables for good: other roots have copies of them.
        let has = level <= largest && level < tables.mode().levels();
        (has && possible && pages <= checked.pages).then_some(pages)
    }

    /// Maps all of `range`.
    pub(super) fn fill_large(
        &self,
        range: VirtRange,
        request: &AreaRequest,
        source: Source<'_>,
    ) -> Result<(), Partial> {
        let mut filler = Filler::new(*self.tables(), request);
        let pages = range.size() / FRAME_SIZE;
        match source {
            Source::Own(want) => self.fill_own(&mut filler, range.start(), pages, request, want),
            Source::Given(frame) => fill_given::<K>(&mut filler, range.start(), pages, frame),
        }
    }

    fn fill_own(
        &self,
        filler: &mut FillerOf<'a, K>,
        start: VirtAddr,
        pages: u64,
        request: &AreaRequest,
        want: Want,
    ) -> Result<(), Partial> {
        let mut mapped = 0;
        let mut largest = self.largest_block();
        let mut row = self.row_pages(request);
        while mapped < pages {
            let at = at_page(start, mapped);
            let fits = row.filter(|row| *row <= pages - mapped && at.is_aligned(*row * FRAME_SIZE));
            if let Some(count) = fits {
                match self.take_aligned(count, want) {
                    Some(first) => {
                        self.map_row(filler, at, first, count, mapped)?;
                        mapped += count;
                    }
                    // The others will not be there either.
                    None => row = None,
                }
                continue;
            }
            let fits = Order::largest_in((pages - mapped) as usize).unwrap_or(Order::FRAME);
            let order = largest.min(fits);
            // Interrupts are off for one block, which may have to be filled with zeros.
            let taken = self.frames().take(&self.off(), order, want);
            let Some(first) = taken else {
                largest = order.smaller().ok_or(Partial {
                    mapped,
                    shortage: Shortage::Frames { filled: mapped },
                })?;
                continue;
            };
            let count = order.frames() as u64;
            self.map_row(filler, at, first, count, mapped)?;
            mapped += count;
        }
        Ok(())
    }

    /// Maps frames that were just taken, behind `mapped` pages.
    fn map_row(
        &self,
        filler: &mut FillerOf<'a, K>,
        at: VirtAddr,
        first: Pfn,
        count: u64,
        mapped: u64,
    ) -> Result<(), Partial> {
        filler
            .map(at, first, count)
            .map_err(|NoTable { mapped: part }| {
                if part == 0 {
                    self.give_blocks(first, count);
                }
                Partial {
                    mapped: mapped + part,
                    shortage: Shortage::Tables,
                }
            })
    }

    /// Frames for a page that is larger than any block.
    fn take_aligned(&self, count: u64, want: Want) -> Option<Pfn> {
        let first = self.frames().take_aligned(&self.off(), count, want)?;
        if want.zeroed {
            // In parts: the hook may keep interrupts off for each.
            let part = Order::HUGE.frames() as u64;
            for done in (0..count).step_by(Order::HUGE.frames()) {
                let at = Pfn::new(first.as_u64() + done);
                self.frames().clear_aligned(at, part.min(count - done));
            }
        }
        Some(first)
    }

    /// How many pages the largest page stands for, where that is more than a block has.
    fn row_pages(&self, request: &AreaRequest) -> Option<u64> {
        let tables = self.tables();
        let pages = tables.mode().leaf_size(3)?.bytes() / FRAME_SIZE;
        let limits = tables.limits();
        let largest = limits.largest_leaf_level(tables.mode(), PageSize::Size1G);
        (largest >= 3 && tables.mode().levels() > 3 && !request.small_pages).then_some(pages)
    }

    /// The largest block that is worth having: one large page. Larger ones would be split among several entries anyhow, and keep
    /// interrupts off for longer.
    fn largest_block(&self) -> Order {
        let size = self.tables().mode().leaf_size(2);
        let frames = size.map_or(1, |size| size.bytes() / FRAME_SIZE);
        Order::largest_in(frames as usize).unwrap_or(Order::HUGE)
    }

    /// Takes away `mapped` pages of an area that did not come to be or has moved, or of what was to be added to one. They are flushed when
    /// this returns, and their frames freed, if they are `owned`.
    pub(super) fn take_away(&self, start: VirtAddr, mapped: u64, owned: bool) {
        if mapped == 0 {
            return;
        }
        let range = VirtRange::new(start, mapped * FRAME_SIZE);
        let token = match self.tables().park(range) {
            Ok(token) => token,
            Err(error) => panic!("entries of a new area were changed by somebody else: {error}"),
        };
        token.flush(self.shootdown(), self.memory(), self.frames());
        // SAFETY: the token has just been flushed.
        unsafe { self.collect_large(range, owned) };
    }
}

type FillerOf<'a, K> =
    Filler<'a, <K as Kernel>::Format, <K as Kernel>::Memory, <K as Kernel>::Frames>;

/// Maps given frames, in runs that are as long as they are.
fn fill_given<K: Kernel>(
    filler: &mut FillerOf<'_, K>,
    start: VirtAddr,
    pages: u64,
    frame: &dyn Fn(u64) -> Pfn,
) -> Result<(), Partial> {
    let mut mapped = 0;
    while mapped < pages {
        let first = frame(mapped);
        let follows = |&count: &u64| frame(mapped + count).as_u64() == first.as_u64() + count;
        let more = (1..pages - mapped).take_while(follows).count() as u64;
        filler
            .map(at_page(start, mapped), first, 1 + more)
            .map_err(|NoTable { mapped: part }| Partial {
                mapped: mapped + part,
                shortage: Shortage::Tables,
            })?;
        mapped += 1 + more;
    }
    Ok(())
}
