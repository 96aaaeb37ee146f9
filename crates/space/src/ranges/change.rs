//! Giving addresses out and taking them back.
//!
//! Everything is checked, and every node is there, before the first change.

use kspace_layout::VirtRange;
use kspace_paging::{FrameSource, PhysMemory};

use super::tree::{BySize, Gap, Span, Tree};
use super::{AllocateError, FreeError, Ranges, Request};
use crate::words::NodeId;

impl<M: PhysMemory, F: FrameSource> Ranges<'_, M, F> {
    /// Gives out addresses: of the smallest free range that holds them, the lowest among equals.
    ///
    /// With an alignment above one page and other than the size, the smallest range is sure to be found only among the 16 next
    /// larger ones; after these, one is taken that is large enough however it lies.
    ///
    /// # Errors
    ///
    /// [`AllocateError`]: `NoPages`, `Alignment`, `Outside` (the window), `NoSpace`, `NoFrame`.
    pub fn allocate(&mut self, request: &Request) -> Result<VirtRange, AllocateError> {
        let place = self.place(request)?;
        self.keep_nodes_for(self.allocations + 1)?;
        self.allocations += 1;
        let given = Span {
            start: place.start,
            pages: request.pages,
        };
        self.cut(place.node, place.span, given);
        Ok(given.range())
    }

    /// Gives out `range`, and no other.
    ///
    /// # Errors
    ///
    /// [`AllocateError`]: `Unaligned`, `Outside`, `NotFree`, `NoFrame`.
    pub fn allocate_at(&mut self, range: VirtRange) -> Result<(), AllocateError> {
        let (node, free, given) = self.free_around(range)?;
        self.keep_nodes_for(self.allocations + 1)?;
        self.allocations += 1;
        self.cut(node, free, given);
        Ok(())
    }

    /// Adds the free pages of `more` to the live allocation that ends before them, or starts after them. Needs no memory.
    ///
    /// # Errors
    ///
    /// [`AllocateError`]: `Unaligned`, `Outside`, `NotFree`, `Apart`.
    pub fn grow(&mut self, more: VirtRange) -> Result<(), AllocateError> {
        let (node, free, given) = self.free_around(more)?;
        // Free ranges do not touch: beside one, inside the area, something is live.
        let after_live = given.start == free.start && free.start > self.area.start;
        let before_live = given.end() == free.end() && free.end() < self.area.end();
        if !after_live && !before_live {
            return Err(AllocateError::Apart {
                range: more,
                free: free.range(),
            });
        }
        self.cut(node, free, given);
        Ok(())
    }

    /// Takes back what one allocation has: all of it. Needs no memory.
    ///
    /// # Errors
    ///
    /// [`FreeError`]: `Unaligned`, `Outside`, `AlreadyFree`, `Piece`.
    pub fn free(&mut self, range: VirtRange) -> Result<(), FreeError> {
        self.take_back(range, self.allocations.saturating_sub(1))?;
        self.note(range);
        Ok(())
    }

    /// As [`free`](Self::free), of addresses that were only held and never used: they do not count as
    /// [given back](Self::take_given_back).
    ///
    /// # Errors
    ///
    /// As [`free`](Self::free).
    pub fn let_go(&mut self, held: VirtRange) -> Result<(), FreeError> {
        self.take_back(held, self.allocations.saturating_sub(1))
    }

    /// Takes back the pages of `part`, first or last ones of an allocation that stays live. Needs no memory.
    ///
    /// # Errors
    ///
    /// [`FreeError`]: `Unaligned`, `Outside`, `AlreadyFree`, `Piece`.
    pub fn shrink(&mut self, part: VirtRange) -> Result<(), FreeError> {
        self.take_back(part, self.allocations)?;
        self.note(part);
        Ok(())
    }

    /// Takes note of addresses that were given back.
    fn note(&mut self, range: VirtRange) {
        let Some(back) = Span::of(range) else { return };
        let all = self.given_back.unwrap_or(back);
        let (start, end) = (all.start.min(back.start), all.end().max(back.end()));
        self.given_back = Some(Span::between(start, end));
    }

    /// Sees to it that there is a node for each free range that `allocations` live ones can leave.
    pub(super) fn keep_nodes_for(&mut self, allocations: u64) -> Result<(), AllocateError> {
        self.slab
            .reserve(allocations + 1)
            .map_err(|_| AllocateError::NoFrame)
    }

    /// The free range that holds all of `range`, and `range` in pages.
    fn free_around(&self, range: VirtRange) -> Result<(NodeId, Span, Span), AllocateError> {
        let wanted = Span::of(range).ok_or(AllocateError::Unaligned(range))?;
        if !self.area.contains(wanted) {
            let area = self.area();
            return Err(AllocateError::Outside { range, area });
        }
        let (below, above, _) = self.by_address.around(&self.slab, wanted.start);
        let below = below.map(|node| (node, self.span(node)));
        if let Some((node, free)) = below
            && free.contains(wanted)
        {
            return Ok((node, free, wanted));
        }
        let from = below.map_or(wanted.start, |(_, free)| free.end().max(wanted.start));
        let to = above.map_or(wanted.end(), |node| self.span(node).start.min(wanted.end()));
        let taken = Span::between(from, to).range();
        Err(AllocateError::NotFree { range, taken })
    }

    /// Cuts `given` out of the free range `free`.
    fn cut(&mut self, node: NodeId, free: Span, given: Span) {
        let before = Span::between(free.start, given.start);
        let after = Span::between(given.end(), free.end());
        match (before.pages > 0, after.pages > 0) {
            (false, false) => self.remove(node, free),
            (true, false) => self.resize(node, free, before),
            (false, true) => self.resize(node, free, after),
            (true, true) => {
                self.resize(node, free, before);
                let (_, _, gap) = self.by_address.around(&self.slab, after.start);
                self.insert(after, gap);
            }
        }
        self.free_pages -= given.pages;
    }

    /// Makes `range` free, after which `allocations` are live.
    fn take_back(&mut self, range: VirtRange, allocations: u64) -> Result<(), FreeError> {
        let back = Span::of(range).ok_or(FreeError::Unaligned(range))?;
        if !self.area.contains(back) {
            let area = self.area();
            return Err(FreeError::Outside { range, area });
        }
        let (below, above, gap) = self.by_address.around(&self.slab, back.start);
        let below = below.map(|node| (node, self.span(node)));
        let above = above.map(|node| (node, self.span(node)));
        if let Some((_, free)) = below
            && back.start < free.end()
        {
            let free = free.range();
            return Err(FreeError::AlreadyFree { range, free });
        }
        if let Some((_, free)) = above
            && free.start < back.end()
        {
            let free = free.range();
            return Err(FreeError::AlreadyFree { range, free });
        }
        let below = below.filter(|(_, free)| free.end() == back.start);
        let above = above.filter(|(_, free)| back.end() == free.start);
        // Between two free ranges something is live: more than one free range a live allocation, and one, cannot be. So the nodes that
        // are kept suffice.
        let merged = u64::from(below.is_some()) + u64::from(above.is_some());
        if self.range_count + 1 - merged > allocations + 1 {
            return Err(FreeError::Piece {
                range,
                allocations: self.allocations,
            });
        }
        match (below, above) {
            (None, None) => self.insert(back, gap),
            (Some((node, free)), None) => {
                self.resize(node, free, Span::between(free.start, back.end()));
            }
            (None, Some((node, free))) => {
                self.resize(node, free, Span::between(back.start, free.end()));
            }
            (Some((node, free)), Some((upper_node, upper))) => {
                self.remove(upper_node, upper);
                self.resize(node, free, Span::between(free.start, upper.end()));
            }
        }
        self.free_pages += back.pages;
        self.allocations = allocations;
        self.slab.trim(allocations + 1);
        Ok(())
    }

    /// Writes down a new free range, which touches no other and lies in `gap`.
    ///
    /// # Panics
    ///
    /// When no node was kept for it.
    pub(super) fn insert(&mut self, span: Span, gap: Gap) {
        let node = self.slab.take().expect("a node is kept for every range");
        span.store(self.slab.words(node));
        self.by_address.insert_at(&self.slab, node, gap);
        self.insert_by_size(node, span.order());
        self.range_count += 1;
    }

    fn remove(&mut self, node: NodeId, span: Span) {
        self.by_address.remove(&self.slab, node);
        self.remove_by_size(node, span.order());
        self.slab.put(node);
        self.range_count -= 1;
    }

    /// Moves an end of a free range. As ranges do not overlap, the order by address stays.
    fn resize(&mut self, node: NodeId, from: Span, to: Span) {
        let words = self.slab.words(node);
        let (order, new_order) = (from.order(), to.order());
        if order == new_order && Tree::<BySize>::is_alone(words) {
            // The rest of a large area is most often the only range of its order.
            to.store(words);
        } else {
            self.remove_by_size(node, order);
            to.store(words);
            self.insert_by_size(node, new_order);
        }
    }

    #[inline(never)]
    fn insert_by_size(&mut self, node: NodeId, order: u32) {
        self.by_size[order as usize].insert(&self.slab, node);
        self.orders |= 1 << order;
    }

    #[inline(never)]
    fn remove_by_size(&mut self, node: NodeId, order: u32) {
        let tree = &self.by_size[order as usize];
        tree.remove(&self.slab, node);
        if tree.is_empty() {
            self.orders &= !(1 << order);
        }
    }
}
