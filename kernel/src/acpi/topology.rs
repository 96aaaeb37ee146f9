//! Which memory and which CPUs are near to each other, as ACPI's tables SRAT and SLIT say.
//!
//! ```text
//!   SRAT   CPU 0 -> domain 7    CPU 1 -> domain 3    [mem …] -> domain 7    [mem …] -> domain 3
//!                     |                    |
//!                  node 0               node 1        in the order in which domains appear, CPUs first, as in Linux
//! ```
//!
//! The firmware's domains are any numbers; nodes are small ones without gaps, because arrays are indexed by them.

use core::cell::Cell;
use core::fmt;

use acpi::sdt::{SdtHeader, Signature};
use acpi::{AcpiError, AcpiHandler, AcpiTable, PhysicalMapping};
use kspace_frames::zone::{Affinity, MAX_AFFINITIES, MAX_NODES, NodeId};
use kspace_layout::{PhysAddr, PhysRange};

use super::distances::Distances;
use super::memory::{self, Reach};
use super::srat::{self, Entry};
use super::{AcpiProblem, MAX_CPUS};

/// What the tables say. A plain value.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    affinities: [Affinity; MAX_AFFINITIES],
    affinity_count: usize,
    cpus: [(u32, NodeId); MAX_CPUS],
    cpu_count: usize,
    domains: Domains,
    distances: Distances,
}

impl Topology {
    /// Nothing known: all memory and all CPUs are one node.
    pub const ONE_NODE: Self = Self {
        affinities: [Affinity {
            node: 0,
            range: PhysRange::new(PhysAddr::ZERO, 1),
            hot_pluggable: false,
        }; MAX_AFFINITIES],
        affinity_count: 0,
        cpus: [(0, NodeId::ZERO); MAX_CPUS],
        cpu_count: 0,
        domains: Domains {
            numbers: [0; MAX_NODES],
            count: 0,
        },
        distances: Distances::UNKNOWN,
    };

    /// Which addresses are near to which node, in the firmware's order. Empty when it does not say.
    #[must_use]
    pub fn affinities(&self) -> &[Affinity] {
        &self.affinities[..self.affinity_count]
    }

    /// The node of the CPU with this local APIC; node 0 when the firmware does not say.
    #[must_use]
    pub fn node_of_apic(&self, apic_id: u32) -> NodeId {
        self.known_node(apic_id).unwrap_or(NodeId::ZERO)
    }

    /// The distance from one node to another.
    #[must_use]
    pub const fn distance(&self, from: NodeId, to: NodeId) -> u8 {
        self.distances.between(from, to)
    }

    /// The nodes that the firmware names, whether they have memory or not; only node 0 when it names none.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + Clone {
        NodeId::all().take(self.domains.count.max(1))
    }

    /// Whether the firmware says that a CPU is near to `node`.
    #[must_use]
    pub fn has_cpus(&self, node: NodeId) -> bool {
        let cpus = &self.cpus[..self.cpu_count];
        cpus.iter().any(|(_, near)| *near == node)
    }

    fn known_node(&self, apic_id: u32) -> Option<NodeId> {
        let cpus = &self.cpus[..self.cpu_count];
        let cpu = cpus.iter().find(|(known, _)| *known == apic_id);
        cpu.map(|(_, node)| *node)
    }

    /// Reads the tables' bytes; `note` hears what they say and what is wrong with them.
    #[must_use]
    pub fn read(srat: &[u8], slit: Option<&[u8]>, note: &mut impl FnMut(TopologyNote)) -> Self {
        let mut topology = Self::ONE_NODE;
        let entries = match srat::entries(srat) {
            Ok(entries) => entries,
            Err(problem) => {
                note(problem);
                return topology;
            }
        };
        // Linux reads processors before memory, and so the numbers of nodes follow.
        for entry in entries {
            if let Entry::Cpu { domain, apic_id } = entry {
                topology.add_cpu(domain, apic_id).unwrap_or_else(&mut *note);
            }
        }
        for entry in entries {
            if let Entry::Memory {
                domain,
                base,
                length,
                hot_pluggable,
            } = entry
            {
                note(topology.add_memory(domain, (base, length), hot_pluggable));
            }
        }
        let domains = topology.domains;
        match slit.map(|table| Distances::read(table, |domain| domains.find(domain))) {
            Some(Ok(distances)) => topology.distances = distances,
            Some(Err(problem)) => note(problem),
            None => {}
        }
        topology
    }

    fn add_cpu(&mut self, domain: u32, apic_id: u32) -> Result<(), TopologyNote> {
        let node = self.domains.node(domain)?;
        match self.known_node(apic_id) {
            Some(known) if known != node => Err(TopologyNote::CpuTwice {
                apic_id,
                node: known,
                claimed: node,
            }),
            Some(_) => Ok(()),
            None => {
                let slot = self.cpus.get_mut(self.cpu_count);
                *slot.ok_or(TopologyNote::TooManyCpus { apic_id })? = (apic_id, node);
                self.cpu_count += 1;
                Ok(())
            }
        }
    }

    /// What is to be said about it, good or bad.
    fn add_memory(
        &mut self,
        domain: u32,
        (base, length): (u64, u64),
        hot_pluggable: bool,
    ) -> TopologyNote {
        let start = PhysAddr::try_new(base);
        let Some(range) = start
            .and_then(|start| PhysRange::try_new(start, length))
            .ok()
        else {
            return TopologyNote::BadRange {
                domain,
                base,
                length,
            };
        };
        let Some(slot) = self.affinities.get_mut(self.affinity_count) else {
            return TopologyNote::TooManyRanges { domain, range };
        };
        let node = match self.domains.node(domain) {
            Ok(node) => node,
            Err(problem) => return problem,
        };
        *slot = Affinity {
            node: node.get().into(),
            range,
            hot_pluggable,
        };
        self.affinity_count += 1;
        TopologyNote::Memory {
            node,
            domain,
            range,
            hot_pluggable,
        }
    }
}

