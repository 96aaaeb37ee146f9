//! Once, on the boot CPU, when there are zones.

use core::fmt;

use kspace::shootdown::quarantine_bound;
use kspace::vmalloc::{AreaError, AreaZones, Arenas, Debug, Settings, Vmalloc};
use kspace_frames::zone::Nodes;
use kspace_layout::{AreaKind, PhysAddr};
use kspace_paging::{EditError, Editor, RootError};
use spin::Once;

use super::{AREAS, Areas, Frames, Zeros};
use crate::acpi::MAX_CPUS;
use crate::address_space::Plan;
use crate::arch::{KERNEL_SHOOTDOWN, PageFormat, ticks};
use crate::command_line::CommandLine;
use crate::info;
use crate::memory::Memory;

static ARENAS: Arenas<MAX_CPUS> = Arenas::new();

/// Brings the areas up: from here on [`get`](super::get) has them. What `words` say of the quarantine and of debug modes holds; without a
/// word, a purge is due when as many freed pages wait as suits a machine of `cpus` CPUs.
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
    words: &CommandLine,
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
    let bound = words.vmalloc_quarantine.unwrap_or(usual);
    let settings = Settings::new(bound).debug(debug_modes(words));
    // SAFETY: only these areas use the range, all CPUs join the shootdown as they start, the editor keeps the root entries, and the arenas
    // are named nowhere else.
    let areas = unsafe { Vmalloc::new(area, editor, &KERNEL_SHOOTDOWN, &ARENAS, settings)? };
    Ok(AREAS.call_once(|| areas.for_cpus(cpus)))
}

/// The debug modes that were asked for, which the log tells of: they change what everything costs.
fn debug_modes(words: &CommandLine) -> Debug {
    let asked = words.vmalloc_debug;
    let seed = words.seed.unwrap_or_else(ticks);
    let debug = Debug {
        poison: asked.poison,
        flush: asked.flush,
        random: asked.random.then_some(seed),
    };
    if debug.poison {
        info!("vmalloc: freed areas are filled with {:#x}", Debug::POISON);
    }
    if debug.random.is_some() {
        info!("vmalloc: areas are placed at random, seed={seed}");
    }
    if debug.flush {
        info!("vmalloc: every free flushes");
    }
    debug
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
