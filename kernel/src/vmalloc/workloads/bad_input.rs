//! `test-vmalloc=bad_input`: all that is to be refused, asked for on the live kernel. Each refusal is printed; none changes anything.

use core::fmt::Display;

use kspace::areas::{DeviceCache, IoMemory, KernelStack, MapError, Mapping, OwnedArea};
use kspace::vmalloc::{AreaRequest, Kind};
use kspace_frames::MappedBlock;
use kspace_frames::zone::Request;
use kspace_layout::{FRAME_SIZE, PhysAddr, VirtAddr};
use kspace_paging::{Access, CacheType, Protection};

use super::account::Account;
use crate::address_space::Plan;
use crate::info;
use crate::memory::{self, Memory};
use crate::permissions;
use crate::vmalloc::Areas;

/// True when everything was refused, and nothing was lost.
pub(super) fn run(plan: &Plan) -> bool {
    let (Some(areas), Some(memory)) = (crate::vmalloc::get(), memory::get()) else {
        return false;
    };
    let before = Account::take(areas, memory);
    let refused = [
        sizes(areas),
        kinds(areas),
        devices(areas, plan),
        frames(areas, memory),
        frees(areas),
    ];
    let (asked, said) = refused
        .iter()
        .fold((0, 0), |(asked, said), one| (asked + one.0, said + one.1));
    info!("test-vmalloc: bad_input: {said} of {asked} requests were refused");
    let same = before.is_same_as(&Account::take(areas, memory));
    asked == said && same
}

/// Requests made, and refused.
type Counts = (u32, u32);

/// Counts one request, which is to fail, and prints what was said.
fn refused<T, E: Display>(counts: &mut Counts, asked: Result<T, E>) {
    counts.0 += 1;
    match asked {
        Ok(_) => info!(
            "test-vmalloc: bad_input: number {} was not refused",
            counts.0
        ),
        Err(error) => {
            counts.1 += 1;
            info!("bad_input: {error}");
        }
    }
}

fn sizes(areas: &Areas) -> Counts {
    let mut counts = (0, 0);
    let page = AreaRequest::new(FRAME_SIZE);
    for request in [
        AreaRequest::new(0),
        AreaRequest::new(areas.area().size() / 2),
        AreaRequest::new(areas.area().size() + 1),
        AreaRequest::new(u64::MAX),
        AreaRequest::new(u64::MAX - FRAME_SIZE + 2),
        page.aligned(0),
        page.aligned(3 * FRAME_SIZE),
        page.aligned(1 << 63),
    ] {
        refused(&mut counts, areas.allocate(&request));
    }
    for bytes in [0, u64::MAX] {
        refused(&mut counts, KernelStack::new(areas, bytes));
    }
    counts
}

fn kinds(areas: &Areas) -> Counts {
    let mut counts = (0, 0);
    let page = AreaRequest::new(FRAME_SIZE);
    refused(&mut counts, areas.allocate(&page.kind(Kind::Frames)));
    refused(
        &mut counts,
        areas.allocate(&page.kind(Kind::Stack).user_mappable()),
    );
    // SAFETY: it is refused, and if not, the area is never used.
    let mapped = unsafe { areas.map(&page, |_| kspace_layout::Pfn::new(1)) };
    refused(&mut counts, mapped);
    if let Ok(mut area) = OwnedArea::allocate(areas, &page) {
        refused(&mut counts, area.resize(&AreaRequest::new(0)));
        refused(&mut counts, area.resize(&page.kind(Kind::Stack)));
    }
    // From writable to executable in one step, which a TLB may not have noticed for the half of it.
    if let Ok(area) = OwnedArea::allocate(areas, &page) {
        let protected = areas
            .tables()
            .protect(area.range(), Protection::KERNEL_TEXT);
        refused(&mut counts, protected);
    }
    counts
}

fn devices(areas: &Areas, plan: &Plan) -> Counts {
    let mut counts = (0, 0);
    let map = &plan.memory_map;
    let ram = map.ram().last().map_or(PhysAddr::ZERO, |ram| ram.start());
    let end = PhysAddr::new((1 << 52) - FRAME_SIZE);
    let Some(types) = permissions::get().map(permissions::Rights::types) else {
        return counts;
    };
    for (start, bytes) in [(ram, 8), (end, 2 * FRAME_SIZE), (end, u64::MAX), (ram, 0)] {
        // SAFETY: it is refused, and if not, the mapping is never used.
        let device =
            unsafe { IoMemory::new(areas, types, map, start, bytes, DeviceCache::default()) };
        refused(&mut counts, device);
    }
    counts
}

/// Frames that are not the caller's cannot be named: a block is made from the books, which know whose it is.
fn frames(areas: &'static Areas, memory: &'static Memory) -> Counts {
    let mut counts = (0, 0);
    let Ok(block) = memory.allocate(&Request::order(0)) else {
        return counts;
    };
    let (pfn, order) = (block.pfn(), block.order());
    let Some(zone) = memory.zones().spanning(pfn).next() else {
        return counts;
    };
    let allocator = zone.frames();
    // SAFETY: it is refused: the block is in use, and not mapped.
    refused(&mut counts, unsafe {
        MappedBlock::from_raw(allocator, pfn, order)
    });
    memory.free(block);
    // SAFETY: it is refused: the block is free.
    refused(&mut counts, unsafe {
        MappedBlock::from_raw(allocator, pfn, order)
    });
    for protection in [
        Protection::KERNEL_TEXT,
        Protection::user(Access::ReadWrite),
        Protection::KERNEL_DATA.with_cache(CacheType::Uncached),
        Protection::KERNEL_DATA,
    ] {
        let none: Result<_, MapError> = Mapping::new(areas, &[], protection);
        refused(&mut counts, none);
    }
    counts
}

fn frees(areas: &Areas) -> Counts {
    let mut counts = (0, 0);
    for bytes in [3 * FRAME_SIZE, 4 << 20] {
        let Ok(area) = areas.allocate(&AreaRequest::new(bytes)) else {
            continue;
        };
        let inside = VirtAddr::new(area.start().as_u64() + FRAME_SIZE);
        let guard = VirtAddr::new(area.last().as_u64() + 1);
        let odd = VirtAddr::new(area.start().as_u64() + 8);
        for address in [inside, guard, odd] {
            // SAFETY: it is refused.
            refused(&mut counts, unsafe { areas.free(address) });
        }
        // SAFETY: made above, and never used; the second time it is refused.
        let freed = unsafe { areas.free(area.start()) };
        refused(
            &mut counts,
            freed.map_or(Ok(()), |()| {
                // SAFETY: as above.
                unsafe { areas.free(area.start()) }
            }),
        );
    }
    let last = areas.area().last();
    for address in [
        VirtAddr::ZERO,
        last.align_down(FRAME_SIZE),
        VirtAddr::new(u64::MAX),
    ] {
        // SAFETY: it is refused.
        refused(&mut counts, unsafe { areas.free(address) });
    }
    counts
}
