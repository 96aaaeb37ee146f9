//! What memory is brought up from: nodes and the places of the books, as plain values.
//!
//! The first stage makes them, where the stack is large; they survive the image's move.

use core::fmt;

use kspace::vmemmap;
use kspace_frames::MemoryMap;
use kspace_frames::zone::{NodeError, Nodes, Vmemmap, VmemmapError, VmemmapPlan, ZoneLimits};
use kspace_layout::{Layout, PageSize};

use crate::acpi::Topology;
use crate::arch;
use crate::info;

/// Nodes and zones as they will be.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// All RAM, by node.
    pub nodes: Nodes,
    /// Which kinds of zone there are.
    pub limits: ZoneLimits,
    /// Where the books on all frames lie.
    pub vmemmap: Vmemmap,
}

impl Ground {
    /// What `map` and `topology` say, for a machine on which there can be `cpus` CPUs. Affinities that cannot be used are
    /// reported, and all is one node then.
    ///
    /// # Errors
    ///
    /// [`GroundError`].
    pub fn survey(
        layout: &Layout,
        map: &MemoryMap,
        topology: &Topology,
        cpus: usize,
    ) -> Result<Self, GroundError> {
        let mut affinities = topology.affinities();
        let nodes = match Nodes::new(map, affinities, |repair| info!("{repair}")) {
            Ok(nodes) => nodes,
            Err(error) => {
                info!("{error}");
                affinities = &[];
                Nodes::new(map, affinities, |_| {})?
            }
        };
        let limits = arch::zone_limits(layout);
        let vmemmap = vmemmap::arrange(layout, &nodes, &limits, affinities, cpus)?;
        Ok(Self {
            nodes,
            limits,
            vmemmap,
        })
    }

    /// Which pages of the books are backed.
    #[must_use]
    pub const fn vmemmap_plan(&self) -> VmemmapPlan<'_> {
        VmemmapPlan::new(&self.vmemmap, &self.nodes, PageSize::Size2M)
    }
}

/// Why memory cannot be divided.
#[derive(Debug)]
pub enum GroundError {
    /// Not even without affinities.
    Nodes(NodeError),
    /// The books have no place.
    Vmemmap(VmemmapError),
}

impl fmt::Display for GroundError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes(error) => error.fmt(f),
            Self::Vmemmap(error) => error.fmt(f),
        }
    }
}

impl From<NodeError> for GroundError {
    fn from(error: NodeError) -> Self {
        Self::Nodes(error)
    }
}

impl From<VmemmapError> for GroundError {
    fn from(error: VmemmapError) -> Self {
        Self::Vmemmap(error)
    }
}
