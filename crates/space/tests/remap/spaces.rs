//! A user space beside the areas of a rig with one CPU, and what its tables say.

use kspace::shootdown::{Scope, Shootdown};
use kspace::user::{SpaceError, UserSpace};
use kspace_layout::{PagingMode, Pfn, VirtAddr, VirtRange};
use kspace_paging::{EntryFormat, LongMode, Page, Walk, Walker};

use crate::rig::{K4, Rig, SimKernel, pages};

pub type Space<'s, 'r, E = LongMode> = UserSpace<'s, 'r, SimKernel<'r, E>, 1>;

/// Where things are mapped in user spaces here.
pub const AT: VirtAddr = VirtAddr::new(0x40_0000);

/// The user part: the lower half of long mode but its first page and its last, or what Linux gives on 32 bits.
pub fn user_part(mode: PagingMode) -> VirtRange {
    let last = match mode {
        PagingMode::TwoLevel | PagingMode::Pae => 0xbfff_ffff,
        PagingMode::FourLevel => 0x7fff_ffff_efff,
        PagingMode::FiveLevel => 0xff_ffff_ffff_efff,
    };
    VirtRange::try_from_bounds(VirtAddr::new(K4), VirtAddr::new(last)).expect("one half")
}

/// Runs `test` with a user space beside the areas.
pub fn with_space<'r, E: EntryFormat>(
    rig: &Rig<'_, 'r, E>,
    test: impl FnOnce(&Space<'_, 'r, E>),
) -> Result<(), SpaceError> {
    let shootdown = Shootdown::new(rig.cpu).with_scope(Scope::Own);
    // SAFETY: the kernel's root entries are there, and no CPU loads the root.
    let space = unsafe { UserSpace::new(rig.areas, user_part(rig.setup.mode), &shootdown) }?;
    test(&space);
    Ok(())
}

/// A walk through the tables of a space.
pub fn walk<E: EntryFormat>(rig: &Rig<'_, '_, E>, space: &Space<'_, '_, E>, at: VirtAddr) -> Walk {
    let walker = Walker::new(rig.setup.mode, space.root(), rig.memory);
    walker.with_limits(rig.setup.limits).walk(at)
}

/// The page that a space has at an address.
pub fn page<E: EntryFormat>(
    rig: &Rig<'_, '_, E>,
    space: &Space<'_, '_, E>,
    at: VirtAddr,
) -> Option<Page> {
    walk(rig, space, at).page()
}

/// The frames of a range of a space, page by page.
pub fn frames_of<E: EntryFormat>(
    rig: &Rig<'_, '_, E>,
    space: &Space<'_, '_, E>,
    range: VirtRange,
) -> Vec<Option<u64>> {
    pages(range)
        .map(|at| page(rig, space, at).map(|page| page.phys.pfn().as_u64()))
        .collect()
}

/// The words of a frame.
pub fn words<'m, E: EntryFormat>(
    rig: &Rig<'_, 'm, E>,
    frame: u64,
) -> &'m [std::sync::atomic::AtomicU64] {
    rig.memory.words(Pfn::new(frame))
}
