//! Which pages are not as they were, what they were, and who changed them; and which large pages are split.
//!
//! ```text
//!   word 0   63         32 31   24 23    16 11      10      9  7  6  4  3  2  1  0
//!            |  caller   | 0     | code in  | by an | hidden| now | was | now | was |
//!                                  so many   area              types     rights
//!                                  areas
//! ```

use core::fmt;
use core::panic::Location;

use kspace_layout::{FRAME_SIZE, PageSize, VirtAddr, VirtRange};
use kspace_paging::{Access, Adjustment, CacheType};

use super::carry_out::Phase;
use super::place::{Found, Role, Spot};
use super::{Permissions, Problem};
use crate::ranges::tree::Span;
use crate::span_map::{NoRoom, SpanMap, Value};
use crate::vmalloc::Kernel;
use crate::vmalloc::caller::Caller;

/// Ranges of changed pages, and split large pages, at most: 4 MiB of frames each.
const LIMIT: u64 = 1 << 16;

const RIGHTS: [Access; 3] = [Access::ReadOnly, Access::ReadWrite, Access::ReadExecute];
const TYPES: [CacheType; 6] = [
    CacheType::WriteBack,
    CacheType::WriteThrough,
    CacheType::UncachedMinus,
    CacheType::Uncached,
    CacheType::WriteCombining,
    CacheType::WriteProtected,
];
const WAS: u32 = 0;
const NOW: u32 = 2;
const TYPE_WAS: u32 = 4;
const TYPE_NOW: u32 = 7;
const HIDDEN: u32 = 10;
const BY_AREA: u32 = 11;
const CODE: u32 = 16;
const CALLER: u32 = 32;

/// What is known of changed pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The pages.
    pub range: VirtRange,
    /// What accesses they allow, when they are present.
    pub access: Access,
    /// Their memory type.
    pub cache: CacheType,
    /// Whether they are present.
    pub present: bool,
    /// What accesses they allowed before they were changed.
    pub was: Access,
    /// Their memory type before they were changed.
    pub cache_was: CacheType,
    /// Who changed them last. `None` when that is in another image.
    pub by: Option<&'static Location<'static>>,
}

/// `page ffff888001234000 of the direct map was made non-present by src/secrets.rs:17`, from "was made" on
impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("made ")?;
        if !self.present {
            f.write_str("non-present")?;
        } else if self.access != self.was {
            self.access.fmt(f)?;
        } else if self.cache != self.cache_was {
            self.cache.fmt(f)?;
        } else {
            f.write_str("read-only for code")?;
        }
        match self.by {
            Some(by) => write!(f, " by {}:{}", by.file(), by.line()),
            None => Ok(()),
        }
    }
}

/// What is known of a changed page, as the books have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) was: Access,
    pub(super) now: Access,
    pub(super) cache_was: CacheType,
    pub(super) cache: CacheType,
    pub(super) hidden: bool,
    /// Its memory type was changed through an area.
    pub(super) by_area: bool,
    /// In how many areas that somebody has made executable the frame is. What has come to the maximum stays there, so that the frame is not
    /// made writable too early.
    pub(super) code: u8,
    pub(super) by: Caller,
}

impl Record {
    fn load(value: Value) -> Self {
        let bits = |shift: u32, mask: u64| (value[0] >> shift & mask) as usize;
        Self {
            was: RIGHTS[bits(WAS, 3)],
            now: RIGHTS[bits(NOW, 3)],
            cache_was: TYPES[bits(TYPE_WAS, 7)],
            cache: TYPES[bits(TYPE_NOW, 7)],
            hidden: bits(HIDDEN, 1) != 0,
            by_area: bits(BY_AREA, 1) != 0,
            code: bits(CODE, 0xff) as u8,
            by: Caller::from_raw((value[0] >> CALLER) as u32),
        }
    }

