//! Area vmemmap: the allocators' books on all frames, at addresses that never change.
//!
//! ```text
//!   Layout, Nodes --> arrange --> Vmemmap --> VmemmapPlan --> build --> Metadata of each zone --> FrameAllocator
//!                     where       (kspace_frames: pure)        pages    (Vmemmap::metadata)
//! ```
//!
//! Where the books lie and which pages they need is arithmetic, and in [`kspace_frames::zone`]. Here the pages are put there, all
//! or none.

mod build;

use kspace_frames::zone::{Affinity, Nodes, Vmemmap, VmemmapError, ZoneLimits};
use kspace_layout::{AreaKind, Layout, PhysAddr, PhysRange};

pub use build::{BuildError, Built, build};
pub(crate) use build::{back, survey};

/// Places the books of all zones of a machine, for `cpus` CPUs, in the vmemmap of `layout`: of those with RAM, and those that will have
/// some when memory is plugged in where `affinities` say that it can be.
///
/// # Errors
///
/// [`VmemmapError`].
pub fn arrange(
    layout: &Layout,
    nodes: &Nodes,
    limits: &ZoneLimits,
    affinities: &[Affinity],
    cpus: usize,
) -> Result<Vmemmap, VmemmapError> {
    let area = layout.area(AreaKind::Vmemmap).ok_or(VmemmapError::NoArea)?;
    let reach = reach(layout).ok_or(VmemmapError::NoArea)?;
    let zones = nodes.possible_zones(limits, affinities, reach.last().pfn());
    Vmemmap::new(zones, cpus, reach, area.range().size())
}

/// All physical memory that the direct map of `layout` could hold.
fn reach(layout: &Layout) -> Option<PhysRange> {
    let direct_map = layout.area(AreaKind::DirectMap)?.range();
    let all = PhysRange::try_from_bounds(PhysAddr::ZERO, PhysAddr::LAST).ok()?;
    match PhysRange::try_new(PhysAddr::ZERO, direct_map.size()) {
        Ok(held) => all.intersection(held),
        // More than there are physical addresses.
        Err(_) => Some(all),
    }
}
