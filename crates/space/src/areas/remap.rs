//! Areas and devices in user spaces, too (Linux: `remap_vmalloc_range`, `vm_iomap_memory`).
//!
//! ```text
//!   area       | 0 | 1 | 2 | 3 | guard |      asked for as one for user spaces; filled with zeros then
//!                   |   |   |
//!   frames          f   g   h                 held: freed after the last user mapping is gone
//!                   |   |   |
//!   user      ...  | u | u | u | ...          read-only or writable, never executable, never global; the area's cache type
//! ```
//!
//! A device has no frames to be freed, so nothing of it is held: its registers stay visible to the user when the kernel's own mapping
//! goes.
//!
//! What user mode can write, it writes at any time: the kernel reads such memory through volatile or atomic accesses, and believes
//! nothing of it twice.

use core::fmt;
use core::iter::once;
use core::ops::Range;

use kspace_layout::{FRAME_SIZE, PagingMode, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Access, EditError, Protection, Run, Runs, Walker};

use super::{IoMemory, OwnedArea};
use crate::platform::Cpu;
use crate::ranges::AllocateError;
use crate::user::{Part, Trouble, UserMapping, UserSpace};
use crate::vmalloc::{AreaInfo, Kernel, State, Vmalloc};

/// Why an area is not in a user space. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemapError {
    /// No pages were asked for.
    NoPages,
    /// The user address is not at a page.
    Unaligned(VirtAddr),
    /// The area has no such pages.
    OutsideArea {
        /// What was asked for, counted from the area's start.
        pages: Range<u64>,
        /// The area, without its guard.
        area: VirtRange,
    },
    /// The pages would not all lie in the user part of the space.
    OutsideUser {
        /// Where the first would be.
        at: VirtAddr,
        /// How many there are.
        pages: u64,
        /// The user part.
        user: VirtRange,
    },
    /// Executable: whoever has the area can write to it.
    Executable,
    /// There is no live area for user spaces.
    NotForUsers {
        /// Where it should be.
        address: VirtAddr,
        /// What is there.
        found: Option<AreaInfo>,
    },
    /// The kernel can execute a page of the area.
    ExecutablePage(VirtAddr),
    /// A page of the area is not mapped: somebody has freed it, or taken its rights away.
    Missing(VirtAddr),
    /// Some of the user addresses are taken.
    Taken {
        /// What was asked for.
        range: VirtRange,
        /// The first part of it that is.
        taken: VirtRange,
    },
    /// There are no frames for page tables, or the books on user addresses.
    NoFrames,
    /// The entries cannot be made.
    Edit(EditError),
    /// In an interrupt handler, or with a lock held: taking it away again waits for other CPUs.
    AtomicContext,
}

impl fmt::Display for RemapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("remap: ")?;
        match self {
            Self::NoPages => f.write_str("no pages were asked for; ask for at least one"),
            Self::Unaligned(at) => {
                write!(f, "user address {at} must be a multiple of 4 KiB")
            }
            Self::OutsideArea { pages, area } => write!(
                f,
                "pages {} to {} of the area {area}: it has {}, and a guard behind them; ask for pages that it has",
                pages.start,
                pages.end.saturating_sub(1),
                area.size() / FRAME_SIZE
            ),
            Self::OutsideUser { at, pages, user } => write!(
                f,
                "{pages} pages at {at}: not all in {user}, which is the user's; choose addresses there"
            ),
            Self::Executable => {
                f.write_str("executable is refused, the area is writable elsewhere; ask for data")
            }
            Self::NotForUsers { address, found } => {
                write!(f, "{address} is no area for user spaces; ")?;
                match found {
                    None => f.write_str("no area begins there"),
                    Some(found) if found.state == State::Freed => {
                        write!(f, "{} was freed", found.range)
                    }
                    Some(found) if found.user => {
                        write!(f, "it lies inside {}; give its start", found.range)
                    }
                    Some(found) => write!(
                        f,
                        "{} is for {}; ask for it with user_mappable()",
                        found.range, found.kind
                    ),
                }
            }
            Self::ExecutablePage(page) => write!(
                f,
                "the kernel can execute {page}; take that right away first"
            ),
            Self::Missing(page) => write!(
                f,
                "{page} of the area is not mapped any more; keep the area as it is meanwhile"
            ),
            Self::Taken { range, taken } => {
                write!(f, "{range}: {taken} is mapped already; unmap it first")
            }
            Self::NoFrames => f.write_str("out of memory for page tables and books; free some"),
            Self::Edit(error) => error.fmt(f),
            Self::AtomicContext => f.write_str(
                "in atomic context (a lock held, or in an interrupt handler); do it before",
            ),
        }
    }
}

