//! What the log says of nodes, zones and physical addresses, in Linux's words: lines of the boot log, and on request ([`Shown`]) the
//! texts of files under `/proc`.
//!
//! The words are in [`kspace_frames::zone::text`], where they are held against Linux's own; here is what they are said about.

mod near;
mod owners;
mod resources;
mod texts;

use kspace_frames::zone::text::{FallbackLine, JoinLines, NodeLines, UnavailableLines, ZoneRanges};
use kspace_frames::zone::{NodeId, Nodes, ZoneFrames, ZoneLimits, Zones};

use crate::acpi::Topology;
use crate::info_lines;

pub use near::near;
pub use texts::{Sight, show};

#[cfg(doc)]
use crate::command_line::Shown;

/// Which memory is in which node, and between which addresses each kind of zone lies (Linux: `numa_register_memblks`,
/// mm/numa_memblks.c, and `free_area_init`, mm/mm_init.c).
pub fn nodes(nodes: &Nodes, limits: &ZoneLimits, topology: &Topology) {
    let affinities = topology.affinities();
    info_lines!("{}", JoinLines { affinities, nodes });
    info_lines!("{}", ZoneRanges { nodes, limits });
    for node in topology.nodes() {
        info_lines!("{}", NodeLines { nodes, node });
    }
    info_lines!("{}", UnavailableLines { nodes, limits });
}

/// In which order nodes are asked for memory near to each (Linux: `build_all_zonelists`, mm/page_alloc.c).
pub fn order<A: ZoneFrames>(zones: &Zones<'_, A>, topology: &Topology) {
    let online = || online(zones, topology);
    for node in online() {
        info_lines!("{}", FallbackLine { zones, node });
    }
    info_lines!(
        "Built {} zonelists, mobility grouping off.  Total pages: {}",
        online().count(),
        zones.managed_frames()
    );
}

/// The nodes that have memory or CPUs, as Linux lists them.
fn online<A: ZoneFrames>(
    zones: &Zones<'_, A>,
    topology: &Topology,
) -> impl Iterator<Item = NodeId> {
    NodeId::all().filter(|node| topology.has_cpus(*node) || zones.has_memory(*node))
}
