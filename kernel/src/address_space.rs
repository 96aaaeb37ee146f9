//! The kernel's address space: what is mapped where, built from the layout.
//!
//! [`Wish`] says what should be; [`build`] makes tables of it.

use core::fmt;

use kspace::direct_map::{Plan, plan};
use kspace::image::{ImageError, ImageMap};
use kspace_frames::{EarlyFrames, MemoryMap};
use kspace_layout::{
    AddressError, EntryPart, EntryStack, FRAME_SIZE, FixmapSlot, Layout, PageSize, PhysAddr,
    VirtAddr, VirtRange,
};
use kspace_paging::{
    Access, CacheType, EditError, Editor, FrameSource, Limits, LongMode, PhysMemory, Protection,
    RootError,
};

/// What the address space should be.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The areas.
    pub layout: &'a Layout,
    /// Which physical memory is RAM.
    pub memory_map: &'a MemoryMap,
    /// The image's sections as mappings.
    pub image: &'a ImageMap,
    /// What the CPU can do.
    pub limits: Limits,
    /// The registers of the local APIC, for their fixmap slot; `None` where there is none.
    pub local_apic: Option<PhysAddr>,
}

/// Why the tables could not be built.
#[derive(Debug)]
pub enum BuildError {
    /// The image's sections cannot be mapped apart.
    Image(ImageError),
    /// The layout lacks something that is built.
    Missing(&'static str),
    /// No frame for the root table or for a page of the CPU entry area.
    OutOfFrames {
        /// What the frame was for.
        what: &'static str,
        /// Frames handed out before.
        in_use: u64,
    },
    /// The root table cannot be used.
    Root(RootError),
    /// An edit was refused.
    Edit(EditError),
    /// An address was out of range.
    Address(AddressError),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(error) => error.fmt(f),
            Self::Missing(what) => write!(f, "layout: it has no {what}, which this kernel builds"),
            Self::OutOfFrames { what, in_use } => write!(
                f,
                "out of frames for {what} after {in_use}; give the machine more RAM below 4 GiB"
            ),
            Self::Root(error) => error.fmt(f),
            Self::Edit(error) => error.fmt(f),
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
    ImageError => Image;
    RootError => Root;
    EditError => Edit;
    AddressError => Address;
}

impl<'a> Wish<'a> {
    /// The direct map's runs.
    pub fn plan(&self) -> Plan<'a> {
        plan(self.memory_map, self.layout.mode(), self.limits).with_image(self.image)
    }
}

/// Frames for page tables: early frames, zeroed.
struct TableFrames<'a, M> {
    frames: &'a EarlyFrames,
    memory: &'a M,
}

// SAFETY: `EarlyFrames` hands out whole frames of RAM that nothing else uses, and they are zeroed here through the same memory
// that the tables are edited with.
unsafe impl<M: PhysMemory> FrameSource for TableFrames<'_, M> {
    fn allocate(&self) -> Option<PhysAddr> {
        let frame = self.frames.allocate()?.start();
        let entries = self.memory.entries::<u64>(frame, 512)?;
        for entry in entries {
            entry.store(0, core::sync::atomic::Ordering::Relaxed);
        }
        Some(frame)
    }

    fn release(&self, frame: PhysAddr) {
        // Only frames from `allocate` come here; one that the list has no room for stays out of use and is counted as lost.
        let _ = self.frames.release(frame.pfn());
    }
}

