//! Changing one thing about pages and keeping the rest: `adjust`, for kernels' `set_memory_*`.
//!
//! [`protect`](Editor::protect) says all that a page allows; here the pages of a range may differ and go on differing: those of an area
//! that is made read-only keep their memory types. Hidden pages are changed like others, in what they remember.

use core::fmt;

use kspace_layout::{PageSize, PhysAddr, VirtAddr, VirtRange};

use crate::entry::{GLOBAL, PRESENT};
use crate::flush::Stale;
use crate::frame_list::FrameList;
use crate::hidden::is_hidden;
use crate::parked::is_parked;
use crate::{CacheType, EntryFormat, Flush, FrameSource, PhysMemory, Protection, RawEntry};

use super::known::Known;
use super::reserve::Reserve;
use super::span::{Piece, Span};
use super::survey::Touched;
use super::{Edit, EditError, Editor, Reason, Slot};

/// What is to change about pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Adjustment {
    /// They allow no writes. What was executable stays so.
    ReadOnly,
    /// They allow writes. Refused for pages that are executable.
    Writable,
    /// They allow execution. Refused for pages that are writable.
    Executable,
    /// They allow no execution. What was writable stays so.
    NotExecutable,
    /// They have this memory type. Caches and other mappings of the frames are the caller's business.
    Cache(CacheType),
    /// No access reaches them; their entries remember frames and rights.
    Hidden,
    /// Accesses reach them again as before they were hidden.
    Shown,
}

impl fmt::Display for Adjustment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadOnly => f.pad("read-only"),
            Self::Writable => f.pad("writable"),
            Self::Executable => f.pad("executable"),
            Self::NotExecutable => f.pad("not executable"),
            Self::Cache(cache) => cache.fmt(f),
            Self::Hidden => f.pad("non-present"),
            Self::Shown => f.pad("present"),
        }
    }
}

/// One `adjust`: what it does to an entry, and what it has done so far.
struct Job {
    adjustment: Adjustment,
    /// The index of the memory type that is asked for.
    cache: u8,
    touched: Touched,
    /// The first and last address of pages that a CPU may know otherwise.
    stale: Option<(u64, u64)>,
}

/// An entry that maps a page, or remembers one.
#[derive(Clone, Copy)]
struct Leaf {
    /// What it says, or would if it were shown.
    says: u64,
    hidden: bool,
}

pub(super) fn adjust<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    range: VirtRange,
    adjustment: Adjustment,
) -> Result<Flush, EditError> {
    let needed = tables(editor, range, adjustment)?;
    let refuse = |reason| EditError {
        edit: Edit::Adjust,
        range,
        reason,
    };
    let mut reserve = editor.reserve(needed).map_err(refuse)?;
    let mut job = Job::new(editor, adjustment).map_err(refuse)?;
    let (top, span) = (editor.mode.levels(), Span::of(range));
    editor.adjust_table(&mut job, top, editor.root, span, &mut reserve);
    editor.release(reserve);
    Ok(job.token())
}

/// How many tables it takes; refuses what cannot be done.
pub(super) fn tables<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    range: VirtRange,
    adjustment: Adjustment,
) -> Result<usize, EditError> {
    let refuse = |reason| EditError {
        edit: Edit::Adjust,
        range,
        reason,
    };
    let job = Job::new(editor, adjustment).map_err(refuse)?;
    editor
        .survey_adjust(&job, editor.mode.levels(), editor.root, Span::of(range))
        .map_err(refuse)
}

impl Job {
    fn new<F: EntryFormat, M: PhysMemory, S: FrameSource>(
        editor: &Editor<'_, F, M, S>,
        adjustment: Adjustment,
    ) -> Result<Self, Reason> {
        let cache = match adjustment {
            Adjustment::Cache(cache) => editor
                .limits
                .pat()
                .index(cache)
                .ok_or(Reason::NoSuchCache(cache))?,
            _ => 0,
        };
        Ok(Self {
            adjustment,
            cache,
            touched: Touched::default(),
            stale: None,
        })
    }

