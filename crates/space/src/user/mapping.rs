//! Pages in a user space that belong to an area or a device.

use core::fmt;
use core::mem::ManuallyDrop;

use kspace_layout::{PageSize, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{EditError, Protection};

use super::UserSpace;
use crate::held_frames::HeldFrames;
use crate::ranges::AllocateError;
use crate::table_count::tables_needed;
use crate::vmalloc::{Kernel, Vmalloc};

/// Pages of an area or a device in a user space. Dropping it takes them away, flushes every CPU that runs the space, and lets go of the area.
///
/// Not in atomic context, as it waits for the flush.
#[must_use = "a mapping that is dropped is gone"]
pub struct UserMapping<'m, 's, 'a, K: Kernel, const CPUS: usize> {
    space: &'m UserSpace<'s, 'a, K, CPUS>,
    range: VirtRange,
    area: Option<HeldArea<'m, 'a, K, CPUS>>,
}

/// An area that keeps its frames as long as this is there.
struct HeldArea<'m, 'a, K: Kernel, const CPUS: usize> {
    areas: &'m Vmalloc<'a, K, CPUS>,
    start: VirtAddr,
}

/// Frames in a row, with what their entries are to say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) phys: PhysAddr,
    pub(crate) bytes: u64,
    pub(crate) protection: Protection,
}

/// Why a range of user addresses is not mapped.
pub(crate) enum Trouble<E> {
    Place(AllocateError),
    NoTables,
    Edit(EditError),
    /// There is no such part.
    Part(E),
}

impl<'m, 's, 'a, K: Kernel, const CPUS: usize> UserMapping<'m, 's, 'a, K, CPUS> {
    /// Maps `parts` one behind the other in all of `range`, and holds the area at `area`, which the caller has made sure of.
    ///
    /// # Safety
    ///
    /// User mode may use these frames so, as long as the area is held, or for ever if there is none. They are as long as the range, if no
    /// error is among them.
    pub(crate) unsafe fn new<E>(
        space: &'m UserSpace<'s, 'a, K, CPUS>,
        range: VirtRange,
        parts: impl Iterator<Item = Result<Part, E>>,
    ) -> Result<Self, Trouble<E>> {
        space.hold(range).map_err(Trouble::Place)?;
        let mut mapped = 0;
        let filled = fill(space, range, parts, &mut mapped);
        if let Err(trouble) = filled {
            if let Ok(part) = VirtRange::try_new(range.start(), mapped) {
                take_away(space, part);
            }
            space.let_go(range);
            return Err(trouble);
        }
        Ok(Self {
            space,
            range,
            area: None,
        })
    }

    /// The same mapping, which lets go of the area at `start` when it goes: [`Vmalloc::hold_user`] was called for it.
    pub(crate) fn holding(mut self, areas: &'m Vmalloc<'a, K, CPUS>, start: VirtAddr) -> Self {
        self.area = Some(HeldArea { areas, start });
        self
    }

    /// Takes up a mapping that was given up by [`into_raw`](Self::into_raw).
    ///
    /// # Safety
    ///
    /// `into_raw` of a mapping in this space returned `range` and `area`, which is one of `areas`, and nobody else takes it up.
    pub unsafe fn from_raw(
        space: &'m UserSpace<'s, 'a, K, CPUS>,
        areas: &'m Vmalloc<'a, K, CPUS>,
        (range, area): (VirtRange, Option<VirtAddr>),
    ) -> Self {
        let area = area.map(|start| HeldArea { areas, start });
        Self { space, range, area }
    }

    /// Gives up the value, but not the mapping: its user addresses, and the start of the area that it holds, are all that is left of it. The
    /// area's frames are not freed before it is [taken up](Self::from_raw) again and dropped.
    #[must_use = "the mapping and its area leak unless it is taken up again"]
    pub fn into_raw(self) -> (VirtRange, Option<VirtAddr>) {
        let this = ManuallyDrop::new(self);
        (this.range, this.area.as_ref().map(|area| area.start))
    }

    /// Where it is in the user space.
    #[must_use]
    pub const fn range(&self) -> VirtRange {
        self.range
    }

    /// Takes it away.
    pub fn unmap(self) {
        drop(self);
    }
}

/// Maps the parts; `mapped` tells how many bytes, whatever comes of it.
fn fill<K: Kernel, const CPUS: usize, E>(
    space: &UserSpace<'_, '_, K, CPUS>,
    range: VirtRange,
    parts: impl Iterator<Item = Result<Part, E>>,
    mapped: &mut u64,
) -> Result<(), Trouble<E>> {
    let tables = space.tables();
    let (first, last) = (range.start().as_u64(), range.last().as_u64());
    let stretch = || core::iter::once((first, last, PageSize::Size4K));
    // All that could be missing, so that frames run out before the first page is there.
    let needed = tables_needed(tables.mode(), stretch);
    let held = HeldFrames::take(tables.memory(), tables.frames(), needed)
        .map_err(|_| Trouble::NoTables)?;
    let editor = held.editor(tables);
    for part in parts {
        let Part {
            phys,
            bytes,
            protection,
        } = part.map_err(Trouble::Part)?;
        // Inside the range, by the contract of who calls.
        let virt = VirtRange::new(VirtAddr::new(first + *mapped), bytes);
        editor
            .map(virt, phys, protection, PageSize::Size2M)
            .map_err(Trouble::Edit)?;
        *mapped += bytes;
    }
    Ok(())
}

/// Unmaps a range that is held and all mapped, and flushes it on every CPU that runs the space.
fn take_away<K: Kernel, const CPUS: usize>(space: &UserSpace<'_, '_, K, CPUS>, range: VirtRange) {
    let tables = space.tables();
    match tables.unmap(range) {
        Ok(token) => token.flush(space.shootdown(), tables.memory(), tables.frames()),
        Err(error) => panic!("entries of a user mapping were changed by somebody else: {error}"),
    }
}

impl<K: Kernel, const CPUS: usize> Drop for UserMapping<'_, '_, '_, K, CPUS> {
    fn drop(&mut self) {
        take_away(self.space, self.range);
        self.space.let_go(self.range);
        if let Some(HeldArea { areas, start }) = self.area.take() {
            areas.release_user(start);
        }
    }
}

impl<K: Kernel, const CPUS: usize> fmt::Debug for UserMapping<'_, '_, '_, K, CPUS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserMapping({})", self.range)
    }
}
