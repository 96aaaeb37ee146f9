//! Clearing leaves: `unmap` and its variants. Tables stay; see the protocol in the parent module.

use kspace_layout::{PageSize, PagingMode, PhysAddr, VirtRange};

use crate::entry::{ACCESSED, DIRTY, GLOBAL, PRESENT};
use crate::flush::Stale;
use crate::frame_list::FrameList;
use crate::{EntryFormat, Flush, FrameSource, Limits, PhysMemory, RawEntry};

use super::span::Span;
use super::survey::{LeafJob, Rules, Touched};
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

pub(super) fn unmap<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    range: VirtRange,
    holes: Holes,
) -> Result<Flush, EditError> {
    let mut job = Clear {
        mode: editor.mode,
        touched: Touched::default(),
    };
    run(editor, range, holes, &mut job)?;
    Ok(token(range, job.touched))
}

pub(super) fn unmap_each<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    range: VirtRange,
    each: impl FnMut(Unmapped),
) -> Result<Flush, EditError> {
    let (mode, limits) = (editor.mode, editor.limits);
    let mut job = Report {
        mode,
        limits,
        touched: Touched::default(),
        each,
    };
    run(editor, range, Holes::Allowed, &mut job)?;
    Ok(token(range, job.touched))
}

fn run<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    range: VirtRange,
    holes: Holes,
    job: &mut impl LeafJob<F>,
) -> Result<(), EditError> {
    let refuse = |reason| EditError {
        edit: Edit::Unmap,
        range,
        reason,
    };
    let (top, span) = (editor.mode.levels(), Span::of(range));
    let rules = Rules {
        complete: holes == Holes::Refused,
        target: None,
    };
    let needed = editor
        .survey(&rules, top, editor.root, span)
        .map_err(refuse)?;
    let mut reserve = editor.reserve(needed).map_err(refuse)?;
    editor.change(job, top, editor.root, span, &mut reserve);
    editor.release(reserve);
    Ok(())
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
struct Clear {
    mode: PagingMode,
    touched: Touched,
}

impl<F: EntryFormat> LeafJob<F> for Clear {
    fn pages(&mut self, slots: &[Slot<F>], _: Span) {
        let mut any = 0;
        for slot in slots {
            // A plain store: the only other writer is a CPU that sets accessed or dirty, and it no longer matters.
            any |= F::Raw::load(slot);
            F::Raw::store(slot, 0);
        }
        if any & PRESENT != 0 {
            self.touched.note(PageSize::Size4K, any);
        }
    }

    fn large(&mut self, level: u8, slot: &Slot<F>, _: Span) {
        let raw = F::Raw::load(slot);
        F::Raw::store(slot, 0);
        self.touched
            .note(self.mode.leaf_size(level).unwrap_or(PageSize::Size4K), raw);
    }

    fn keeps(&self, _: u8, _: u64) -> bool {
        false
    }
}

/// Clears entries and tells what they were in the end.
struct Report<E> {
    mode: PagingMode,
    limits: Limits,
    touched: Touched,
    each: E,
}

impl<E: FnMut(Unmapped)> Report<E> {
    fn clear<F: EntryFormat>(&mut self, level: u8, slot: &Slot<F>, span: Span) {
        let mut raw = F::Raw::load(slot);
        // A swap: the CPU may set accessed or dirty until the entry is gone.
        while let Err(changed) = F::Raw::compare_exchange(slot, raw, 0) {
            raw = changed;
        }
        if raw & PRESENT == 0 {
            return;
        }
        let page = self.mode.leaf_size(level).unwrap_or(PageSize::Size4K);
        self.touched.note(page, raw);
        (self.each)(Unmapped {
            virt: span.range(),
            phys: F::FORMAT.page(level, raw, self.limits),
            page,
            accessed: raw & ACCESSED != 0,
            dirty: raw & DIRTY != 0,
        });
    }
}

impl<F: EntryFormat, E: FnMut(Unmapped)> LeafJob<F> for Report<E> {
    fn pages(&mut self, slots: &[Slot<F>], span: Span) {
        for (slot, piece) in slots.iter().zip(span.pieces(F::FORMAT.shift(1))) {
            self.clear::<F>(1, slot, piece.span);
        }
    }

    fn large(&mut self, level: u8, slot: &Slot<F>, span: Span) {
        self.clear::<F>(level, slot, span);
    }

    fn keeps(&self, _: u8, _: u64) -> bool {
        false
    }
}