impl core::error::Error for RemapError {}

impl From<Trouble<RemapError>> for RemapError {
    fn from(trouble: Trouble<RemapError>) -> Self {
        match trouble {
            Trouble::Place(AllocateError::NotFree { range, taken }) => Self::Taken { range, taken },
            // The range was checked before, so the books want a frame.
            Trouble::Place(_) | Trouble::NoTables => Self::NoFrames,
            Trouble::Edit(error) => Self::Edit(error),
            Trouble::Part(error) => error,
        }
    }
}

impl<'v, 'a, K: Kernel, const CPUS: usize> OwnedArea<'v, 'a, K, CPUS> {
    /// Maps `pages` of the area, counted from its start, at `at` in a user space, for reading, or for reading and writing. The area was
    /// [asked for](crate::vmalloc::AreaRequest::user_mappable) as one for user spaces.
    ///
    /// The area keeps its frames until the mapping is gone, also when this value goes before.
    ///
    /// # Errors
    ///
    /// [`RemapError`].
    pub fn remap<'m, 's>(
        &self,
        space: &'m UserSpace<'s, 'a, K, CPUS>,
        at: VirtAddr,
        pages: Range<u64>,
        access: Access,
    ) -> Result<UserMapping<'m, 's, 'a, K, CPUS>, RemapError>
    where
        'v: 'm,
    {
        // SAFETY: the area is this value's, and can be had in user spaces if it was asked for as one.
        unsafe { remap(self.areas(), self.start(), space, at, pages, access) }
    }
}

impl<K: Kernel, const CPUS: usize> IoMemory<'_, '_, K, CPUS> {
    /// Maps `pages` of the device, counted from the page that its first byte is in, at `at` in a user space, with the device's cache type.
    /// What else is in its first and last page is shown as well.
    ///
    /// # Errors
    ///
    /// [`RemapError`].
    ///
    /// # Safety
    ///
    /// User mode may do with the device what it can by reading it, and if that is asked for, writing to it, until the mapping is gone; and
    /// meanwhile nobody maps the device with another cache type.
    pub unsafe fn remap<'m, 's, 'a>(
        &self,
        space: &'m UserSpace<'s, 'a, K, CPUS>,
        at: VirtAddr,
        pages: Range<u64>,
        access: Access,
    ) -> Result<UserMapping<'m, 's, 'a, K, CPUS>, RemapError> {
        let area = whole_pages(self.range());
        let range = check(space, area, at, &pages, access)?;
        let first = self.phys().start().align_down(FRAME_SIZE).as_u64();
        let part = Part {
            // Inside the device's pages, so it is an address.
            phys: PhysAddr::new(first + pages.start * FRAME_SIZE),
            bytes: range.size(),
            protection: Protection::user(access).with_cache(self.cache().cache()),
        };
        // SAFETY: the caller's promise; a device's pages are nobody's to free.
        unsafe { UserMapping::new(space, range, once(Ok(part))) }.map_err(RemapError::from)
    }
}

