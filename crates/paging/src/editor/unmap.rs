//! Clearing leaves: `unmap` and its variants. Tables stay; see the protocol in the parent module.

use kspace_layout::{PageSize, PagingMode, PhysAddr, VirtRange};

use crate::entry::{ACCESSED, DIRTY, GLOBAL, PRESENT};
use crate::flush::Stale;
use crate::frame_list::FrameList;
use crate::{EntryFormat, Flush, FrameSource, Limits, PhysMemory, RawEntry};

use super::known::Known;
use super::span::Span;
use super::survey::{LeafJob, Rules, Survey, Touched};
use super::{Edit, EditError, Editor, Slot};

/// What to do about pages that are not mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holes {
    Refused,
    Allowed,
}

/// A page that [`unmap_each`](Editor::unmap_each) has unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmapped {
    /// Where it was.
    pub virt: VirtRange,
    /// What it mapped.
    pub phys: PhysAddr,
    /// Its size: `virt` is all of it.
    pub page: PageSize,
    /// It had been used.
    pub accessed: bool,
    /// It had been written through.
    pub dirty: bool,
}

pub(super) fn unmap_each<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    range: VirtRange,
    each: impl FnMut(Unmapped),
) -> Result<Flush, EditError> {
    let mut job = Report {
        mode: editor.mode,
        limits: editor.limits,
        each,
    };
    run(editor, Edit::Unmap, range, Holes::Allowed, &mut job)
}

/// Lets `job` take away all leaves of `range`.
pub(super) fn run<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    edit: Edit,
    range: VirtRange,
    holes: Holes,
    job: &mut impl LeafJob<F>,
) -> Result<Flush, EditError> {
    let refuse = |reason| EditError {
        edit,
        range,
        reason,
    };
    let (top, span) = (editor.mode.levels(), Span::of(range));
    let rules = Rules {
        complete: holes == Holes::Refused,
        target: None,
    };
    let mut found = Survey::default();
    editor
        .survey(&rules, top, editor.root, span, &mut found)
        .map_err(refuse)?;
    let mut reserve = editor.reserve(found.needed).map_err(refuse)?;
    editor.change(job, top, editor.root, span, Known::Nothing, &mut reserve);
    editor.release(reserve);
    Ok(token(range, found.touched))
}

/// The token of an edit that took no table out.
pub(super) fn token(range: VirtRange, touched: Touched) -> Flush {
    match touched.page {
        None => Flush::nothing(),
        Some(page) => {
            let global = touched.bits & GLOBAL != 0;
            Flush::new(
                Stale {
                    range,
                    page,
                    global,
                    tables: false,
                    root: false,
                },
                FrameList::EMPTY,
            )
        }
    }
}

/// Clears entries and forgets them.
pub(super) struct Clear;

impl<F: EntryFormat> LeafJob<F> for Clear {
    fn leaves(&mut self, _: u8, slots: &[Slot<F>], _: Span) {
        for slot in slots {
            // A plain store: the only other writer is a CPU that sets accessed or dirty, and it no longer matters.
            F::Raw::store(slot, 0);
        }
    }

    fn keeps(&self, _: u8, _: u64) -> bool {
        false
    }

    fn afterwards(&self, _: Known) -> Known {
        Known::Empty
    }
}

/// Clears entries and tells what they were in the end.
struct Report<E> {
    mode: PagingMode,
    limits: Limits,
    each: E,
}

impl<F: EntryFormat, E: FnMut(Unmapped)> LeafJob<F> for Report<E> {
    fn leaves(&mut self, level: u8, slots: &[Slot<F>], span: Span) {
        for (slot, piece) in slots.iter().zip(span.pieces(F::FORMAT.shift(level))) {
            let mut raw = F::Raw::load(slot);
            // A swap: the CPU may set accessed or dirty until the entry is gone.
            while let Err(changed) = F::Raw::compare_exchange(slot, raw, 0) {
                raw = changed;
            }
            if raw & PRESENT == 0 {
                continue;
            }
            (self.each)(Unmapped {
                virt: piece.span.range(),
                phys: F::FORMAT.page(level, raw, self.limits),
                page: self.mode.leaf_size(level).unwrap_or(PageSize::Size4K),
                accessed: raw & ACCESSED != 0,
                dirty: raw & DIRTY != 0,
            });
        }
    }

    fn keeps(&self, _: u8, _: u64) -> bool {
        false
    }

    fn afterwards(&self, _: Known) -> Known {
        Known::Empty
    }
}
