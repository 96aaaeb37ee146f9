//! What Linux's boot log says of nodes and zones (`free_area_init`, mm/mm_init.c). Lines end without a line break after the
//! last, as log messages do.

use core::fmt;

use kspace_layout::FRAME_SIZE;

use crate::zone::{
    NodeId, Nodes, SECTION_BYTES, Section, ZoneFrames, ZoneKind, ZoneLimits, ZoneSpan, Zones,
};

/// Frames from the first to before `end`, as `[mem 0x0000000000001000-0x0000000000ffffff]`.
struct Mem(u64, u64);

impl fmt::Display for Mem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.1 * FRAME_SIZE - 1;
        write!(f, "[mem {:#018x}-{last:#018x}]", self.0 * FRAME_SIZE)
    }
}

/// `Zone ranges:`, and which addresses each kind of zone has, Movable's start on each node, and all ranges of RAM with their
/// nodes.
#[derive(Clone, Copy, Debug)]
pub struct ZoneRanges<'a> {
    /// The RAM.
    pub nodes: &'a Nodes,
    /// The kinds of zone.
    pub limits: &'a ZoneLimits,
}

impl fmt::Display for ZoneRanges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, end) = (self.nodes.first(), self.nodes.end());
        f.write_str("Zone ranges:")?;
        for kind in self
            .limits
            .kinds()
            .iter()
            .filter(|kind| **kind != ZoneKind::Movable)
        {
            let bounds = self.limits.bounds(*kind).unwrap_or((0, 0));
            let (start, stop) = (bounds.0.max(first), bounds.1.min(end));
            if start < stop {
                write!(f, "\n  {kind:<8} {}", Mem(start, stop))?;
            } else {
                write!(f, "\n  {kind:<8} empty")?;
            }
        }
        f.write_str("\nMovable zone start for each node")?;
        for node in self.nodes.nodes() {
            let zone = self.nodes.zone(self.limits, node, ZoneKind::Movable);
            if zone.spanned() > 0 {
                write!(f, "\n  Node {node}: {:#018x}", zone.start() * FRAME_SIZE)?;
            }
        }
        f.write_str("\nEarly memory node ranges")?;
        for block in self.nodes.blocks() {
            let (start, end) = block.frames();
            write!(
                f,
                "\n  node {:>3}: {}",
                block.node(),
                Mem(start.as_u64(), end)
            )?;
        }
        Ok(())
    }
}

/// `Initmem setup node 0 [mem …]`: from a node's first frame to its last.
#[derive(Clone, Copy, Debug)]
pub struct NodeLines<'a> {
    /// The RAM.
    pub nodes: &'a Nodes,
    /// The node.
    pub node: NodeId,
}

impl fmt::Display for NodeLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.node;
        match self.nodes.bounds_of(node) {
            Some((start, end)) => write!(f, "Initmem setup node {node} {}", Mem(start, end)),
            None => write!(f, "Initmem setup node {node} as memoryless"),
        }
    }
}

/// `On node 0, zone DMA: 97 pages in unavailable ranges`: frames that have a record, because RAM is in their section, and are no
/// RAM themselves (Linux: `memmap_init`, `init_unavailable_range`, mm/mm_init.c). They count for the zone above them, and
/// behind the last RAM for the highest zone.
#[derive(Clone, Copy, Debug)]
pub struct UnavailableLines<'a> {
    /// The RAM.
    pub nodes: &'a Nodes,
    /// The kinds of zone.
    pub limits: &'a ZoneLimits,
}

impl UnavailableLines<'_> {
    /// How many frames from `first` to before `end` lie in sections with RAM.
    fn recorded(&self, first: u64, end: u64) -> u64 {
        const FRAMES: u64 = SECTION_BYTES / FRAME_SIZE;
        let inside = self.nodes.sections().map(|section: Section| {
            let start = section.range().start().pfn().as_u64();
            end.min(start + FRAMES).saturating_sub(first.max(start))
        });
        inside.sum()
    }

    fn line(&self, f: &mut fmt::Formatter<'_>, zone: ZoneSpan, pages: u64) -> fmt::Result {
        let (node, kind) = (zone.node(), zone.kind());
        match pages {
            0 => Ok(()),
            _ => writeln!(
                f,
                "On node {node}, zone {kind}: {pages} pages in unavailable ranges"
            ),
        }
    }
}

impl fmt::Display for UnavailableLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FRAMES: u64 = SECTION_BYTES / FRAME_SIZE;
        let (mut done, mut last) = (0, None);
        for block in self.nodes.blocks() {
            let (start, end) = block.frames();
            for kind in self.limits.kinds() {
                let zone = self.nodes.zone(self.limits, block.node(), *kind);
                let (start, end) = (start.as_u64().max(zone.start()), end.min(zone.end()));
                if start < end {
                    self.line(f, zone, self.recorded(done, start))?;
                    (done, last) = (end, Some(zone));
                }
            }
        }
        match last {
            Some(zone) => self.line(f, zone, self.recorded(done, done.next_multiple_of(FRAMES))),
            None => Ok(()),
        }
    }
}

/// `Fallback order for Node 0: 0 1 `: the nodes in the order in which they are asked for memory near to this one, with a space behind
/// each (Linux: `build_zonelists`, mm/page_alloc.c).
#[derive(Clone, Copy)]
pub struct FallbackLine<'a, A> {
    /// The zones.
    pub zones: &'a Zones<'a, A>,
    /// The node.
    pub node: NodeId,
}

impl<A: ZoneFrames> fmt::Display for FallbackLine<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fallback order for Node {}: ", self.node)?;
        let order = self.zones.order.of(self.node);
        let mut with_memory = order.iter().filter(|node| self.zones.has_memory(**node));
        with_memory.try_for_each(|node| write!(f, "{node} "))
    }
}

impl<A> fmt::Debug for FallbackLine<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FallbackLine({})", self.node)
    }
}

/// A zone's frames, and those that the records of its frames take:
/// `  DMA zone: 64 pages used for memmap` and `  DMA zone: 3997 pages, LIFO batch:0`.
#[derive(Clone, Copy, Debug)]
pub struct ZoneLines {
    /// The zone.
    pub span: ZoneSpan,
    /// Bytes of a frame's record.
    pub record_bytes: u64,
}

impl fmt::Display for ZoneLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.span.kind();
        let records = self.span.record_frames(self.record_bytes);
        write!(
            f,
            "  {kind} zone: {records} pages used for memmap\n  {kind} zone: {} pages, LIFO batch:{}",
            self.span.present(),
            crate::zone::batch(self.span.present())
        )
    }
}