/// Builds the tables and returns the root.
///
/// # Errors
///
/// [`BuildError`]: what could not be mapped, and why. The frames used so far are not given back: the kernel cannot go on.
pub fn build<M: PhysMemory>(
    wish: &Wish<'_>,
    memory: &M,
    frames: &EarlyFrames,
) -> Result<PhysAddr, BuildError> {
    let tables = TableFrames { frames, memory };
    let builder = Builder {
        wish,
        tables: &tables,
    };
    let root = builder.frame("the root table")?;
    // SAFETY: the root is a zeroed frame of its own, and no CPU uses it until it is complete.
    let editor = unsafe {
        Editor::<LongMode, _, _>::new(wish.layout.mode(), root, wish.limits, memory, &tables)?
    };
    builder.map_image(&editor)?;
    for run in wish.plan().runs() {
        let v = VirtRange::try_new(
            wish.layout.phys_to_virt(run.phys.start()).unwrap(),
            run.phys.size(),
        )?;
        editor.map(
            v,
            run.phys.start(),
            Protection::kernel(run.access),
            run.page,
        )?;
    }
    builder.map_cpu_entry(&editor)?;
    builder.map_fixmap(&editor)?;
    Ok(root)
}

struct Builder<'a, M> {
    wish: &'a Wish<'a>,
    tables: &'a TableFrames<'a, M>,
}

impl<M: PhysMemory> Builder<'_, M> {
    fn frame(&self, what: &'static str) -> Result<PhysAddr, BuildError> {
        let in_use = self.tables.frames.counts().in_use;
        self.tables
            .allocate()
            .ok_or(BuildError::OutOfFrames { what, in_use })
    }

    fn map_image<S: FrameSource>(
        &self,
        editor: &Editor<'_, LongMode, M, S>,
    ) -> Result<(), BuildError> {
        for run in self.wish.image.runs() {
            editor.map(run.virt, run.phys, run.protection(), PageSize::Size2M)?;
        }
        Ok(())
    }

    /// CPU 0's descriptor tables, read-only, and its stacks.
    fn map_cpu_entry<S: FrameSource>(
        &self,
        editor: &Editor<'_, LongMode, M, S>,
    ) -> Result<(), BuildError> {
        let missing = BuildError::Missing("CPU entry area");
        let Some(area) = self.wish.layout.cpu_entry() else {
            return Err(missing);
        };
        self.map_pages(editor, area.idt(), Protection::KERNEL_RODATA)?;
        for part in EntryPart::ALL {
            let Some(range) = area.part(0, part) else {
                continue;
            };
            let access = if part.writable() {
                Access::ReadWrite
            } else {
                Access::ReadOnly
            };
            self.map_pages(editor, range, Protection::kernel(access))?;
        }
        Ok(())
    }

    fn map_pages<S: FrameSource>(
        &self,
        editor: &Editor<'_, LongMode, M, S>,
        range: VirtRange,
        protection: Protection,
    ) -> Result<(), BuildError> {
        for offset in (0..range.size()).step_by(FRAME_SIZE as usize) {
            let page = VirtRange::try_new(range.start().checked_add(offset)?, FRAME_SIZE)?;
            let frame = self.frame("the CPU entry area")?;
            editor.map(page, frame, protection, PageSize::Size4K)?;
        }
        Ok(())
    }

    /// The fixmap's one slot that is in use: the local APIC.
    fn map_fixmap<S: FrameSource>(
        &self,
        editor: &Editor<'_, LongMode, M, S>,
    ) -> Result<(), BuildError> {
        let slot = self
            .wish
            .layout
            .fixmap()
            .and_then(|map| map.address(FixmapSlot::LocalApic));
        let (Some(registers), Some(slot)) = (self.wish.local_apic, slot) else {
            return Ok(());
        };
        let protection = Protection::KERNEL_DATA.with_cache(CacheType::Uncached);
        editor.map(
            VirtRange::try_new(slot, FRAME_SIZE)?,
            registers,
            protection,
            PageSize::Size4K,
        )?;
        Ok(())
    }
}

/// The top of CPU 0's boot stack.
pub fn boot_stack_top(layout: &Layout) -> Option<VirtAddr> {
    Some(top_of(
        layout
            .cpu_entry()?
            .part(0, EntryPart::Stack(EntryStack::Boot))?,
    ))
}

/// Where a stack in `range` begins: just above its last byte.
///
/// Every stack has a guard page above its neighbour or itself, so the address exists.
pub fn top_of(range: VirtRange) -> VirtAddr {
    VirtAddr::new(range.end_u64())
}