/// As [`OwnedArea::remap`], for an area that is known by its bare address only.
///
/// # Errors
///
/// [`RemapError`].
///
/// # Safety
///
/// The area at `start` is the caller's, if there is one: what user mode writes into it breaks nobody.
pub unsafe fn remap<'m, 's, 'a, K: Kernel, const CPUS: usize>(
    areas: &'m Vmalloc<'a, K, CPUS>,
    start: VirtAddr,
    space: &'m UserSpace<'s, 'a, K, CPUS>,
    at: VirtAddr,
    pages: Range<u64>,
    access: Access,
) -> Result<UserMapping<'m, 's, 'a, K, CPUS>, RemapError> {
    let held = areas.hold_user(start);
    let area = held.map_err(|found| RemapError::NotForUsers {
        address: start,
        found,
    })?;
    let mapped = check(space, area, at, &pages, access).and_then(|range| {
        // Inside the area, so it is an address.
        let from = VirtAddr::new(start.as_u64() + pages.start * FRAME_SIZE);
        let parts = || Parts::of(areas, VirtRange::new(from, range.size()), access);
        // Looked at twice, so that a refusal leaves no tables in the space.
        parts().find_map(Result::err).map_or(Ok(()), Err)?;
        // SAFETY: the frames are the area's, which keeps them while it is held; it was asked for as one for user spaces.
        unsafe { UserMapping::new(space, range, parts()) }.map_err(RemapError::from)
    });
    match mapped {
        Ok(mapping) => Ok(mapping.holding(areas, start)),
        Err(error) => {
            areas.release_user(start);
            Err(error)
        }
    }
}

/// The user addresses, if all that can be said without looking at tables is right.
fn check<K: Kernel, const CPUS: usize>(
    space: &UserSpace<'_, '_, K, CPUS>,
    area: VirtRange,
    at: VirtAddr,
    pages: &Range<u64>,
    access: Access,
) -> Result<VirtRange, RemapError> {
    if space.shootdown().platform().is_atomic() {
        return Err(RemapError::AtomicContext);
    }
    if access == Access::ReadExecute {
        return Err(RemapError::Executable);
    }
    if pages.is_empty() {
        return Err(RemapError::NoPages);
    }
    if pages.end > area.size() / FRAME_SIZE {
        let pages = pages.clone();
        return Err(RemapError::OutsideArea { pages, area });
    }
    if !at.is_aligned(FRAME_SIZE) {
        return Err(RemapError::Unaligned(at));
    }
    let (user, count) = (space.range(), pages.end - pages.start);
    let range = VirtRange::try_new(at, count * FRAME_SIZE).ok();
    let inside = range.filter(|&range| user.contains_range(range));
    inside.ok_or(RemapError::OutsideUser {
        at,
        pages: count,
        user,
    })
}

fn whole_pages(range: VirtRange) -> VirtRange {
    let start = range.start().align_down(FRAME_SIZE);
    let last = VirtAddr::new(range.last().as_u64() | (FRAME_SIZE - 1));
    VirtRange::try_from_bounds(start, last).unwrap_or(range)
}

/// The frames of an area in runs, as its entries have them.
struct Parts<'a, K: Kernel> {
    runs: Runs<'a, K::Memory>,
    /// The address of the next page.
    next: VirtAddr,
    last: VirtAddr,
    access: Access,
    /// Whether the machine can forbid execution at all.
    forbids_execution: bool,
}

impl<'a, K: Kernel> Parts<'a, K> {
    fn of<const CPUS: usize>(
        areas: &Vmalloc<'a, K, CPUS>,
        range: VirtRange,
        access: Access,
    ) -> Self {
        let tables = areas.tables();
        let (mode, limits) = (tables.mode(), tables.limits());
        let walker = Walker::new(mode, tables.root(), tables.memory()).with_limits(limits);
        Self {
            runs: walker.runs(range),
            next: range.start(),
            last: range.last(),
            access,
            forbids_execution: mode != PagingMode::TwoLevel && limits.no_execute(),
        }
    }

    fn part(&self, run: &Run) -> Result<Part, RemapError> {
        if run.virt.start() != self.next {
            return Err(RemapError::Missing(self.next));
        }
        if run.attributes.execute && self.forbids_execution {
            return Err(RemapError::ExecutablePage(self.next));
        }
        Ok(Part {
            phys: run.phys,
            bytes: run.virt.size(),
            protection: Protection::user(self.access).with_cache(run.attributes.cache),
        })
    }
}

impl<K: Kernel> Iterator for Parts<'_, K> {
    type Item = Result<Part, RemapError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next > self.last {
            return None;
        }
        let part = match self.runs.next() {
            Some(Ok(run)) => self.part(&run),
            Some(Err(_)) | None => Err(RemapError::Missing(self.next)),
        };
        // An area ends before its guard, so there is an address behind.
        let bytes = part.as_ref().map_or(0, |part| part.bytes);
        self.next = VirtAddr::new(self.next.as_u64() + bytes);
        Some(part)
    }
}
