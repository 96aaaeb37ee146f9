//! From a boot loader's tables to the kernel's own: [`Boot`].

use kspace_frames::{EarlyFrames, MemoryMap};
use kspace_layout::{AreaKind, Layout, PhysAddr, VirtRange};
use kspace_paging::{Editor, FrameSource, Limits, LinearMemory, LongMode};

use super::{Error, OneCpu, Space};
use crate::image::ImageMap;
use crate::{TableFrames, direct_map, image};

/// What there is when an address space is brought up. A value of this type has about 16 KiB.
#[derive(Debug)]
pub struct Boot<'a> {
    pub(super) layout: &'a Layout,
    pub(super) map: &'a MemoryMap,
    pub(super) limits: Limits,
    pub(super) frames: EarlyFrames,
    reached: LinearMemory,
}

impl<'a> Boot<'a> {
    /// An address space of `layout`, which has the kernel image, a direct map and area vmalloc, on a machine with the RAM of `map` and
    /// these `limits`. `reached` is the memory that a boot loader's tables map: the new tables are made in it.
    ///
    /// # Safety
    ///
    /// The memory map is true, and has everything reserved that is in use: the image, and what the loader left that is still needed.
    /// `reached` stays mapped until the new tables are live.
    #[must_use]
    pub unsafe fn new(
        layout: &'a Layout,
        map: &'a MemoryMap,
        limits: Limits,
        reached: LinearMemory,
    ) -> Self {
        let frames = EarlyFrames::new(map, reached.phys());
        Self {
            layout,
            map,
            limits,
            frames,
            reached,
        }
    }

    /// Makes page tables with what the layout says: the image under W^X, the direct map, and empty tables under the root's entries of area
    /// vmalloc, so that copies of the root stay equal below. Returns the root, for CR3.
    ///
    /// In these tables nothing else is mapped: whoever loads the root runs at the image's address, on a stack in it or in the direct map.
    ///
    /// # Errors
    ///
    /// [`Error`]; frames used so far are not given back, as a kernel cannot go on without.
    pub fn build(&self) -> Result<PhysAddr, Error> {
        let (layout, memory) = (self.layout, &self.reached);
        let sections = ImageMap::try_new(layout.image().ok_or(Error::NoImage)?)?;
        // SAFETY: what was promised to `new`.
        let tables = unsafe { TableFrames::new(&self.frames, memory) };
        let root = tables.allocate().ok_or(Error::NoRoom { frames: 1 })?;
        // SAFETY: the root is a zeroed frame of its own, and no CPU uses it until it is complete.
        let editor = unsafe {
            Editor::<LongMode, _, _>::new(layout.mode(), root, self.limits, memory, &tables)?
        };
        image::build(&editor, &sections)?;
        let plan = direct_map::Plan::for_layout(layout, self.map, self.limits);
        direct_map::build(&editor, layout, &plan.with_image(&sections))?;
        let populated = editor.populate(self.vmalloc()?)?;
        // SAFETY: no CPU has used these tables.
        unsafe { populated.discharged(memory, &tables) };
        Ok(root)
    }

    /// Makes the tables that [`build`](Self::build) made the kernel's own. All RAM that is not in use is the areas' from now on, and what
    /// is returned lies in it.
    ///
    /// # Errors
    ///
    /// [`Error`], as for `build`.
    ///
    /// # Safety
    ///
    /// `root` came from `build` and is in CR3; and from now on only what is returned edits what it leads to.
    pub unsafe fn adopt(&self, root: PhysAddr, cpu: OneCpu) -> Result<&'static Space, Error> {
        let mapped = self.layout.direct_mapped();
        let mapped = mapped.zip(self.layout.direct_map_covered());
        let (phys, virt) = mapped.ok_or(Error::NoArea(AreaKind::DirectMap))?;
        // SAFETY: the root is in CR3, and `build` has mapped all RAM of the range there.
        let memory = unsafe { LinearMemory::new(phys, virt.start()) };
        // SAFETY: the caller's contract.
        unsafe { self.adopt_through(memory, root, cpu) }
    }

    /// As [`adopt`](Self::adopt), where all RAM is reached in another way than by the direct map: a machine that somebody simulates.
    ///
    /// # Errors
    ///
    /// [`Error`], as for `build`.
    ///
    /// # Safety
    ///
    /// As for `adopt`, but that `root` may be in no CPU's CR3 at all; and `memory` stays mapped for good.
    pub unsafe fn adopt_through(
        &self,
        memory: LinearMemory,
        root: PhysAddr,
        cpu: OneCpu,
    ) -> Result<&'static Space, Error> {
        // SAFETY: the caller's contract.
        unsafe { Space::adopt(self, memory, root, cpu) }
    }

    /// Where areas on demand are to be.
    pub(super) fn vmalloc(&self) -> Result<VirtRange, Error> {
        let area = self.layout.area(AreaKind::Vmalloc);
        Ok(area.ok_or(Error::NoArea(AreaKind::Vmalloc))?.range())
    }
}
