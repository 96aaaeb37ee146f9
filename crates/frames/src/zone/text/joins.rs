//! What Linux's boot log says when it joins ranges of one node (`numa_cleanup_meminfo`, mm/numa_memblks.c).

use core::fmt;

use kspace_layout::{PhysAddr, PhysRange};

use crate::zone::{Affinity, MAX_AFFINITIES, Nodes};

/// `NUMA: Node 0 [mem …] + [mem …] -> [mem …]`: two ranges that the firmware says are near to one node, with nothing of another node
/// between them. What lies between is near to that node, too: so [`Nodes`] takes RAM that no affinity claims.
#[derive(Clone, Copy, Debug)]
pub struct JoinLines<'a> {
    /// What the firmware says.
    pub affinities: &'a [Affinity],
    /// The RAM.
    pub nodes: &'a Nodes,
}

/// A range of a node, `None` once it was joined to another.
type Slot = Option<(u32, PhysRange)>;

impl JoinLines<'_> {
    /// The affinities, cut to where there is RAM at all.
    fn slots(&self) -> [Slot; MAX_AFFINITIES] {
        let mut blocks = self.nodes.blocks();
        let first = blocks.next();
        let last = blocks.next_back().or(first);
        let around = first
            .zip(last)
            .map(|(first, last)| join(first.range(), last.range()));
        let mut slots = [None; MAX_AFFINITIES];
        for (slot, affinity) in slots.iter_mut().zip(self.affinities) {
            *slot = around
                .and_then(|around| around.intersection(affinity.range))
                .map(|range| (affinity.node, range));
        }
        slots
    }
}

/// From the start of the lower to the end of the higher.
fn join(one: PhysRange, other: PhysRange) -> PhysRange {
    let start: PhysAddr = one.start().min(other.start());
    let last = one.last().max(other.last());
    PhysRange::new(start, last.as_u64() - start.as_u64() + 1)
}

impl fmt::Display for JoinLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut slots = self.slots();
        let used = self.affinities.len().min(MAX_AFFINITIES);
        let slots = &mut slots[..used];
        for low in 0..slots.len() {
            for high in low + 1..slots.len() {
                let (Some((node, one)), Some((other, two))) = (slots[low], slots[high]) else {
                    continue;
                };
                let joined = join(one, two);
                let foreign = |slot: &Slot| {
                    slot.is_some_and(|(owner, range)| owner != node && range.overlaps(joined))
                };
                if other != node || slots.iter().any(foreign) {
                    continue;
                }
                slots[low] = Some((node, joined));
                slots[high] = None;
                let (one, two, joined) = (Mem(one), Mem(two), Mem(joined));
                writeln!(f, "NUMA: Node {node} {one} + {two} -> {joined}")?;
            }
        }
        Ok(())
    }
}

/// `[mem 0x00001000-0x0009ffff]`.
struct Mem(PhysRange);

impl fmt::Display for Mem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, last) = (self.0.start(), self.0.last());
        write!(f, "[mem {start:#010x}-{last:#010x}]")
    }
}
