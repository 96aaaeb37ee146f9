//! What adding a range would mean, and whether it can be done: nothing is changed here.

use kspace_frames::FrameAllocator;
use kspace_frames::zone::{NodeId, Nodes, Vmemmap, VmemmapPlan, VmemmapRun, Zone};
use kspace_layout::{AreaKind, PageSize, PhysRange, VirtRange};
use kspace_paging::{Editor, EntryFormat, FrameSource, PhysMemory};

use super::direct::Direct;
use super::{Arranged, HotAddError, Known, frames_of};
use crate::vmemmap::{self, Built};

/// A range that can be added.
pub(super) struct Prepared {
    pub(super) direct: Direct,
    /// Area vmemmap.
    pub(super) area: VirtRange,
    /// What of it is to be backed.
    pub(super) built: Built,
    /// Page tables that are needed, at most.
    pub(super) tables: u64,
}

/// Makes `next` what will be known.
pub(super) fn extend(
    known: &Known,
    next: &mut Known,
    node: NodeId,
    range: PhysRange,
) -> Result<(), HotAddError> {
    next.clone_from(known);
    next.nodes.add(node, range).map_err(HotAddError::Nodes)?;
    next.map.plug(range).map_err(HotAddError::Map)?;
    let last = known.layout.last_ram().max(range.last());
    next.layout = known
        .layout
        .with_last_ram(last)
        .map_err(HotAddError::Layout)?;
    Ok(())
}

impl Prepared {
    pub(super) fn new<F: EntryFormat, M: PhysMemory, S: FrameSource>(
        editor: &Editor<'_, F, M, S>,
        known: &Known,
        next: &Known,
        arranged: &Arranged<'_, '_>,
        range: PhysRange,
    ) -> Result<Self, HotAddError> {
        check_zones(&next.nodes, arranged, range)?;
        let direct = Direct::new(editor, next, range)?;
        let area = next.layout.area(AreaKind::Vmemmap);
        let area = area.ok_or(HotAddError::NoArea)?.range();
        let runs = || runs_since(arranged.vmemmap, &known.nodes, &next.nodes);
        let built = vmemmap::survey(editor, area, runs).map_err(HotAddError::Vmemmap)?;
        Ok(Self {
            tables: direct.tables(next) + built.tables,
            direct,
            area,
            built,
        })
    }
}

/// What of vmemmap is to be backed for the nodes `now` that was not for the nodes `before`.
pub(super) fn runs_since<'a>(
    vmemmap: &'a Vmemmap,
    before: &'a Nodes,
    now: &'a Nodes,
) -> impl Iterator<Item = VmemmapRun> + 'a {
    let plan = VmemmapPlan::new(vmemmap, before, PageSize::Size4K);
    plan.with_plugged(now).runs_since(&plan)
}

/// Checks that the zones of the range take it, and that no other zone changes.
fn check_zones(
    nodes: &Nodes,
    arranged: &Arranged<'_, '_>,
    range: PhysRange,
) -> Result<(), HotAddError> {
    let mut found = 0;
    for (node, kind, part) in nodes.zones_in(arranged.limits, range) {
        let possible = arranged.vmemmap.zone(node, kind);
        let inside = possible.is_some_and(|zone| zone.range().contains_range(part));
        let (Some(zone), true) = (arranged.zones.get(node, kind), inside) else {
            return Err(HotAddError::OutsideZone {
                node,
                kind,
                part,
                possible: possible.map(|zone| zone.range()),
            });
        };
        zone.frames()
            .check_add(part.start().pfn(), frames_of(part) as usize)
            .map_err(HotAddError::Zone)?;
        found += part.size();
    }
    // All RAM is of some zone; so what was found is all of it.
    if found != range.size() {
        return Err(HotAddError::NoZone { range });
    }
    let moved = |zone: &&Zone<FrameAllocator<'_>>| {
        let span = nodes.zone(arranged.limits, zone.node(), zone.kind());
        span.present() != zone.span().present()
            && !span.range().is_some_and(|span| span.overlaps(range))
    };
    match arranged.zones.as_slice().iter().find(moved) {
        Some(zone) => Err(HotAddError::ZoneMoves {
            node: zone.node(),
            kind: zone.kind(),
            range,
        }),
        None => Ok(()),
    }
}
