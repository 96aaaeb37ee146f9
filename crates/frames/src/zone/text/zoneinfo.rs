//! `/proc/zoneinfo`, in the form of Linux 6.12 (`zoneinfo_show_print`, mm/vmstat.c).

use core::fmt;

use crate::zone::{
    MAX_NODES, NodeId, Reserves, Zone, ZoneFrames, ZoneKind, ZoneSpan, Zones, stat_threshold,
};

/// A figure with a name, for example `nr_free_pages`.
pub type Counter<'a> = (&'a str, u64);

/// What one CPU keeps of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pageset {
    /// Frames in its list.
    pub count: u64,
    /// Above so many, it gives some back.
    pub high: u64,
    /// How many move at once.
    pub batch: u64,
}

/// The text of `/proc/zoneinfo`: every kind of zone of every node, those without memory in short.
///
/// Nodes without memory are listed when they are [named](Self::with_node), as Linux lists those that have CPUs.
///
/// Per node, in its first zone with memory, the counters of [`with_node_counters`](Self::with_node_counters) are listed; per
/// zone `nr_free_pages`.
#[derive(Clone, Copy)]
pub struct Zoneinfo<'a, A, P> {
    zones: &'a Zones<'a, A>,
    cpus: u32,
    pageset: P,
    node_counters: &'a [Counter<'a>],
    /// A bit for each node.
    named: u64,
}

const _: () = assert!(MAX_NODES as u32 <= u64::BITS, "a bit for each node");

impl<'a, A: ZoneFrames, P: Fn(&Zone<A>, u32) -> Pageset> Zoneinfo<'a, A, P> {
    /// The text for `zones` on a machine with `cpus` CPUs; `pageset` says what a CPU keeps of a zone.
    pub const fn new(zones: &'a Zones<'a, A>, cpus: u32, pageset: P) -> Self {
        Self {
            zones,
            cpus,
            pageset,
            node_counters: &[],
            named: 0,
        }
    }

    /// The same with this node, whether it has memory or not.
    #[must_use]
    pub fn with_node(self, node: NodeId) -> Self {
        Self {
            named: self.named | 1 << node.get(),
            ..self
        }
    }

    /// The same with `per-node stats`.
    #[must_use]
    pub fn with_node_counters(self, node_counters: &'a [Counter<'a>]) -> Self {
        Self {
            node_counters,
            ..self
        }
    }

    fn zone(&self, f: &mut fmt::Formatter<'_>, node: NodeId, kind: ZoneKind) -> fmt::Result {
        write!(f, "Node {node}, zone {kind:>8}")?;
        let zone = self.zones.populated(node, kind);
        if zone.is_some() && self.is_first(node, kind) && !self.node_counters.is_empty() {
            f.write_str("\n  per-node stats")?;
            for (name, value) in self.node_counters {
                write!(f, "\n      {name:<12} {value}")?;
            }
        }
        self.frames(f, zone, node, kind)?;
        let Some(zone) = zone else {
            return f.write_str("\n");
        };
        let free = zone.frames().free_frames_exact();
        write!(f, "\n      {:<12} {free}", "nr_free_pages")?;
        self.pagesets(f, zone)?;
        write!(
            f,
            "\n  node_unreclaimable:  0\n  start_pfn:           {}\n",
            zone.span().start()
        )
    }

    fn is_first(&self, node: NodeId, kind: ZoneKind) -> bool {
        let mut kinds = self.zones.limits().kinds().iter();
        kinds.find(|kind| self.zones.populated(node, **kind).is_some()) == Some(&kind)
    }

    fn frames(
        &self,
        f: &mut fmt::Formatter<'_>,
        zone: Option<&Zone<A>>,
        node: NodeId,
        kind: ZoneKind,
    ) -> fmt::Result {
        let marks = match zone {
            Some(zone) => zone.watermarks(),
            None => Reserves::WITHOUT_MEMORY.watermarks(kind, 0),
        };
        let span = zone.map_or(ZoneSpan::empty(node, kind), Zone::span);
        let frames = zone.map(Zone::frames);
        write!(
            f,
            "\n  pages free     {}\n        boost    0\n        min      {}\n        low      {}\n        high     {}\n        \
             promo    {}\n        spanned  {}\n        present  {}\n        managed  {}\n        cma      0\n        \
             protection: (",
            frames.map_or(0, ZoneFrames::free_frames_exact),
            marks.min,
            marks.low,
            marks.high,
            marks.promo,
            span.spanned(),
            span.present(),
            frames.map_or(0, ZoneFrames::managed_frames),
        )?;
        let protection = zone.map(Zone::protection).unwrap_or_default();
        for (index, highest) in self.zones.limits().kinds().iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", protection.from(*highest))?;
        }
        f.write_str(")")
    }

    fn pagesets(&self, f: &mut fmt::Formatter<'_>, zone: &Zone<A>) -> fmt::Result {
        let managed = zone.frames().managed_frames();
        f.write_str("\n  pagesets")?;
        for cpu in 0..self.cpus {
            let Pageset { count, high, batch } = (self.pageset)(zone, cpu);
            write!(
                f,
                "\n    cpu: {cpu}\n              count: {count}\n              high:  {high}\n              batch: {batch}\
                 \n  vm stats threshold: {}",
                stat_threshold(managed, self.cpus.into())
            )?;
        }
        Ok(())
    }
}

impl<A: ZoneFrames, P: Fn(&Zone<A>, u32) -> Pageset> fmt::Display for Zoneinfo<'_, A, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |node: NodeId| self.named >> node.get() & 1 == 1;
        let listed = |node: &NodeId| named(*node) || self.zones.has_memory(*node);
        for node in NodeId::all().filter(listed) {
            for kind in self.zones.limits().kinds() {
                self.zone(f, node, *kind)?;
            }
        }
        Ok(())
    }
}

impl<A, P> fmt::Debug for Zoneinfo<'_, A, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zoneinfo")
            .field("cpus", &self.cpus)
            .finish_non_exhaustive()
    }
}
