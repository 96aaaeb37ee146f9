//! From boot's frames to zones: once, on the boot CPU, before any other runs.
//!
//! ```text
//!   EarlyFrames   takes in all RAM
//!        |---> vmemmap: the books on all frames, and its tables       pages of zeros, and no more is written at first
//!        |---> the zones themselves
//!        '---> all the rest: to the zones, each frame to its own
//! ```
//!
//! What boot has taken stays in no zone: a table of boot's that is given back later comes to its zone then.
//!
//! The stack has 16 KiB, and some plans and iterators have several: the steps are functions of their own, never inlined.

use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use kspace::vmemmap;
use kspace_frames::zone::{NodeId, NotEnoughRam, Tuning, Zone, Zones, ZonesError};
use kspace_frames::{AddError, EarlyFrames, FrameAllocator, NewError, WidenError};
use kspace_layout::{AreaKind, FRAME_SIZE, PhysAddr, PhysRange};
use kspace_paging::{Editor, RootError};

use super::boot_pages::{BootPages, zeroed};
use super::{FrameZone, Ground, MEMORY, Memory};
use crate::address_space::Plan;
use crate::arch::{PageFormat, Window};
use crate::info;

/// What there is when memory is brought up.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// Nodes and zones as they will be.
    pub ground: &'static Ground,
    /// The frames that boot has left.
    pub frames: &'a EarlyFrames,
    /// What is mapped, and the memory map that the frames are of.
    pub plan: &'a Plan,
    /// The kernel's top page table.
    pub root: PhysAddr,
    /// RAM, through the direct map.
    pub window: Window,
    /// How far nodes are from each other.
    pub distance: &'a dyn Fn(NodeId, NodeId) -> u8,
    /// `min_free_kbytes=`.
    pub min_free_kbytes: Option<u64>,
}

/// All physical addresses.
const EVERYWHERE: PhysRange = PhysRange::new(PhysAddr::ZERO, 1 << 52);

