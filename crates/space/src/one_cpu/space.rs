//! The address space of a kernel with one CPU, on its own tables: [`Space`].

use core::ptr::NonNull;

use kspace_frames::{EarlyFrames, MemoryMap};
use kspace_layout::{FRAME_SIZE, Layout, PhysAddr, PhysRange};
use kspace_paging::{Editor, LinearMemory, LongMode, Walker};

use super::frames::{take_in_all, zeroed_room};
use super::{AllFrames, Boot, Error, OneCpu};
use crate::areas::{DeviceCache, IoError, IoMemory};
use crate::cache_types::CacheTypes;
use crate::fault::{AreaSpot, Explanation, PageFault, explain};
use crate::shootdown::{Shootdown, Unprobed, quarantine_bound};
use crate::verify::{Claims, Difference, Verified, verify};
use crate::vmalloc::{Arenas, Kernel, Vmalloc};

/// What the areas of a kernel with one CPU are built on.
#[derive(Debug)]
pub struct OneCpuKernel;

impl Kernel for OneCpuKernel {
    type Platform = OneCpu;
    type Memory = LinearMemory;
    type Format = LongMode;
    type Frames = AllFrames;
    type Probe = Unprobed;
}

/// The areas of a kernel with one CPU.
pub type Areas = Vmalloc<'static, OneCpuKernel, 1>;

/// A device that is mapped, in a kernel with one CPU.
pub type Device = IoMemory<'static, 'static, OneCpuKernel, 1>;

/// What the areas borrow.
#[derive(Debug)]
struct Ground {
    memory: LinearMemory,
    frames: AllFrames,
    shootdown: Shootdown<OneCpu, 1>,
    arenas: Arenas<1>,
}

/// The kernel's own address space, live.
#[derive(Debug)]
pub struct Space {
    layout: Layout,
    map: MemoryMap,
    ground: &'static Ground,
    areas: Areas,
    types: CacheTypes<'static, OneCpuKernel>,
}

impl Space {
    /// # Safety
    ///
    /// As [`Boot::adopt_through`].
    pub(super) unsafe fn adopt(
        boot: &Boot<'_>,
        memory: LinearMemory,
        root: PhysAddr,
        cpu: OneCpu,
    ) -> Result<&'static Self, Error> {
        let (layout, early) = (boot.layout, &boot.frames);
        let range = boot.vmalloc()?;
        take_in_all(boot.map, early, &memory)?;
        // Room for both values before the allocator takes what is left.
        let (ground, space) = (Room::new(early, &memory)?, Room::new(early, &memory)?);
        // SAFETY: the caller's contract.
        let frames = unsafe { AllFrames::take_over(boot.map, early, memory, cpu)? };
        let ground: &'static Ground = ground.fill(Ground {
            memory,
            frames,
            shootdown: Shootdown::new(cpu),
            arenas: Arenas::new(),
        });
        // SAFETY: the caller's contract: the tables are this value's from now on.
        let editor = unsafe {
            let (memory, frames) = (&ground.memory, &ground.frames);
            Editor::<LongMode, _, _>::new(layout.mode(), root, boot.limits, memory, frames)?
        };
        ground.shootdown.join();
        let bound = quarantine_bound(1, ground.frames.allocator().managed_frames() as u64);
        let editor = editor.keep_root_entries(range);
        // SAFETY: nothing was ever mapped in the range, the one CPU has joined, the root's entries are kept, and the arenas are new.
        let areas =
            unsafe { Vmalloc::new(range, editor, &ground.shootdown, &ground.arenas, bound)? };
        Ok(space.fill(Self {
            layout: *layout,
            map: *boot.map,
            ground,
            areas,
            types: CacheTypes::new(ground.shootdown.platform(), &ground.memory, &ground.frames),
        }))
    }

    /// Where everything is.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Which physical memory is what.
    #[must_use]
    pub const fn memory_map(&self) -> &MemoryMap {
        &self.map
    }

    /// All free frames.
    #[must_use]
    pub const fn frames(&self) -> &AllFrames {
        &self.ground.frames
    }

    /// Areas mapped on demand; [`areas`](crate::areas) has them as values that free themselves.
    #[must_use]
    pub const fn areas(&self) -> &Areas {
        &self.areas
    }

    /// Reads the live tables.
    #[must_use]
    pub fn walker(&self) -> Walker<'_, LinearMemory> {
        let tables = self.areas.tables();
        Walker::new(tables.mode(), tables.root(), tables.memory()).with_limits(tables.limits())
    }

    /// Maps `bytes` bytes of a device at `start`.
    ///
    /// # Errors
    ///
    /// [`IoError`].
    ///
    /// # Safety
    ///
    /// As [`IoMemory::new`].
    #[track_caller]
    pub unsafe fn ioremap(
        &'static self,
        start: PhysAddr,
        bytes: u64,
        cache: DeviceCache,
    ) -> Result<Device, IoError> {
        // SAFETY: the caller's contract.
        unsafe { IoMemory::new(&self.areas, &self.types, &self.map, start, bytes, cache) }
    }

    /// Where the direct map has `bytes` bytes of RAM from `phys` on; `None` when they are not all RAM.
    #[must_use]
    pub fn pointer(&self, phys: PhysAddr, bytes: u64) -> Option<*mut u8> {
        let range = PhysRange::try_new(phys, bytes).ok()?;
        let ram = self.map.is_ram(range);
        ram.then(|| self.ground.memory.pointer(phys, bytes))?
    }

    /// What a page fault means. Changes nothing and waits for no lock, so that the fault's handler can call it.
    #[must_use]
    pub fn explain(&self, fault: PageFault) -> Explanation {
        let walk = self.walker().walk(fault.address);
        explain(&self.layout, &self.map, fault, Some(&walk))
            .with_area(AreaSpot::of(&self.areas, fault.address))
    }

    /// Holds every entry of the live tables against layout, memory map and areas.
    ///
    /// # Errors
    ///
    /// The first [`Difference`].
    pub fn verify(&self) -> Result<Verified, Difference> {
        let limits = self.areas.tables().limits();
        let claims = Claims {
            areas: Some(&self.areas),
            ..Claims::new(&self.layout, &self.map, limits)
        };
        verify(&self.walker(), &claims)
    }
}

/// Room for one value, in frames that are never given back.
struct Room<T>(NonNull<T>);

impl<T> Room<T> {
    fn new(early: &EarlyFrames, memory: &LinearMemory) -> Result<Self, Error> {
        const { assert!(align_of::<T>() <= FRAME_SIZE as usize) };
        let bytes = zeroed_room(early, memory, size_of::<T>() as u64)?;
        Ok(Self(bytes.cast()))
    }

    fn fill(self, value: T) -> &'static T {
        // SAFETY: the room is this value's alone, large enough, aligned as a frame is, and mapped for good.
        unsafe {
            self.0.write(value);
            self.0.as_ref()
        }
    }
}
