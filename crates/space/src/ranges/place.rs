//! Where a request goes: which free range, and which page of it.

use kspace_layout::VirtRange;
use kspace_paging::{FrameSource, PhysMemory};

use super::tree::{BySize, Span, Tree, size_key};
use super::{AllocateError, Ranges, Request};
use crate::words::NodeId;

/// How many ranges are looked at that are large enough but may lie badly, before one is taken that fits however it lies.
const TRIES: u32 = 16;

/// A request, checked and in page numbers.
#[derive(Clone, Copy)]
pub(super) struct Fit {
    pages: u64,
    align: u64,
    /// Where the pages may lie.
    window: Span,
    /// Whether that is less than the area.
    windowed: bool,
}

impl Fit {
    /// The lowest place in `free`; `None` when there is none.
    fn lowest(&self, free: Span) -> Option<u64> {
        let start = free.start.max(self.window.start);
        let end = free.end().min(self.window.end());
        // Page numbers and sizes are at most 2^52, alignments at most 2^63: nothing wraps.
        let start = (start + (self.align - 1)) & !(self.align - 1);
        (start + self.pages <= end).then_some(start)
    }

    /// How many places there are in `free`.
    fn count(&self, free: Span) -> u64 {
        let end = free.end().min(self.window.end());
        self.lowest(free)
            .map_or(0, |lowest| (end - self.pages - lowest) / self.align + 1)
    }

    /// The least order whose every range that is large enough has a place.
    const fn certain_order(&self) -> u32 {
        // An aligned block that is as long as the alignment starts at a place; one as long as the request holds it.
        let pages = self.pages.next_power_of_two();
        let order = if pages > self.align {
            pages
        } else {
            self.align
        };
        order.ilog2()
    }
}

/// A place in a free range.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) node: NodeId,
    /// The free range.
    pub(super) span: Span,
    /// The first page.
    pub(super) start: u64,
}

impl Place {
    /// What best fit goes by: the size of the free range, then its address.
    const fn key(&self) -> u128 {
        size_key(self.span.pages, self.span.start)
    }
}

/// How a search goes on.
struct Search {
    /// Ranges that may still be looked at in vain.
    tries: u32,
    /// Whether ranges that are large enough were passed over.
    passed_over: bool,
}

impl<M: PhysMemory, F: FrameSource> Ranges<'_, M, F> {
    /// Where `request` goes.
    pub(super) fn place(&self, request: &Request) -> Result<Place, AllocateError> {
        if request.pages == 0 {
            return Err(AllocateError::NoPages);
        }
        if !request.align.is_power_of_two() {
            return Err(AllocateError::Alignment(request.align));
        }
        let window = match request.window {
            None => Some(self.area),
            Some(range) => self.window(range)?,
        };
        let Some(window) = window.filter(|_| request.pages <= self.free_pages) else {
            return Err(self.no_space(request));
        };
        let fit = Fit {
            pages: request.pages,
            align: request.align,
            window,
            windowed: window != self.area,
        };
        match request.random {
            None => self.best(&fit),
            Some(number) => self.random(&fit, number),
        }
        .ok_or_else(|| self.no_space(request))
    }

    /// The whole pages of the area that lie in `range`.
    #[cold]
    #[inline(never)]
    fn window(&self, range: VirtRange) -> Result<Option<Span>, AllocateError> {
        let area = self.area();
        let inside = range
            .intersection(area)
            .ok_or(AllocateError::Outside { range, area })?;
        Ok(inside.whole_pages().and_then(Span::of))
    }

    #[cold]
    #[inline(never)]
    fn no_space(&self, request: &Request) -> AllocateError {
        AllocateError::NoSpace {
            pages: request.pages,
            align: request.align,
            window: request.window.unwrap_or(self.area()),
            free: self.free_pages,
            largest: self.largest_free(),
        }
    }

    /// The smallest free range that holds `fit`, the lowest among equals. When [`TRIES`] ranges were looked at in vain, perhaps
    /// not the smallest.
    fn best(&self, fit: &Fit) -> Option<Place> {
        let mut search = Search {
            tries: TRIES,
            passed_over: false,
        };
        // A range has less than four times as many pages as its block. So in orders below these all are too small; and when one
        // order has a place, only the next can have it in a smaller range.
        let mut orders = self.orders & (u64::MAX << fit.pages.ilog2().saturating_sub(1));
        while orders != 0 {
            let order = orders.trailing_zeros();
            if let Some(place) = self.best_of_order(order, fit, &mut search) {
                let next = order + 1;
                if orders & (1 << next) == 0 || place.span.pages < 1 << next {
                    return Some(place);
                }
                let other = self.best_of_order(next, fit, &mut search);
                return other
                    .filter(|other| other.key() < place.key())
                    .or(Some(place));
            }
            orders &= orders - 1;
        }
        if search.passed_over {
            return self.best_of_all(fit);
        }
        None
    }

    /// The same, among the ranges of one order.
    fn best_of_order(&self, order: u32, fit: &Fit, search: &mut Search) -> Option<Place> {
        let (mut node, mut span) = self.sized(order, fit.pages)?;
        loop {
            if let Some(start) = fit.lowest(span) {
                return Some(Place { node, span, start });
            }
            debug_assert!(fit.windowed || order < fit.certain_order());
            if search.tries == 0 {
                break;
            }
            search.tries -= 1;
            node = Tree::<BySize>::next(&self.slab, node)?;
            span = self.span(node);
        }
        search.passed_over = true;
        // So many pages have an aligned one among the first `align`, and all of the request after it.
        let certain = fit.pages + (fit.align - 1);
        let (node, span) = self.sized(order, certain)?;
        let start = fit.lowest(span)?;
        Some(Place { node, span, start })
    }

    /// The smallest range of an order with `pages` pages or more, the lowest among equals.
    #[inline]
    fn sized(&self, order: u32, pages: u64) -> Option<(NodeId, Span)> {
        let tree = &self.by_size[order as usize];
        let node = tree.at_or_after(&self.slab, size_key(pages, 0))?;
        Some((node, self.span(node)))
    }

    /// The same as [`best`](Self::best), by looking at every range of the window.
    #[cold]
    #[inline(never)]
    fn best_of_all(&self, fit: &Fit) -> Option<Place> {
        self.places(fit).min_by_key(Place::key)
    }

    /// The place that `number` draws, of all that there are.
    #[cold]
    #[inline(never)]
    fn random(&self, fit: &Fit, number: u64) -> Option<Place> {
        let total: u64 = self.places(fit).map(|place| fit.count(place.span)).sum();
        // `number` is to 2^64 as the place drawn is to all.
        let mut drawn = ((u128::from(number) * u128::from(total)) >> 64) as u64;
        self.places(fit).find_map(|place| {
            let count = fit.count(place.span);
            if drawn < count {
                let start = place.start + drawn * fit.align;
                return Some(Place { start, ..place });
            }
            drawn -= count;
            None
        })
    }

    /// The lowest place of each free range that has one, ascending.
    fn places(&self, fit: &Fit) -> impl Iterator<Item = Place> {
        let (below, _, _) = self.by_address.around(&self.slab, fit.window.start);
        let from = below.map_or(0, |node| self.span(node).start);
        self.nodes_from(from)
            .map(|node| (node, self.span(node)))
            .take_while(|(_, span)| span.start < fit.window.end())
            .filter_map(|(node, span)| {
                let start = fit.lowest(span)?;
                Some(Place { node, span, start })
            })
    }
}
