//! `test-vmalloc=remap`: an area in a user space. The CPU reads and writes it at both addresses, through its own tables and TLB.

use core::fmt;

use kspace::areas::{OwnedArea, RemapError};
use kspace::user::{SpaceError, UserMapping, UserSpace};
use kspace::vmalloc::{AreaError, AreaRequest};
use kspace_layout::{FRAME_SIZE, VirtAddr};
use kspace_paging::{Access, Walker};

use super::account::Account;
use crate::acpi::MAX_CPUS;
use crate::arch::{self, USER_PART, USER_SHOOTDOWN};
use crate::info;
use crate::memory;
use crate::vmalloc::{Areas, ThisKernel};

/// More than one large page, so that there are both sizes.
const PAGES: u64 = 600;
/// Where it is in the user space.
const AT: VirtAddr = VirtAddr::new(0x40_0000);

type Space = UserSpace<'static, 'static, ThisKernel, MAX_CPUS>;
type Mapping<'m> = UserMapping<'m, 'static, 'static, ThisKernel, MAX_CPUS>;

/// Why there is nothing in a user space.
#[derive(Debug)]
pub enum Trouble {
    Space(SpaceError),
    Area(AreaError),
    Remap(RemapError),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Space(error) => error.fmt(f),
            Self::Area(error) => error.fmt(f),
            Self::Remap(error) => error.fmt(f),
        }
    }
}

/// Calls `body` with a user space, of which there is one at a time.
pub fn in_space<R>(
    areas: &Areas,
    body: impl FnOnce(&Space) -> Result<R, Trouble>,
) -> Result<R, Trouble> {
    // SAFETY: the kernel's root entries were made at boot, the shootdown is for one space at a time, and CPUs come by `in_user_space`.
    let space = unsafe { UserSpace::new(areas, USER_PART, &USER_SHOOTDOWN) };
    body(&space.map_err(Trouble::Space)?)
}

/// A page of an area in a user space, and where it is there. The area itself is freed: the mapping keeps it.
pub fn user_page<'m>(
    areas: &'static Areas,
    space: &'m Space,
) -> Result<(Mapping<'m>, VirtAddr), Trouble> {
    let request = AreaRequest::new(FRAME_SIZE).user_mappable();
    let area = OwnedArea::allocate(areas, &request).map_err(Trouble::Area)?;
    let mapping = area.remap(space, AT, 0..1, Access::ReadOnly);
    Ok((mapping.map_err(Trouble::Remap)?, AT))
}

/// True when user mode's pages were the area's, with the rights asked for, as long as they were mapped, and nothing was lost.
pub(super) fn run() -> bool {
    let (Some(areas), Some(memory)) = (crate::vmalloc::get(), memory::get()) else {
        return false;
    };
    let before = Account::take(areas, memory);
    let done = in_space(areas, |space| try_it(areas, space));
    match &done {
        Ok(well) => info!(
            "test-vmalloc: remap: {PAGES} pages were read and written at both addresses, and kept when the kernel freed them: {well}"
        ),
        Err(trouble) => info!("test-vmalloc: remap: failed: {trouble}"),
    }
    done.unwrap_or(false) && before.is_same_as(&Account::take(areas, memory))
}

fn try_it(areas: &'static Areas, space: &Space) -> Result<bool, Trouble> {
    let request = AreaRequest::new(PAGES * FRAME_SIZE).user_mappable();
    let area = OwnedArea::allocate(areas, &request).map_err(Trouble::Area)?;
    let start = area.start();
    let kernel = |page: u64| (start.as_u64() + page * FRAME_SIZE) as *mut u64;
    let user = |page: u64| VirtAddr::new(AT.as_u64() + page * FRAME_SIZE);
    // SAFETY: the area is mapped, and this function's alone.
    let zero = (0..PAGES).all(|page| unsafe { kernel(page).read_volatile() } == 0);
    for page in 0..PAGES {
        // SAFETY: as above.
        unsafe { kernel(page).write_volatile(!page) };
    }
    let remap = |access| {
        area.remap(space, AT, 0..PAGES, access)
            .map_err(Trouble::Remap)
    };
    let mapping = remap(Access::ReadWrite)?;
    let rights = rights_are_users(areas, space, mapping.range().size());
    // SAFETY: it is mapped there, writable, and nobody else uses it.
    let shared = arch::in_user_space(space, || unsafe {
        let read = (0..PAGES).all(|page| arch::read_user(user(page)) == !page);
        (0..PAGES).for_each(|page| arch::write_user(user(page), page));
        read
    });
    // SAFETY: as above.
    let written = (0..PAGES).all(|page| unsafe { kernel(page).read_volatile() } == page);
    area.free();
    areas.purge();
    // Who gets the addresses or frames of a freed area now would show.
    let others = areas.allocate(&AreaRequest::new(PAGES * FRAME_SIZE).zeroed());
    // SAFETY: it is mapped there still.
    let kept = arch::in_user_space(space, || unsafe {
        (0..PAGES).all(|page| arch::read_user(user(page)) == page)
    });
    mapping.unmap();
    // SAFETY: allocated above, and never used.
    let freed = others.map(|other| unsafe { areas.free(other.start()) }.is_ok());
    Ok(zero && rights && shared && written && kept && freed.map_err(Trouble::Area)?)
}

/// Whether user mode may read and write the pages, at every level, and execute none; and none of the kernel's.
fn rights_are_users(areas: &Areas, space: &Space, bytes: u64) -> bool {
    let tables = areas.tables();
    let walker = Walker::new(tables.mode(), space.root(), tables.memory());
    let walker = walker.with_limits(tables.limits());
    let mut mapped = 0;
    let user = walker.runs(space.range()).flatten().all(|run| {
        mapped += run.virt.size();
        let rights = run.attributes;
        rights.user && rights.write && !rights.execute && !rights.global
    });
    let kernel = walker.runs(areas.area()).flatten();
    user && mapped == bytes && kernel.into_iter().all(|run| !run.attributes.user)
}
