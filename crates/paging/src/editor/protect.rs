//! Changing what mapped pages allow: `protect`.

use kspace_layout::{PageSize, PagingMode, VirtRange};

use crate::entry::{ACCESSED, DIRTY, PRESENT, WRITE};
use crate::{EntryFormat, Flush, FrameSource, PhysMemory, Protection, RawEntry};

use super::known::Known;
use super::span::Span;
use super::survey::{LeafJob, Rules, Survey, Touched};
use super::unmap::token;
use super::{Edit, EditError, Editor, Slot};

/// What pages are to become.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) protection: Protection,
    /// The bits of leaves, by level - 1.
    bits: [u64; 3],
    /// The bits of leaves that stay as they are, by level - 1: the address, encrypted or not, and what software keeps there.
    kept: [u64; 3],
}

impl Target {
    /// What a leaf becomes. Accessed and dirty only ever grow here, except that a page that is not writable is not dirty.
    #[inline]
    fn applied_to(&self, level: u8, raw: u64) -> u64 {
        let index = level as usize - 1;
        let new = (raw & self.kept[index]) | self.bits[index] | (raw & ACCESSED);
        if new & WRITE != 0 {
            new | (raw & DIRTY)
        } else {
            new
        }
    }

    /// Whether a leaf has this protection already.
    #[inline]
    pub(super) fn is_met_by(&self, level: u8, raw: u64) -> bool {
        let history = ACCESSED | DIRTY;
        self.applied_to(level, raw) & !history == raw & !history
            && (raw & WRITE != 0 || raw & DIRTY == 0)
    }
}

pub(super) fn protect<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    range: VirtRange,
    protection: Protection,
) -> Result<Flush, EditError> {
    let refuse = |reason| EditError {
        edit: Edit::Protect,
        range,
        reason,
    };
    let limits = editor.limits;
    let levels = [1, 2, 3];
    let target = Target {
        protection,
        // Whether a page is encrypted is not for a protection to say.
        bits: levels.map(|level| {
            F::FORMAT.leaf_bits(level, protection, limits) & !limits.encryption_mask()
        }),
        kept: levels.map(|level| F::FORMAT.kept_by_protect(level)),
    };
    let (top, span) = (editor.mode.levels(), Span::of(range));
    let rules = Rules {
        complete: true,
        target: Some(&target),
    };
    let mut found = Survey::default();
    editor
        .survey(&rules, top, editor.root, span, &mut found)
        .map_err(refuse)?;
    let mut reserve = editor.reserve(found.needed).map_err(refuse)?;
    let mut job = Change {
        mode: editor.mode,
        target,
        touched: Touched::default(),
    };
    editor.change(
        &mut job,
        top,
        editor.root,
        span,
        Known::Nothing,
        &mut reserve,
    );
    editor.release(reserve);
    Ok(token(range, job.touched))
}

struct Change {
    mode: PagingMode,
    target: Target,
    touched: Touched,
}

impl Change {
    #[inline]
    fn change<F: EntryFormat>(&mut self, level: u8, slot: &Slot<F>) {
        let mut raw = F::Raw::load(slot);
        while raw & PRESENT != 0 && !self.target.is_met_by(level, raw) {
            let new = self.target.applied_to(level, raw);
            let settled = raw & ACCESSED != 0 && (raw & DIRTY != 0 || raw & WRITE == 0);
            if settled {
                // The CPU has no bit left to set, so nothing can come between the load and this store.
                F::Raw::store(slot, new);
            } else if let Err(changed) = F::Raw::compare_exchange(slot, raw, new) {
                raw = changed;
                continue;
            }
            self.touched
                .note(self.mode.leaf_size(level).unwrap_or(PageSize::Size4K), raw);
            return;
        }
    }
}

impl<F: EntryFormat> LeafJob<F> for Change {
    fn leaves(&mut self, level: u8, slots: &[Slot<F>], _: Span) {
        for slot in slots {
            self.change::<F>(level, slot);
        }
    }

    fn keeps(&self, level: u8, raw: u64) -> bool {
        self.target.is_met_by(level, raw)
    }

    fn afterwards(&self, before: Known) -> Known {
        match before {
            Known::Full { .. } => Known::Full {
                global: self.target.protection.global,
            },
            Known::Empty | Known::Nothing => before,
        }
    }
}
