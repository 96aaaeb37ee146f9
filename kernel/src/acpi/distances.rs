//! How far nodes are from each other: the System Locality Information Table (ACPI 6.5, section 5.2.17).
//!
//! ```text
//!   0         36     44
//!   | header  | n 8  | 0 to 0 | 0 to 1 | … | 0 to n-1 | 1 to 0 | …      one byte each; 10 is a node to itself, 255 out of reach
//! ```

use kspace_frames::zone::{LOCAL_DISTANCE, MAX_NODES, NodeId, REMOTE_DISTANCE};

use super::topology::TopologyNote;

/// Where the number of localities is, and the first distance.
const LOCALITIES: usize = 36;
const MATRIX: usize = 44;

/// The distance from each node to each. There need not be as far back as forth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Distances([[u8; MAX_NODES]; MAX_NODES]);

impl Distances {
    /// What holds when the firmware does not say: all others equally far.
    pub const UNKNOWN: Self = {
        let mut all = [[REMOTE_DISTANCE; MAX_NODES]; MAX_NODES];
        let mut node = 0;
        while node < MAX_NODES {
            all[node][node] = LOCAL_DISTANCE;
            node += 1;
        }
        Self(all)
    };

    /// The distance from one node to another: 10 to itself, more to others.
    #[must_use]
    pub const fn between(&self, from: NodeId, to: NodeId) -> u8 {
        self.0[from.index()][to.index()]
    }

    /// Reads the table; `node_of` says which node a proximity domain is.
    ///
    /// # Errors
    ///
    /// [`TopologyNote::BadDistances`], [`TopologyNote::BadDistance`], as Linux refuses a table (`slit_valid`,
    /// drivers/acpi/numa/srat.c): a node that is not 10 from itself, or another that is not farther than that.
    pub(super) fn read(
        table: &[u8],
        node_of: impl Fn(u32) -> Option<NodeId>,
    ) -> Result<Self, TopologyNote> {
        let localities = table.get(LOCALITIES..).and_then(<[u8]>::first_chunk);
        let localities = localities.map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let wrong_size = TopologyNote::BadDistances {
            localities,
            length: table.len(),
        };
        let size = usize::try_from(localities).map_err(|_| wrong_size)?;
        let matrix = table.get(MATRIX..).unwrap_or_default();
        let cells = size.checked_mul(size).filter(|cells| *cells > 0);
        let matrix = cells
            .and_then(|cells| matrix.get(..cells))
            .ok_or(wrong_size)?;
        let mut distances = Self::UNKNOWN;
        for (from, row) in (0..).zip(matrix.chunks_exact(size)) {
            for (to, distance) in (0..).zip(row.iter().copied()) {
                let believable = if from == to {
                    distance == LOCAL_DISTANCE
                } else {
                    distance > LOCAL_DISTANCE
                };
                if !believable {
                    return Err(TopologyNote::BadDistance { from, to, distance });
                }
                if let (Some(from), Some(to)) = (node_of(from), node_of(to)) {
                    distances.0[from.index()][to.index()] = distance;
                }
            }
        }
        Ok(distances)
    }
}
