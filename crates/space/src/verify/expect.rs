//! What must be mapped in each kind of area, in ascending order of address.

use core::fmt;

use kspace_frames::zone::VmemmapPlan;
use kspace_layout::{CpuEntryArea, EntryPart, FRAME_SIZE, PageSize, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Access, Attributes, Protection};

use crate::direct_map::Plan;
use crate::fixmap::FixedPages;
use crate::image::ImageMap;

/// A mapping that must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The addresses.
    pub virt: VirtRange,
    /// Where the first one lies in physical memory, the others following; `None` for any RAM.
    pub phys: Option<PhysAddr>,
    /// The size of the pages; `None` for any.
    pub page: Option<PageSize>,
    /// What accesses they allow.
    pub protection: Protection,
}

impl Expected {
    /// The part from `bytes` on; `None` when there is no more.
    pub(super) fn after(self, bytes: u64) -> Option<Self> {
        let virt = rest(self.virt, bytes)?;
        let phys = self.phys.and_then(|phys| phys.checked_add(bytes).ok());
        Some(Self { virt, phys, ..self })
    }
}

/// The part of `range` from `bytes` on.
pub(super) fn rest(range: VirtRange, bytes: u64) -> Option<VirtRange> {
    let size = range.size().checked_sub(bytes)?;
    VirtRange::try_new(range.start().checked_add(bytes).ok()?, size).ok()
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> ", self.virt)?;
        match self.phys {
            Some(phys) => write!(f, "{phys} ")?,
            None => f.write_str("RAM ")?,
        }
        if let Some(page) = self.page {
            write!(f, "{page} ")?;
        }
        let Protection {
            access,
            user,
            global,
            cache,
        } = self.protection;
        let attributes = Attributes {
            write: access == Access::ReadWrite,
            execute: access == Access::ReadExecute,
            user,
            global,
            cache,
            accessed: false,
            dirty: false,
        };
        attributes.fmt(f)
    }
}

/// A page of the fixmap that the kernel has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedPage {
    /// Its address.
    pub page: VirtAddr,
    /// The frame it shows.
    pub phys: PhysAddr,
    /// With what rights.
    pub protection: Protection,
}

pub(super) fn direct_map(plan: Plan<'_>, area: VirtRange) -> impl Iterator<Item = Expected> {
    plan.runs().map_while(move |run| {
        let start = area.start().checked_add(run.phys.start().as_u64()).ok()?;
        Some(Expected {
            virt: VirtRange::try_new(start, run.phys.size()).ok()?,
            phys: Some(run.phys.start()),
            page: Some(run.page),
            protection: Protection::kernel(run.access),
        })
    })
}

pub(super) fn image(image: &ImageMap) -> impl Iterator<Item = Expected> + '_ {
    image.runs().map(|run| Expected {
        virt: run.virt,
        phys: Some(run.phys),
        page: None,
        protection: run.protection(),
    })
}

pub(super) fn cpu_entry(area: CpuEntryArea, cpus: u32) -> impl Iterator<Item = Expected> {
    let idt = (area.idt(), Access::ReadOnly);
    let parts = (0..cpus).flat_map(move |cpu| {
        EntryPart::of(cpu).filter_map(move |part| {
            let access = if part.writable() {
                Access::ReadWrite
            } else {
                Access::ReadOnly
            };
            Some((area.part(cpu, part)?, access))
        })
    });
    core::iter::once(idt)
        .chain(parts)
        .map(|(virt, access)| Expected {
            virt,
            phys: None,
            page: None,
            protection: Protection::kernel(access),
        })
}

pub(super) fn vmemmap(
    plan: VmemmapPlan<'_>,
    area: VirtRange,
) -> impl Iterator<Item = Expected> + '_ {
    plan.runs().map_while(move |run| {
        Some(Expected {
            virt: run.range(area.start())?,
            phys: None,
            page: Some(run.page()),
            protection: Protection::KERNEL_DATA,
        })
    })
}

pub(super) fn fixed(
    pages: &dyn FixedPages,
    area: VirtRange,
) -> impl Iterator<Item = Expected> + '_ {
    let all = (0..area.size() / FRAME_SIZE).map_while(move |page| {
        let address = area.start().checked_add(page * FRAME_SIZE);
        address.ok()
    });
    all.filter_map(|page| {
        let fixed = pages.at(page)?;
        Some(Expected {
            virt: VirtRange::try_new(fixed.page, FRAME_SIZE).ok()?,
            phys: Some(fixed.phys),
            page: Some(PageSize::Size4K),
            protection: fixed.protection,
        })
    })
}