    fn value(&self) -> Option<Value> {
        let right = |access| RIGHTS.iter().position(|known| *known == access);
        let cache = |cache| TYPES.iter().position(|known| *known == cache);
        let number = |place: Option<usize>| place.unwrap_or_default() as u64;
        let word = number(right(self.was)) << WAS
            | number(right(self.now)) << NOW
            | number(cache(self.cache_was)) << TYPE_WAS
            | number(cache(self.cache)) << TYPE_NOW
            | u64::from(self.hidden) << HIDDEN
            | u64::from(self.by_area) << BY_AREA
            | u64::from(self.code) << CODE
            | u64::from(self.by.raw()) << CALLER;
        let as_before =
            self.now == self.was && self.cache == self.cache_was && !self.hidden && self.code == 0;
        (!as_before).then_some([word, 0])
    }

    /// The frame is no code any more in one area.
    pub(super) const fn uncount_code(&mut self) {
        if self.code != u8::MAX {
            self.code = self.code.saturating_sub(1);
        }
    }

    /// What becomes of the page in a change.
    fn after(mut self, phases: &[Phase], role: Role, by: Caller) -> Self {
        let by_area = matches!(role, Role::Other { area: true, .. });
        for phase in phases {
            match phase.of(role) {
                None => {}
                Some(Adjustment::ReadOnly) if self.now == Access::ReadWrite => {
                    self.now = Access::ReadOnly;
                }
                Some(Adjustment::ReadOnly) => {}
                Some(Adjustment::Writable) => self.now = Access::ReadWrite,
                Some(Adjustment::Executable) => self.now = Access::ReadExecute,
                Some(Adjustment::NotExecutable) if self.now == Access::ReadExecute => {
                    self.now = Access::ReadOnly;
                }
                Some(Adjustment::NotExecutable) => {}
                Some(Adjustment::Cache(cache)) => {
                    self.cache = cache;
                    self.by_area = by_area && cache != self.cache_was;
                }
                Some(Adjustment::Hidden) => self.hidden = true,
                Some(Adjustment::Shown) => self.hidden = false,
            }
        }
        let makes_code = phases
            .iter()
            .any(|phase| phase.own == Some(Adjustment::Executable));
        let unmakes_code = phases
            .iter()
            .any(|phase| phase.own == Some(Adjustment::NotExecutable));
        if let Role::Other { executable, .. } = role {
            if makes_code && !executable {
                self.code = self.code.saturating_add(1);
            } else if unmakes_code && executable {
                self.uncount_code();
            }
        }
        self.by = by;
        self
    }
}

/// Pages of one place that are alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) range: VirtRange,
    pub(super) record: Record,
    /// It is in the books already.
    pub(super) known: bool,
}

/// The books.
pub(super) struct Books<'a, K: Kernel> {
    changed: SpanMap<'a, K::Memory, &'a K::Frames>,
    /// Large pages that are split: one piece each, its value its size and its first page.
    split: SpanMap<'a, K::Memory, &'a K::Frames>,
}

impl<'a, K: Kernel> Books<'a, K> {
    pub(super) const fn new(memory: &'a K::Memory, frames: &'a K::Frames) -> Self {
        Self {
            changed: SpanMap::new(memory, frames, LIMIT),
            split: SpanMap::new(memory, frames, LIMIT),
        }
    }

    pub(super) const fn counts(&self) -> (u64, u64) {
        (self.changed.pieces(), self.split.pieces())
    }

    /// Sees to it that so many segments can be changed, and so many large pages split.
    pub(super) fn reserve(&mut self, segments: u64, splits: u64) -> Result<(), Problem> {
        self.changed
            .reserve(3 * segments)
            .and_then(|()| self.split.reserve(3 * splits))
            .map_err(|room| match room {
                NoRoom::NoFrame => Problem::NoBooks,
                NoRoom::Full { limit } => Problem::Full { limit },
            })
    }

    pub(super) fn trim(&mut self) {
        self.changed.trim();
        self.split.trim();
    }

    pub(super) fn next_changed(&self, from: VirtAddr) -> Option<Changed> {
        let piece = self.changed.next(from.as_u64() / FRAME_SIZE)?;
        let record = Record::load(piece.value);
        // SAFETY: records have callers from `Caller::raw` only.
        let by = unsafe { Caller::place(record.by.raw()) };
        Some(Changed {
            range: piece.span.range(),
            access: record.now,
            cache: record.cache,
            present: !record.hidden,
            was: record.was,
            cache_was: record.cache_was,
            by,
        })
    }

