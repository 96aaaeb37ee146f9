//! `show=`: the texts, each below a line with its name.

use kspace::areas::{Addresses, VmallocInfo};
use kspace::direct_map;
use kspace::image::ImageMap;
use kspace::vmalloc::Totals;
use kspace_frames::FrameAllocator;
use kspace_frames::zone::text::{
    Buddyinfo, DirectMap, Iomem, Meminfo, Pageset, VmallocTotals, Zoneinfo,
};
use kspace_frames::zone::{Nodes, Zone, Zones};
use kspace_layout::{FRAME_SIZE, PageSize, Pfn};

use super::online;
use super::owners::Owned;
use super::resources::resources;
use crate::acpi::Topology;
use crate::address_space::{self, Plan};
use crate::command_line::{Shown, Text};
use crate::{info, info_lines, permissions, vmalloc};

/// What the texts are about.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    /// Where each node's memory is.
    pub nodes: &'a Nodes,
    /// The zones.
    pub zones: &'a Zones<'a, FrameAllocator<'a>>,
    /// Which CPUs are near to which of them.
    pub topology: &'a Topology,
    /// What is mapped.
    pub plan: &'a Plan,
    /// How many CPUs there are.
    pub cpus: u32,
}

/// Prints the texts that were asked for.
pub fn show(shown: Shown, sight: &Sight<'_>) {
    for text in shown.texts() {
        info!("{text}:");
        match text {
            Text::Zoneinfo => zoneinfo(sight),
            Text::Buddyinfo => info_lines!("{}", Buddyinfo(sight.zones)),
            Text::Iomem => {
                let Plan {
                    memory_map, layout, ..
                } = sight.plan;
                info_lines!("{}", Iomem(resources(memory_map, layout.image())));
            }
            Text::Meminfo => meminfo(sight),
            Text::Memtype => {
                if let Some(rights) = permissions::get() {
                    info_lines!("{}", rights.types().list());
                }
            }
            Text::Vmallocinfo => vmallocinfo(sight),
        }
    }
}

fn zoneinfo(sight: &Sight<'_>) {
    let kept = |zone: &Zone<FrameAllocator<'_>>, cpu: u32| {
        let on = |cpu| zone.frames().cached_frames_on(cpu);
        Pageset {
            count: u16::try_from(cpu).map_or(0, on) as u64,
            high: zone.frames().cache_limit() as u64,
            batch: zone.frames().cache_batch() as u64,
        }
    };
    let text = Zoneinfo::new(sight.zones, sight.cpus, kept);
    let named = online(sight.zones, sight.topology);
    info_lines!("{}", named.fold(text, Zoneinfo::with_node));
}

fn meminfo(sight: &Sight<'_>) {
    let owned = Owned::of(sight.zones);
    let mut meminfo = Meminfo::of(sight.zones)
        .with_page_tables(owned.page_tables * FRAME_SIZE)
        .with_kernel_stacks(owned.stacks * FRAME_SIZE);
    if let Some(areas) = vmalloc::get() {
        let Totals { bytes, used, .. } = areas.totals();
        meminfo = meminfo.with_vmalloc(VmallocTotals { total: bytes, used });
    }
    if let Some(direct_map) = direct_map(sight.plan) {
        meminfo = meminfo.with_direct_map(direct_map);
    }
    info_lines!("{meminfo}");
}

/// The log is for the privileged, who are shown real addresses.
fn vmallocinfo(sight: &Sight<'_>) {
    if let Some(areas) = vmalloc::get() {
        let node_of = |frame: Pfn| sight.nodes.node_of(frame.start());
        info_lines!("{}", VmallocInfo::new(areas, Addresses::Real, node_of));
    }
}

/// What the direct map covers with each size of page.
fn direct_map(plan: &Plan) -> Option<DirectMap> {
    let sections = ImageMap::try_new(plan.layout.image()?).ok()?;
    let planned = address_space::direct_map_plan(plan, &sections);
    let of_size = |size: PageSize| -> u64 {
        let runs = planned.runs().filter(|run| run.page == size);
        runs.map(|run: direct_map::Run| run.phys.size()).sum()
    };
    Some(DirectMap {
        small: of_size(PageSize::Size4K),
        large_page: PageSize::Size2M,
        large: of_size(PageSize::Size2M),
        huge: plan
            .limits
            .gigabyte_pages()
            .then(|| of_size(PageSize::Size1G)),
    })
}
