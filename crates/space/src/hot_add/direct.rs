//! The direct map's part: which pieces the new range is mapped in, and what is merged with its neighbours.

use kspace_layout::{AreaKind, PageSize, PhysAddr, PhysRange, VirtAddr, VirtRange};
use kspace_paging::{
    Access, Editor, EntryFormat, Flush, FrameSource, Limits, PhysMemory, Protection, Walker,
};

use super::{HotAddError, Known};
use crate::direct_map::{Plan, Run};
use crate::image::{ImageError, ImageMap};
use crate::table_count::{Stretch, tables_needed};

/// The direct map of a new range.
#[derive(Clone, Copy)]
pub(super) struct Direct {
    range: PhysRange,
    /// Where physical address 0 is.
    base: VirtAddr,
    limits: Limits,
    image: Option<ImageMap>,
}

/// A part of the new range that is mapped in pages of one size.
struct Piece {
    phys: PhysRange,
    page: PageSize,
    access: Access,
}

impl Direct {
    /// Checks that nothing is mapped where the range belongs.
    pub(super) fn new<F: EntryFormat, M: PhysMemory, S: FrameSource>(
        editor: &Editor<'_, F, M, S>,
        next: &Known,
        range: PhysRange,
    ) -> Result<Self, HotAddError> {
        let area = next.layout.area(AreaKind::DirectMap);
        let base = area.ok_or(HotAddError::NoArea)?.range().start();
        let image = next.layout.image().map(ImageMap::try_new).transpose();
        let direct = Self {
            range,
            base,
            limits: editor.limits(),
            image: image.map_err(|error: ImageError| HotAddError::Image(error))?,
        };
        let walker =
            Walker::new(editor.mode(), editor.root(), editor.memory()).with_limits(editor.limits());
        match walker.runs(direct.virt(range)?).next() {
            None => Ok(direct),
            Some(Ok(found)) => Err(HotAddError::Mapped { found }),
            Some(Err(obstacle)) => Err(HotAddError::Unreadable(obstacle)),
        }
    }

    /// How many page tables it takes at most.
    pub(super) fn tables(&self, next: &Known) -> u64 {
        let stretch = |piece: Piece| -> Option<Stretch> {
            let virt = self.virt(piece.phys).ok()?;
            Some((virt.start().as_u64(), virt.last().as_u64(), piece.page))
        };
        tables_needed(next.layout.mode(), || self.pieces(next).filter_map(stretch))
    }

    /// Maps the range, as far as pages lie wholly in it.
    pub(super) fn map<F: EntryFormat, M: PhysMemory, S: FrameSource>(
        &self,
        editor: &Editor<'_, F, M, S>,
        next: &Known,
    ) -> Result<(), HotAddError> {
        for piece in self.pieces(next) {
            let (virt, start) = (self.virt(piece.phys)?, piece.phys.start());
            editor
                .map(virt, start, Protection::kernel(piece.access), piece.page)
                .map_err(HotAddError::Edit)?;
        }
        Ok(())
    }

    /// Makes larger pages of the range and what was around it, where the plan has such.
    pub(super) fn merge<F: EntryFormat, M: PhysMemory, S: FrameSource>(
        &self,
        editor: &Editor<'_, F, M, S>,
        next: &Known,
    ) -> Result<Flush, HotAddError> {
        let mut flush = Flush::nothing();
        for run in self.runs(next) {
            let part = run.phys.intersection(grown(self.range, run.page));
            let Some(part) = part.filter(|_| run.page > PageSize::Size4K) else {
                continue;
            };
            let merged = editor
                .merge(self.virt(part)?, run.page)
                .map_err(HotAddError::Edit)?;
            flush.absorb(merged, editor.memory());
        }
        Ok(flush)
    }

    /// The runs of the whole plan that have a part of the range.
    fn runs<'a>(&'a self, next: &'a Known) -> impl Iterator<Item = Run> + 'a {
        let mut plan = Plan::for_layout(&next.layout, &next.map, self.limits);
        if let Some(image) = &self.image {
            plan = plan.with_image(image);
        }
        plan.runs().filter(|run| run.phys.overlaps(self.range))
    }

    /// What of the range is mapped in which pages, in order of address.
    fn pieces<'a>(&'a self, next: &'a Known) -> impl Iterator<Item = Piece> + 'a {
        self.runs(next).flat_map(|run| {
            let part = run.phys.intersection(self.range);
            let cut = part.map(|part| cut(part, run.page)).unwrap_or_default();
            cut.into_iter().flatten().map(move |(phys, page)| Piece {
                phys,
                page,
                access: run.access,
            })
        })
    }

    fn virt(&self, phys: PhysRange) -> Result<VirtRange, HotAddError> {
        self.base
            .checked_add(phys.start().as_u64())
            .and_then(|start| VirtRange::try_new(start, phys.size()))
            .map_err(|_| HotAddError::NoArea)
    }
}

/// A part of a run of `page`, cut where whole pages of that size begin and end; what is left at the ends is in smaller pages.
fn cut(part: PhysRange, page: PageSize) -> [Option<(PhysRange, PageSize)>; 3] {
    let smaller = match page {
        PageSize::Size1G => PageSize::Size2M,
        _ => PageSize::Size4K,
    };
    let (start, end) = (part.start().as_u64(), part.end_u64());
    let first = start.next_multiple_of(page.bytes()).min(end);
    let last = (end & !(page.bytes() - 1)).max(first);
    let piece = |start: u64, end: u64, page| {
        let start = PhysAddr::try_new(start).ok()?;
        let phys = PhysRange::try_new(start, end - start.as_u64()).ok()?;
        Some((phys, page))
    };
    [
        piece(start, first, smaller),
        piece(first, last, page),
        piece(last, end, smaller),
    ]
}

/// The range grown to whole pages.
fn grown(range: PhysRange, page: PageSize) -> PhysRange {
    let start = range.start().align_down(page.bytes());
    let last = range.last().as_u64() | (page.bytes() - 1);
    let last = PhysAddr::try_new(last).unwrap_or(PhysAddr::LAST);
    PhysRange::try_from_bounds(start, last).unwrap_or(range)
}