/// The proximity domains by node.
#[derive(Clone, Copy, Debug)]
struct Domains {
    numbers: [u32; MAX_NODES],
    count: usize,
}

impl Domains {
    fn find(&self, domain: u32) -> Option<NodeId> {
        let numbers = &self.numbers[..self.count];
        let place = numbers.iter().position(|known| *known == domain)?;
        NodeId::try_new(u32::try_from(place).ok()?)
    }

    /// The node of a domain: the next free one when the domain is new.
    fn node(&mut self, domain: u32) -> Result<NodeId, TopologyNote> {
        if let Some(node) = self.find(domain) {
            return Ok(node);
        }
        let too_many = TopologyNote::TooManyDomains { domain };
        *self.numbers.get_mut(self.count).ok_or(too_many)? = domain;
        self.count += 1;
        self.find(domain).ok_or(too_many)
    }
}

/// What is said about the tables while they are read: what they contain, in Linux's words, and what was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyNote {
    /// A range of addresses and its node.
    Memory {
        /// The node.
        node: NodeId,
        /// The firmware's number for it.
        domain: u32,
        /// The addresses.
        range: PhysRange,
        /// Memory can be plugged in and out.
        hot_pluggable: bool,
    },
    /// A table that cannot be read, so that nobody knows which one it is.
    Unreadable {
        /// Where.
        at: u64,
        /// Its length in bytes.
        size: usize,
    },
    /// A table whose bytes do not add up to zero; not used.
    BadSum {
        /// Its signature.
        table: &'static str,
    },
    /// SRAT's entries do not form a chain; the one at this offset is broken. None is used.
    BadEntry {
        /// Bytes from the start of the table.
        offset: usize,
        /// The length that the entry claims.
        length: usize,
    },
    /// More domains than there can be nodes; the entry was ignored.
    TooManyDomains {
        /// The domain for which there is no node left.
        domain: u32,
    },
    /// Addresses that there cannot be; the entry was ignored.
    BadRange {
        /// The domain.
        domain: u32,
        /// The first address.
        base: u64,
        /// Bytes.
        length: u64,
    },
    /// More ranges than are kept; the entry was ignored.
    TooManyRanges {
        /// The domain.
        domain: u32,
        /// The addresses.
        range: PhysRange,
    },
    /// More CPUs than are kept; the entry was ignored.
    TooManyCpus {
        /// The CPU's local APIC.
        apic_id: u32,
    },
    /// A CPU that is near to two nodes; the first holds.
    CpuTwice {
        /// The CPU's local APIC.
        apic_id: u32,
        /// The node that it has.
        node: NodeId,
        /// The node that the second entry says.
        claimed: NodeId,
    },
    /// SLIT has not the size of its matrix; not used.
    BadDistances {
        /// How many localities it claims.
        localities: u64,
        /// Its length in bytes.
        length: usize,
    },
    /// SLIT has a distance that cannot be; not used.
    BadDistance {
        /// From this domain.
        from: u32,
        /// To this one.
        to: u32,
        /// The distance.
        distance: u8,
    },
}