    /// Notes a change of a page that a CPU may have cached.
    fn note(&mut self, span: Span) {
        let (first, last) = self.stale.unwrap_or((span.first, span.last));
        self.stale = Some((first.min(span.first), last.max(span.last)));
    }

    fn token(&self) -> Flush {
        let (Some((first, last)), Some(page)) = (self.stale, self.touched.page) else {
            return Flush::nothing();
        };
        let stale = Stale {
            range: Span { first, last }.range(),
            page,
            global: self.touched.bits & GLOBAL != 0,
            tables: false,
            root: false,
        };
        Flush::new(stale, FrameList::EMPTY)
    }
}

impl<F: EntryFormat, M: PhysMemory, S: FrameSource> Editor<'_, F, M, S> {
    /// The page that an entry maps or remembers.
    fn leaf(&self, level: u8, raw: u64) -> Option<Leaf> {
        let hidden = is_hidden(raw);
        let says = if hidden { F::FORMAT.shown(raw) } else { raw };
        let is_page = says & PRESENT != 0 && F::FORMAT.is_leaf(level, says, self.limits);
        is_page.then_some(Leaf { says, hidden })
    }

    /// What an entry becomes.
    fn adjusted(&self, job: &Job, level: u8, leaf: Leaf, page: VirtAddr) -> Result<u64, Reason> {
        let format = F::FORMAT;
        let Leaf { says, mut hidden } = leaf;
        let rights = format.rights(level, says, self.limits);
        let decides = format.can_forbid_execution(self.limits);
        let says = match job.adjustment {
            Adjustment::Writable if decides && rights.execute => {
                return Err(Reason::WriteExecute { page });
            }
            Adjustment::Executable if decides && rights.write => {
                return Err(Reason::WriteExecute { page });
            }
            // Only what changes gets other accessed and dirty bits.
            Adjustment::Writable if rights.write => says,
            Adjustment::Writable => format.with_write(says, true),
            Adjustment::ReadOnly => format.with_write(says, false),
            Adjustment::Executable => format.with_execute(says, true, self.limits),
            Adjustment::NotExecutable => format.with_execute(says, false, self.limits),
            Adjustment::Cache(_) => format.with_cache(level, says, job.cache),
            Adjustment::Hidden => {
                hidden = true;
                says
            }
            Adjustment::Shown => {
                hidden = false;
                says
            }
        };
        Ok(if hidden { format.hidden(says) } else { says })
    }

    /// The smallest page by which a CPU may know a leaf at `level`. Once it was a part of a larger one, which the CPU may have broken into
    /// 4 KiB pages (Intel SDM vol. 3, section 5.10.2.3); then `INVLPG` of the leaf as it is now need not reach them all.
    fn smallest_known(&self, level: u8) -> PageSize {
        if level == self.limits.largest_leaf_level(self.mode, PageSize::Size1G) {
            self.leaf_size(level)
        } else {
            PageSize::Size4K
        }
    }

    fn survey_adjust(
        &self,
        job: &Job,
        level: u8,
        table: PhysAddr,
        span: Span,
    ) -> Result<usize, Reason> {
        let page = span.start();
        let slots = self
            .slots(table, level)
            .ok_or(Reason::Unreachable { page, level, table })?;
        let mut needed = 0;
        for piece in span.pieces(F::FORMAT.shift(level)) {
            let raw = F::Raw::load(&slots[self.index(piece.span, level)]);
            needed += match self.leaf(level, raw) {
                Some(leaf) => self.survey_leaf(job, level, raw, leaf, piece)?,
                None => self.survey_below(job, level, raw, piece)?,
            };
        }
        Ok(needed)
    }

    fn survey_leaf(
        &self,
        job: &Job,
        level: u8,
        raw: u64,
        leaf: Leaf,
        piece: Piece,
    ) -> Result<usize, Reason> {
        let page = piece.span.start();
        let adjusted = self.adjusted(job, level, leaf, page)?;
        if piece.whole || adjusted == raw {
            return Ok(0);
        }
        let phys = F::FORMAT.page(level, leaf.says, self.limits).as_u64();
        let limit = F::FORMAT.page_limit(1, self.limits);
        if phys >= limit {
            return Err(Reason::PhysTooWide { page, phys, limit });
        }
        Ok(Self::split_cost(level, piece.span))
    }

    /// The same for an entry that is no page.
    fn survey_below(&self, job: &Job, level: u8, raw: u64, piece: Piece) -> Result<usize, Reason> {
        let page = piece.span.start();
        if is_parked(raw) {
            return Err(Reason::Parked { page });
        }
        if raw & PRESENT == 0 || self.known(level, raw) == Known::Empty {
            return Err(Reason::NotMapped { page });
        }
        let wanted = match job.adjustment {
            Adjustment::Writable => Some(Protection::KERNEL_DATA),
            Adjustment::Executable => Some(Protection::KERNEL_TEXT),
            _ => None,
        };
        let rights = F::FORMAT.rights(level, raw, self.limits);
        if wanted.is_some_and(|wanted| rights.deny(wanted)) {
            return Err(Reason::Restricted { page, level, raw });
        }
        let next = F::FORMAT.table(raw, self.limits);
        self.survey_adjust(job, level - 1, next, piece.span)
    }

    /// Changes the pages of `span`, which the survey has accepted.
    fn adjust_table(
        &self,
        job: &mut Job,
        level: u8,
        table: PhysAddr,
        span: Span,
        reserve: &mut Reserve,
    ) {
        let slots = self.reached(table, level);
        for piece in span.pieces(F::FORMAT.shift(level)) {
            let slot = &slots[self.index(piece.span, level)];
            if let Some(next) = self.adjust_entry(job, level, slot, piece, reserve) {
                // Pages may be hidden there from now on, which nobody expects of a full table.
                self.remember(slot, level, Known::Nothing);
                self.adjust_table(job, level - 1, next, piece.span, reserve);
            }
        }
    }

    /// Changes one entry; or returns the table below in which to go on.
    fn adjust_entry(
        &self,
        job: &mut Job,
        level: u8,
        slot: &Slot<F>,
        piece: Piece,
        reserve: &mut Reserve,
    ) -> Option<PhysAddr> {
        loop {
            let raw = F::Raw::load(slot);
            let Some(leaf) = self.leaf(level, raw) else {
                return Some(F::FORMAT.table(raw, self.limits));
            };
            let adjusted = self
                .adjusted(job, level, leaf, piece.span.start())
                .expect("the survey has accepted this page");
            if adjusted == raw {
                return None;
            }
            if !piece.whole {
                return Some(self.split(slot, level, reserve));
            }
            // The CPU may set accessed or dirty meanwhile; those must not be lost.
            if F::Raw::compare_exchange(slot, raw, adjusted).is_err() {
                continue;
            }
            if !leaf.hidden {
                job.touched.note(self.smallest_known(level), raw);
                job.note(piece.span);
            }
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;
    use crate::entry::{ACCESSED, DIRTY};

    #[test]
    fn what_is_hidden_comes_back_and_is_not_parked() {
        for format in [Format::TwoLevel, Format::Pae, Format::Long] {
            for page in [0, 0x1234_5000, format.address_mask()] {
                for low in [PRESENT, PRESENT | ACCESSED | DIRTY | GLOBAL, 0x1ff] {
                    let raw = format.hidden(page | low);
                    assert!(is_hidden(raw) && !is_parked(raw), "{format:?} {raw:x}");
                    assert_eq!(raw & PRESENT, 0);
                    assert_eq!(format.shown(raw), page | low, "{format:?}");
                    assert!(!is_hidden(format.parked(page | low)));
                }
            }
        }
    }
}
