//! From the plan to page tables.

use core::fmt;

use kspace_layout::{AreaKind, Layout, PhysAddr, VirtRange};
use kspace_paging::{
    EditError, Editor, EntryFormat, FrameSource, PhysMemory, Protection, Run as Mapping, Walker,
};

use super::{Plan, table_frames_needed};
use crate::held_frames::HeldFrames;

/// Maps everything that `plan` covers, at the addresses that `layout` gives it: global, never executable (but see
/// [`Plan::with_image`] for 32 bits), and read-only where the plan says so. Returns the least number of tables that it
/// takes, without the root; so many were allocated, if none of them existed before.
///
/// All frames are taken before the first change, so that running out of them finds the tables unchanged. In PAE, where
/// the CPU keeps the root's entries, `populate` the area first.
///
/// # Errors
///
/// [`BuildError`]; only [`BuildError::Edit`] with `mapped` above zero leaves something behind.
pub fn build<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    layout: &Layout,
    plan: &Plan<'_>,
) -> Result<u64, BuildError> {
    let area = layout
        .area(AreaKind::DirectMap)
        .ok_or(BuildError::NoDirectMap)?
        .range();
    let covered = plan
        .runs()
        .last()
        .map_or(PhysAddr::ZERO, |run| run.phys.last());
    if covered.as_u64() >= area.size() {
        return Err(BuildError::TooLarge { area, covered });
    }
    let walker =
        Walker::new(editor.mode(), editor.root(), editor.memory()).with_limits(editor.limits());
    if let Some(Ok(found)) = walker.runs(area).next() {
        return Err(BuildError::NotEmpty { found });
    }
    let needed = table_frames_needed(plan, area.start());
    let held = HeldFrames::take(editor.memory(), editor.frames(), needed)
        .map_err(|had| BuildError::OutOfFrames { needed, had })?;
    let held_editor = held.editor(editor);
    let mut mapped = 0;
    for run in plan.runs() {
        // The whole plan fits in the area, so these additions stay in its half of the address space.
        let virt = area.start().checked_add(run.phys.start().as_u64());
        let virt = virt.and_then(|start| VirtRange::try_new(start, run.phys.size()));
        let virt = virt.map_err(|_| BuildError::TooLarge { area, covered })?;
        held_editor
            .map(
                virt,
                run.phys.start(),
                Protection::kernel(run.access),
                run.page,
            )
            .map_err(|error| BuildError::Edit { error, mapped })?;
        mapped += run.phys.size();
    }
    Ok(needed)
}

/// Why the direct map was not built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// The layout has no direct map.
    NoDirectMap,
    /// The area is too small for the plan.
    TooLarge {
        /// The area.
        area: VirtRange,
        /// The last physical address of the plan.
        covered: PhysAddr,
    },
    /// Something is mapped in the area already.
    NotEmpty {
        /// The first of it.
        found: Mapping,
    },
    /// Too few frames for the page tables.
    OutOfFrames {
        /// How many tables the plan takes.
        needed: u64,
        /// How many frames there were.
        had: u64,
    },
    /// An edit was refused.
    Edit {
        /// Which, and why.
        error: EditError,
        /// How many bytes had been mapped before, and still are.
        mapped: u64,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoDirectMap => f.write_str("direct map: the layout has none; add an area for it"),
            Self::TooLarge { area, covered } => write!(
                f,
                "direct map: {area} does not reach physical {covered}; use less RAM (mem=); nothing was changed"
            ),
            Self::NotEmpty { found } => {
                write!(
                    f,
                    "direct map: {found} is mapped already; unmap it first; nothing was changed"
                )
            }
            Self::OutOfFrames { needed, had } => write!(
                f,
                "direct map: {needed} page tables are needed, and there are frames for {had}; nothing was changed"
            ),
            Self::Edit { error, mapped: 0 } => write!(f, "direct map: {error}"),
            Self::Edit { error, mapped } => write!(
                f,
                "direct map: {error}, but {mapped:#x} bytes were mapped before; discard these tables"
            ),
        }
    }
}

impl core::error::Error for BuildError {}