/// Brings the memory up: from here on [`get`](super::get) has it, and boot's frames are used up.
///
/// # Errors
///
/// [`BringUpError`]. The frames used so far are not given back: the kernel cannot go on.
///
/// # Safety
///
/// The memory map is true, everything in use is reserved in it or was taken from `frames`, and the window reaches all RAM.
pub unsafe fn bring_up(site: &Site<'_>) -> Result<&'static Memory, BringUpError> {
    site.frames.widen(&site.plan.memory_map, EVERYWHERE)?;
    check_room(site)?;
    build_vmemmap(site)?;
    let zones = make_zones(site)?;
    let memory = join(site, zones)?;
    hand_over(site, memory)?;
    memory.set_reserves(site.min_free_kbytes);
    Ok(memory)
}

/// Whether RAM has room for the books.
#[inline(never)]
fn check_room(site: &Site<'_>) -> Result<(), BringUpError> {
    let needed = site.ground.vmemmap_plan().bytes();
    let free = site.frames.counts().free * FRAME_SIZE;
    NotEnoughRam::check_free(free, needed).map_err(BringUpError::NotEnoughRam)
}

/// Backs the books on all frames with zeros.
#[inline(never)]
fn build_vmemmap(site: &Site<'_>) -> Result<(), BringUpError> {
    let pages = BootPages {
        frames: site.frames,
        window: site.window,
    };
    let Plan { layout, limits, .. } = site.plan;
    // SAFETY: the kernel's live tables, which only this CPU edits; fresh mappings need no flush.
    let editor = unsafe {
        Editor::<PageFormat, _, _>::new(layout.mode(), site.root, *limits, &site.window, &pages)?
    };
    vmemmap::build(&editor, layout, &site.ground.vmemmap_plan())?;
    Ok(())
}

/// Each zone with its allocator, which has no frame yet.
#[inline(never)]
fn make_zones(site: &Site<'_>) -> Result<&'static [FrameZone], BringUpError> {
    let ground = site.ground;
    let area = site.plan.layout.area(AreaKind::Vmemmap);
    let area = area.and_then(|area| NonNull::new(area.range().start().as_u64() as *mut u8));
    let area = area.ok_or(BringUpError::NoVmemmap)?;
    let zones = || ground.vmemmap.zones();
    let room = room::<FrameZone>(site, zones().len())?;
    for (slot, zone) in room.iter_mut().zip(zones()) {
        let (node, kind) = (zone.node(), zone.kind());
        // SAFETY: `build_vmemmap` has backed the plan with zeros; each zone is made once, here.
        let books = unsafe { ground.vmemmap.metadata(area, node, kind) };
        let books = books.ok_or(BringUpError::NoVmemmap)?;
        let frames = FrameAllocator::new(zone.start(), zone.frames(), books)?;
        let span = ground.nodes.zone(&ground.limits, node, kind);
        slot.write(Zone::new(span, frames));
    }
    let made: *const [MaybeUninit<FrameZone>] = room;
    // SAFETY: there are as many zones as there is room, so every one was written; nobody else has the room.
    Ok(unsafe { &*(made as *const [FrameZone]) })
}

/// All zones as one, where everybody finds them.
#[inline(never)]
fn join(site: &Site<'_>, zones: &'static [FrameZone]) -> Result<&'static Memory, BringUpError> {
    let room = &mut room::<Memory>(site, 1)?[0];
    let memory = room.write(Memory {
        nodes: &site.ground.nodes,
        zones: Zones::unjoined(zones, site.ground.limits),
        window: site.window,
        taken_by_boot: site.frames.counts().in_use,
    });
    memory.zones.join(site.distance)?;
    Ok(MEMORY.call_once(|| memory))
}

/// Gives each zone the frames that boot has left.
#[inline(never)]
fn hand_over(site: &Site<'_>, memory: &Memory) -> Result<(), BringUpError> {
    let ground = site.ground;
    let mut result = Ok(());
    site.frames.hand_over(|range| {
        for (node, kind, part) in ground.nodes.zones_in(&ground.limits, range) {
            let added = match memory.zones.get(node, kind) {
                Some(zone) => add(zone, part),
                None => Ok(()),
            };
            result = result.and(added);
        }
    });
    Ok(result?)
}

fn add(zone: &FrameZone, range: PhysRange) -> Result<(), AddError> {
    let frames = (range.size() / FRAME_SIZE) as usize;
    zone.frames().add(range.start().pfn(), frames)
}

impl Memory {
    /// Sets the marks; a `min_free_kbytes=` that cannot be is reported, and not used.
    fn set_reserves(&self, min_free_kbytes: Option<u64>) {
        let chosen = Tuning::new();
        let wanted = min_free_kbytes.map_or(chosen, |kbytes| chosen.with_min_free_kbytes(kbytes));
        if let Err(error) = self.zones.set_reserves(&wanted) {
            info!("{error}");
            // What is chosen by the size of memory always can be.
            let _ = self.zones.set_reserves(&chosen);
        }
    }
}

/// Room for `count` values in boot's frames, for good.
fn room<T>(site: &Site<'_>, count: usize) -> Result<&'static mut [MaybeUninit<T>], BringUpError> {
    let frames = ((size_of::<T>() * count) as u64).div_ceil(FRAME_SIZE);
    let start = zeroed(site.frames, &site.window, frames, 1);
    let start = start.ok_or(BringUpError::NoFrames { frames })?.1.cast();
    // SAFETY: fresh frames, aligned as every frame is, which are this room's from now on.
    Ok(unsafe { NonNull::slice_from_raw_parts(start, count).as_mut() })
}

/// Why memory cannot be brought up.
#[derive(Debug)]
pub enum BringUpError {
    /// The frames that boot has left cannot be counted.
    Widen(WidenError),
    /// The books on all frames are larger than what is free.
    NotEnoughRam(NotEnoughRam),
    /// The layout has no place for the books.
    NoVmemmap,
    /// The kernel's tables cannot be edited.
    Root(RootError),
    /// The books cannot be backed.
    Vmemmap(vmemmap::BuildError),
    /// No frames for the zones.
    NoFrames {
        /// How many in a row.
        frames: u64,
    },
    /// An allocator cannot be made.
    Allocator(NewError),
    /// The zones cannot be joined.
    Zones(ZonesError),
    /// A zone refused frames.
    Add(AddError),
}

impl fmt::Display for BringUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Widen(error) => error.fmt(f),
            Self::NotEnoughRam(error) => error.fmt(f),
            Self::NoVmemmap => f.write_str("layout: it has no vmemmap, which this kernel needs"),
            Self::Root(error) => error.fmt(f),
            Self::Vmemmap(error) => error.fmt(f),
            Self::NoFrames { frames } => write!(
                f,
                "frames: the allocator needs {} KiB in a row for itself, and no RAM is left; give the machine more memory",
                frames * FRAME_SIZE / 1024
            ),
            Self::Allocator(error) => error.fmt(f),
            Self::Zones(error) => error.fmt(f),
            Self::Add(error) => error.fmt(f),
        }
    }
}

macro_rules! from {
    ($($error:ty => $variant:ident;)*) => {$(
        impl From<$error> for BringUpError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }
    )*};
}

from! {
    WidenError => Widen;
    RootError => Root;
    vmemmap::BuildError => Vmemmap;
    NewError => Allocator;
    ZonesError => Zones;
    AddError => Add;
}