impl fmt::Display for TopologyNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Memory {
                node,
                domain,
                range,
                hot_pluggable,
            } => {
                let (start, last) = (range.start(), range.last());
                let plug = if hot_pluggable { " hotplug" } else { "" };
                write!(
                    f,
                    "ACPI: SRAT: Node {node} PXM {domain} [mem {start:#010x}-{last:#010x}]{plug}"
                )
            }
            Self::Unreadable { at, size } => write!(
                f,
                "ACPI: a table of {size} bytes at {at:016x} cannot be read; if it is SRAT or SLIT, it is not used"
            ),
            Self::BadSum { table } => write!(
                f,
                "ACPI: {table}: its bytes do not add up to zero; it is not used"
            ),
            Self::BadEntry { offset, length } => write!(
                f,
                "ACPI: SRAT: the entry at offset {offset} has {length} bytes, which cannot be; the table is not used, all is node 0"
            ),
            Self::TooManyDomains { domain } => write!(
                f,
                "ACPI: SRAT: proximity domain {domain} would be one more than {MAX_NODES}; the entry is ignored"
            ),
            Self::BadRange {
                domain,
                base,
                length,
            } => write!(
                f,
                "ACPI: SRAT: {length:#x} bytes at {base:#x} in domain {domain} are no addresses; the entry is ignored"
            ),
            Self::TooManyRanges { domain, range } => write!(
                f,
                "ACPI: SRAT: {range} in domain {domain} is one range more than {MAX_AFFINITIES}; the entry is ignored"
            ),
            Self::TooManyCpus { apic_id } => write!(
                f,
                "ACPI: SRAT: APIC {apic_id} is one more than {MAX_CPUS}; it is taken as near node 0"
            ),
            Self::CpuTwice {
                apic_id,
                node,
                claimed,
            } => write!(
                f,
                "ACPI: SRAT: APIC {apic_id} is near node {node} and near node {claimed}; taken as near node {node}"
            ),
            Self::BadDistances { localities, length } => write!(
                f,
                "ACPI: SLIT: {length} bytes are not {localities} localities; the table is not used, all other nodes are equally far"
            ),
            Self::BadDistance { from, to, distance } => write!(
                f,
                "ACPI: SLIT: a distance of {distance} from domain {from} to {to} cannot be; the table is not used, all other \
                 nodes are equally far"
            ),
        }
    }
}

/// Reads SRAT and SLIT, which [`processors`](super::processors) has shown to be in reach; without them all is one node.
///
/// `note` hears what they say and what is wrong with them. What is wrong with the way to them, `processors` has said.
#[must_use]
pub fn topology(
    memory: &impl Reach,
    rsdp: Option<PhysAddr>,
    mut note: impl FnMut(TopologyNote),
) -> Topology {
    let problem: Cell<Option<AcpiProblem>> = Cell::new(None);
    let Ok(tables) = memory::open(memory, rsdp, &problem) else {
        return Topology::ONE_NODE;
    };
    let srat = tables.find_table::<Srat>().ok();
    let slit = tables.find_table::<Slit>().ok();
    if let Some(AcpiProblem::BadTable { at, size }) = problem.get() {
        note(TopologyNote::Unreadable { at, size });
    }
    let Some(srat) = srat.as_ref().and_then(|table| sound(table, &mut note)) else {
        return Topology::ONE_NODE;
    };
    let slit = slit.as_ref().and_then(|table| sound(table, &mut note));
    Topology::read(srat, slit, &mut note)
}

/// A table's bytes, if they add up to zero.
fn sound<'a, H: AcpiHandler, T: AcpiTable>(
    table: &'a PhysicalMapping<H, T>,
    note: &mut impl FnMut(TopologyNote),
) -> Option<&'a [u8]> {
    // SAFETY: the handler made the mapping, of this many bytes.
    let bytes: &[u8] = unsafe {
        core::slice::from_raw_parts(table.virtual_start().as_ptr().cast(), table.region_length())
    };
    if bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0 {
        return Some(bytes);
    }
    let table = if T::SIGNATURE == Signature::SRAT {
        "SRAT"
    } else {
        "SLIT"
    };
    note(TopologyNote::BadSum { table });
    None
}

/// The header of SRAT.
#[repr(transparent)]
struct Srat(SdtHeader);

/// The header of SLIT.
#[repr(transparent)]
struct Slit(SdtHeader);

macro_rules! table {
    ($name:ident, $signature:ident) => {
        // SAFETY: a header and nothing more, which every table has.
        unsafe impl AcpiTable for $name {
            const SIGNATURE: Signature = Signature::$signature;

            fn header(&self) -> &SdtHeader {
                &self.0
            }

            /// The crate skips a table with a wrong sum without a word; [`sound`] says so instead.
            fn validate(&self) -> Result<(), AcpiError> {
                if self.0.signature == Self::SIGNATURE {
                    Ok(())
                } else {
                    Err(AcpiError::SdtInvalidSignature(Self::SIGNATURE))
                }
            }
        }
    };
}

table!(Srat, SRAT);
table!(Slit, SLIT);

#[cfg(test)]
mod tests;
