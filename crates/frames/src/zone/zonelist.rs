//! In which order nodes are asked for memory: a node itself, then the nearest others.

use super::{MAX_NODES, NodeId};

/// How far a node is from itself, by definition (ACPI 6.5, section 5.2.17: System Locality Distance).
pub const LOCAL_DISTANCE: u8 = 10;

/// How far nodes are from each other when the firmware does not say (Linux: `REMOTE_DISTANCE`).
pub const REMOTE_DISTANCE: u8 = 20;

/// For each node, the order in which nodes are asked.
#[derive(Clone, Copy, Debug)]
pub struct NodeOrder {
    /// Nodes with memory, in the order for each node; `len` of them.
    order: [[NodeId; MAX_NODES]; MAX_NODES],
    len: usize,
}

impl NodeOrder {
    /// No nodes.
    pub(super) const NONE: Self = Self {
        order: [[NodeId::ZERO; MAX_NODES]; MAX_NODES],
        len: 0,
    };

    /// The order among the nodes that `has_memory`, by the distance from the first node to the second.
    ///
    /// As Linux chooses it (`find_next_best_node`, mm/page_alloc.c): the nearest first; of nodes equally far, the ones with
    /// higher numbers before those with lower ones, so that neighbours do not all turn to node 0; and of those, the one that
    /// fewer others have as their first choice at that distance. A node without memory has an order, too.
    #[must_use]
    pub fn new(
        has_memory: impl Fn(NodeId) -> bool,
        distance: impl Fn(NodeId, NodeId) -> u8,
    ) -> Self {
        let mut all = Self::NONE;
        all.fill(has_memory, distance);
        all
    }

    /// Makes it the order that [`new`](Self::new) returns, where it is.
    pub(super) fn fill(
        &mut self,
        has_memory: impl Fn(NodeId) -> bool,
        distance: impl Fn(NodeId, NodeId) -> u8,
    ) {
        let mut nodes = [NodeId::ZERO; MAX_NODES];
        self.len = 0;
        for node in NodeId::all().filter(|node| has_memory(*node)) {
            nodes[self.len] = node;
            self.len += 1;
        }
        let nodes = &nodes[..self.len];
        let mut load = [0_u32; MAX_NODES];
        for local in NodeId::all() {
            let mut used = [false; MAX_NODES];
            let mut previous = LOCAL_DISTANCE;
            for place in 0..self.len {
                let cost = |node: &NodeId| {
                    let far = u32::from(distance(local, *node)) + u32::from(*node < local);
                    let own = *node == local;
                    (!own, far, load[node.index()])
                };
                let unused = nodes.iter().copied().filter(|node| !used[node.index()]);
                let best = unused.min_by_key(cost);
                let Some(best) = best else { break };
                used[best.index()] = true;
                self.order[local.index()][place] = best;
                let far = distance(local, best);
                if best != local && far != previous {
                    load[best.index()] += u32::from(has_memory(local));
                    previous = far;
                }
            }
        }
    }

    /// The nodes with memory, in the order in which they are asked for `local`.
    #[must_use]
    pub fn of(&self, local: NodeId) -> &[NodeId] {
        &self.order[local.index()][..self.len]
    }
}
