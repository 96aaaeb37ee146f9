//! The kernel's address space: which frames, at which addresses, with which rights.
//!
//! A [`Plan`] says what should be mapped; [`build`] makes page tables of it. What is live later is held against the same plan by
//! [`kspace::verify`], which shares no code with the building: what one gets wrong, the other finds.

use core::fmt;

use kspace::fixmap::FixedPages;
use kspace::image::{ImageError, ImageMap};
use kspace::verify::{Claims, OnDemand};
use kspace::{TableFrames, cpu_entry, direct_map, fixmap, image};
use kspace_frames::zone::VmemmapPlan;
use kspace_frames::{EarlyFrames, MemoryMap};
use kspace_layout::{AddressError, EntryPart, EntryStack, Layout, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{EditError, Editor, FrameSource, Limits, PhysMemory, RootError};

use crate::arch::PageFormat;

/// What should be mapped. A plain value, so that it survives the image's move.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The areas.
    pub layout: Layout,
    /// Which physical memory is RAM.
    pub memory_map: MemoryMap,
    /// What the CPU can do.
    pub limits: Limits,
    /// Where the registers of the local APIC are.
    pub local_apic: Option<PhysAddr>,
}

impl Plan {
    /// A plan for a machine whose local APIC has its registers at `local_apic`.
    pub const fn new(
        layout: Layout,
        memory_map: MemoryMap,
        limits: Limits,
        local_apic: Option<PhysAddr>,
    ) -> Self {
        Self {
            layout,
            memory_map,
            limits,
            local_apic,
        }
    }

    /// The plan as the library's verification takes it, for a kernel in which `cpus` CPUs have entry areas, these slots of the fixmap are
    /// set and this much of vmemmap is backed, and that has these areas mapped on demand.
    pub fn claims<'a>(
        &'a self,
        cpus: u32,
        fixed: &'a dyn FixedPages,
        vmemmap: Option<VmemmapPlan<'a>>,
        areas: Option<&'a dyn OnDemand>,
    ) -> Claims<'a> {
        let Self {
            layout,
            memory_map,
            limits,
            ..
        } = self;
        Claims {
            layout,
            map: memory_map,
            limits: *limits,
            cpus,
            fixed,
            vmemmap,
            areas,
            changes: None,
        }
    }
}

/// Builds the tables, with the boot CPU's entry area, and returns the root.
///
/// # Errors
///
/// [`BuildError`]: what could not be mapped, and why. The frames used so far are not given back: the kernel cannot go on.
///
/// # Safety
///
/// `frames` must come from a memory map that is true, with everything in use reserved in it.
pub unsafe fn build<M: PhysMemory>(
    plan: &Plan,
    image: &ImageMap,
    memory: &M,
    frames: &EarlyFrames,
) -> Result<PhysAddr, BuildError> {
    // SAFETY: the caller's contract.
    let tables = unsafe { TableFrames::new(frames, memory) };
    let Plan { layout, limits, .. } = plan;
    let root = tables.allocate().ok_or(BuildError::NoRoot)?;
    // SAFETY: the root is a zeroed frame of its own, and no CPU uses it until it is complete.
    let editor =
        unsafe { Editor::<PageFormat, _, _>::new(layout.mode(), root, *limits, memory, &tables)? };
    image::build(&editor, image)?;
    direct_map::build(&editor, layout, &direct_map_plan(plan, image))?;
    let entry = layout.cpu_entry().ok_or(BuildError::NoCpuEntryArea)?;
    cpu_entry::build(&editor, entry, 0)?;
    fixmap::build(&editor)?;
    Ok(root)
}

/// The direct map's part of the plan.
pub fn direct_map_plan<'a>(plan: &'a Plan, image: &'a ImageMap) -> direct_map::Plan<'a> {
    direct_map::Plan::for_layout(&plan.layout, &plan.memory_map, plan.limits).with_image(image)
}

/// The top of CPU 0's boot stack.
pub fn boot_stack_top(layout: &Layout) -> Option<VirtAddr> {
    layout
        .cpu_entry()?
        .part(0, EntryPart::Stack(EntryStack::Boot))
        .map(top_of)
}

/// Where a stack in `range` begins: just above its last byte.
///
/// # Panics
///
/// When `range` ends where its half of the address space ends; entry areas do not.
pub fn top_of(range: VirtRange) -> VirtAddr {
    VirtAddr::new(range.end_u64())
}

/// Why the tables could not be built.
#[derive(Debug)]
pub enum BuildError {
    /// The image's sections cannot be mapped apart.
    Sections(ImageError),
    /// No frame for the root table.
    NoRoot,
    /// The root table cannot be used.
    Root(RootError),
    /// The image or the fixmap was refused.
    Edit(EditError),
    /// The direct map was refused.
    DirectMap(direct_map::BuildError),
    /// The layout has no CPU entry area.
    NoCpuEntryArea,
    /// The CPU entry area was refused.
    CpuEntry(cpu_entry::BuildError),
    /// An address was out of range.
    Address(AddressError),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sections(error) => error.fmt(f),
            Self::NoRoot => f.write_str(
                "page tables: no frame for the first; the machine needs free RAM below 4 GiB",
            ),
            Self::Root(error) => error.fmt(f),
            Self::Edit(error) => error.fmt(f),
            Self::DirectMap(error) => error.fmt(f),
            Self::NoCpuEntryArea => {
                f.write_str("layout: it has no CPU entry area, which this kernel builds")
            }
            Self::CpuEntry(error) => error.fmt(f),
            Self::Address(error) => error.fmt(f),
        }
    }
}

macro_rules! from {
    ($($error:ty => $variant:ident;)*) => {$(
        impl From<$error> for BuildError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }
    )*};
}

from! {
    ImageError => Sections;
    RootError => Root;
    EditError => Edit;
    direct_map::BuildError => DirectMap;
    cpu_entry::BuildError => CpuEntry;
    AddressError => Address;
}
