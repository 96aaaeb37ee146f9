//! Changing pages of the live kernel: [`kspace::permissions`] over its tables, and the memory types that are written down.
//!
//! ```text
//!   trial.rs        test-permissions: changes on all CPUs, held against the tables and against what the CPU does
//!        |
//!   PERMISSIONS     here: one for all CPUs, over direct map, image and area vmalloc
//!    |       \
//!    |        TYPES: what ioremap and changes of memory types have written down (show=memtype)
//!    the areas' editor of the kernel's own tables, and its shootdown
//! ```

mod trial;

use kspace::cache_types::{CacheTypes, TypeError};
use kspace::permissions::{Changed, Permissions};
use kspace_layout::{FRAME_SIZE, PhysAddr, PhysRange, VirtAddr};
use kspace_paging::CacheType;
use spin::Once;

use crate::acpi::MAX_CPUS;
use crate::address_space::Plan;
use crate::vmalloc::{Areas, ThisKernel};

pub use trial::run;

/// This kernel's memory types.
pub type Types = CacheTypes<'static, ThisKernel>;

/// Whoever changes this kernel's pages.
pub type Rights = Permissions<'static, 'static, ThisKernel, MAX_CPUS>;

static TYPES: Once<Types> = Once::new();
static LIST: Once<[&'static Areas; 1]> = Once::new();
static PERMISSIONS: Once<Rights> = Once::new();

/// Makes changes possible from here on.
///
/// # Errors
///
/// [`TypeError`], when the local APIC's registers, which the fixmap has uncached, cannot be written down.
///
/// # Safety
///
/// `plan` is what is mapped in the tables of `areas`, and nobody else edits direct map and image from now on.
pub unsafe fn bring_up(plan: &'static Plan, areas: &'static Areas) -> Result<(), TypeError> {
    let tables = areas.tables();
    let shootdown = areas.shootdown();
    let types =
        TYPES.call_once(|| CacheTypes::new(shootdown.platform(), tables.memory(), tables.frames()));
    if let Some(registers) = plan.local_apic {
        write_down(types, registers)?;
    }
    let list = LIST.call_once(|| [areas]);
    PERMISSIONS.call_once(|| {
        // SAFETY: the caller's contract.
        unsafe { Permissions::new(*tables, shootdown, &plan.layout, types, list) }
    });
    Ok(())
}

/// Writes down that the page of a device's registers is mapped uncached in a slot of the fixmap, for good.
///
/// # Errors
///
/// [`TypeError`], when it is mapped with another memory type already, or there is no room for it in the books.
pub fn uncached_slot(registers: PhysAddr) -> Result<(), TypeError> {
    TYPES
        .get()
        .map_or(Ok(()), |types| write_down(types, registers))
}

fn write_down(types: &Types, registers: PhysAddr) -> Result<(), TypeError> {
    match PhysRange::try_new(registers.align_down(FRAME_SIZE), FRAME_SIZE) {
        Ok(page) => types.add_mapping(page, CacheType::Uncached),
        // A page that does not exist is in no slot either.
        Err(_) => Ok(()),
    }
}

/// Whoever changes pages, once that was [brought up](bring_up).
pub fn get() -> Option<&'static Rights> {
    PERMISSIONS.get()
}

/// What was changed about a page.
pub fn changed(address: VirtAddr) -> Option<Changed> {
    get()?.try_changed(address)
}
