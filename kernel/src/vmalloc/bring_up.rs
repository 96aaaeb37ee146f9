//! Once, on the boot CPU, when there are zones.

use core::fmt;

use kspace::shootdown::quarantine_bound;
use kspace::vmalloc::{AreaError, AreaZones, Arenas, Vmalloc};
use kspace_frames::zone::Nodes;
use kspace_layout::{AreaKind, PhysAddr};
use kspace_paging::{EditError, Editor, RootError};
use spin::Once;

use super::{AREAS, Areas, Frames, Zeros};
use crate::acpi::MAX_CPUS;
use crate::address_space::Plan;
use crate::arch::{KERNEL_SHOOTDOWN, PageFormat};
use crate::memory::Memory;

static ARENAS: Arenas<MAX_CPUS> = Arenas::new();

/// Brings the areas up: from here on [`get`](super::get) has them. A purge is due when `quarantine` freed pages wait; without that number,
/// when as many wait as suits a machine of `cpus` CPUs.
///
/// # Errors
///
/// [`BringUpError`]. Frames used so far are not given back: the kernel cannot go on.
///
/// # Safety
///
/// `root` is the kernel's live top table; this is the only CPU, and nothing was ever mapped in area vmalloc.
pub unsafe fn bring_up(
    plan: &Plan,
    root: PhysAddr,
    memory: &'static Memory,
    nodes: &'static Nodes,
    cpus: usize,
    quarantine: Option<u64>,
) -> Result<&'static Areas, BringUpError> {
    static FRAMES: Once<Frames> = Once::new();
    let area = plan.layout.area(AreaKind::Vmalloc);
    let area = area.ok_or(BringUpError::NoArea)?.range();
    let frames = FRAMES.call_once(|| {
        let window = memory.window();
        AreaZones::new(
            memory.zones(),
            nodes,
            KERNEL_SHOOTDOWN.platform(),
            Zeros { window },
        )
    });
    // SAFETY: the caller's contract: these are the kernel's own tables.
    let editor = unsafe {
        let (mode, limits) = (plan.layout.mode(), plan.limits);
        Editor::<PageFormat, _, _>::new(mode, root, limits, memory.window(), frames)?
    };
    let editor = editor.keep_root_entries(area);
    let fresh = editor.populate(area)?;
    // SAFETY: entries that were not present are in no TLB, so nothing has to be forgotten.
    unsafe { fresh.discharged(memory.window(), frames) };
    let usual = quarantine_bound(cpus, memory.zones().managed_frames());
    let bound = quarantine.unwrap_or(usual);
    // SAFETY: only these areas use the range, all CPUs join the shootdown as they start, the editor keeps the root entries, and the arenas
    // are named nowhere else.
    let areas = unsafe { Vmalloc::new(area, editor, &KERNEL_SHOOTDOWN, &ARENAS, bound)? };
    Ok(AREAS.call_once(|| areas.for_cpus(cpus)))
}

/// Why there are no areas.
#[derive(Debug)]
pub enum BringUpError {
    /// The layout has no place for them.
    NoArea,
    /// The kernel's tables cannot be edited.
    Root(RootError),
    /// The area's root entries cannot be made.
    Edit(EditError),
    /// No frames for the books.
    Areas(AreaError),
}

impl fmt::Display for BringUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoArea => f.write_str("layout: it has no area vmalloc, which this kernel needs"),
            Self::Root(error) => error.fmt(f),
            Self::Edit(error) => error.fmt(f),
            Self::Areas(error) => error.fmt(f),
        }
    }
}

impl From<RootError> for BringUpError {
    fn from(error: RootError) -> Self {
        Self::Root(error)
    }
}

impl From<EditError> for BringUpError {
    fn from(error: EditError) -> Self {
        Self::Edit(error)
    }
}

impl From<AreaError> for BringUpError {
    fn from(error: AreaError) -> Self {
        Self::Areas(error)
    }
}