    pub(super) fn write(&mut self, range: VirtRange, record: &Record) {
        if let Some(span) = Span::of(range) {
            self.changed.set(span, record.value());
        }
    }

    /// Notes that a large page is split, unless it is part of one that is.
    pub(super) fn note_split(&mut self, whole: VirtRange, size: PageSize) {
        if let Some(span) = Span::of(whole)
            && self.split.get(span.start).is_none()
        {
            // Smaller ones inside it are part of it from now on.
            self.split.set(span, Some([size.bytes(), span.start]));
        }
    }

    /// The first split large page that has addresses of `range`.
    pub(super) fn next_split(&self, range: VirtRange) -> Option<(VirtRange, PageSize)> {
        let piece = self.split.next(range.start().as_u64() / FRAME_SIZE)?;
        let whole = piece.span.range();
        let sizes = [PageSize::Size2M, PageSize::Size4M, PageSize::Size1G];
        let size = sizes
            .into_iter()
            .find(|size| size.bytes() == piece.value[0])?;
        whole.overlaps(range).then_some((whole, size))
    }

    pub(super) fn forget_split(&mut self, whole: VirtRange) {
        if let Some(span) = Span::of(whole) {
            self.split.set(span, None);
        }
    }
}

impl<K: Kernel, const CPUS: usize> Permissions<'_, '_, K, CPUS> {
    /// Calls `visit` for the parts of a place whose pages are alike, in the tables and in the books.
    pub(super) fn each_segment(
        &self,
        range: VirtRange,
        visit: &mut dyn FnMut(Segment) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let mut segment: Option<Segment> = None;
        self.each_leaf(range, &mut |(virt, found)| {
            let found = found.ok_or(Problem::NotMapped(virt.start()))?;
            let mut rest = Span::of(virt);
            while let Some(now) = rest {
                let (part, value) = self.with_books(|books| books.changed.first_of(now));
                rest = (part.end() < now.end()).then(|| Span::between(part.end(), now.end()));
                let next = Segment {
                    range: part.range(),
                    record: value.map_or_else(|| self.unchanged(&found), Record::load),
                    known: value.is_some(),
                };
                if let Some(segment) = &mut segment
                    && (segment.record, segment.known) == (next.record, next.known)
                    && let Ok(both) =
                        VirtRange::try_from_bounds(segment.range.start(), next.range.last())
                {
                    segment.range = both;
                } else if let Some(done) = segment.replace(next) {
                    visit(done)?;
                }
            }
            Ok(())
        })?;
        segment.map_or(Ok(()), visit)
    }

    /// What is known of a page that nobody has changed.
    fn unchanged(&self, found: &Found) -> Record {
        let access = match self.access_of(found) {
            (true, _) => Access::ReadWrite,
            (false, true) => Access::ReadExecute,
            (false, false) => Access::ReadOnly,
        };
        let cache = found.page.attributes.cache;
        Record {
            was: access,
            now: access,
            cache_was: cache,
            cache,
            hidden: found.hidden,
            by_area: false,
            code: 0,
            by: Caller::from_raw(0),
        }
    }

    /// Writes down what a change does to a place, for which room was reserved.
    pub(super) fn write_down(
        &self,
        spot: Spot,
        phases: &[Phase],
        by: Caller,
    ) -> Result<(), Problem> {
        self.each_segment(spot.range, &mut |segment| {
            let mut after = segment.record.after(phases, spot.role, by);
            let same = Record {
                by: segment.record.by,
                ..after
            };
            if same == segment.record {
                after = same;
            }
            self.with_books(|books| books.write(segment.range, &after));
            Ok(())
        })?;
        let changes = phases.iter().any(|phase| phase.of(spot.role).is_some());
        let ends = [spot.range.start(), spot.range.last()];
        for end in ends.into_iter().filter(|_| changes) {
            let size = self.found(end).map(|found| found.page.size);
            if let Some(size) = size.filter(|size| size.bytes() > FRAME_SIZE) {
                let whole = VirtRange::new(end.align_down(size.bytes()), size.bytes());
                if !spot.range.contains_range(whole) {
                    self.with_books(|books| books.note_split(whole, size));
                }
            }
        }
        Ok(())
    }
}
