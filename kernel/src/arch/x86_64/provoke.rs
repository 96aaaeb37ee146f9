//! Faults on request: `provoke=NAME` commits one, so that anybody can read how it is explained.

use core::arch::asm;

use kspace::areas::OwnedArea;
use kspace::permissions::Change;
use kspace::vmalloc::AreaRequest;
use kspace_layout::{
    AreaKind, EntryPart, EntryStack, FixmapSlot, Layout, PageSize, PhysRange, VirtAddr, VirtRange,
};
use kspace_paging::{Access, Editor, FrameSource, Invalidation, Protection, Stale};

use super::atomic_context::Lock;
use super::boot::Handoff;
use super::{PageFormat, shootdown, user_space, work};
use crate::address_space::Plan;
use crate::command_line::Provocation;
use crate::vmalloc::{self, Areas, workloads};
use crate::{info, permissions, report};

/// A constant that lies in `.rodata`.
static CONSTANT: u64 = 0x6b73_7061_6365;

/// Commits the fault. Returns only when nothing faulted, which is itself a failure.
pub fn provoke(provocation: Provocation, handoff: &Handoff) {
    let layout = &handoff.plan.layout;
    let start_of = |kind| layout.area(kind).map(|area| area.range().start().as_u64());
    let text = provoke as *const () as u64;
    match provocation {
        Provocation::WriteText => write(text),
        Provocation::WriteRodata => write(&raw const CONSTANT as u64),
        Provocation::WriteTextAlias => {
            let alias = layout
                .virt_to_phys(VirtAddr::new(text))
                .and_then(|phys| layout.phys_to_virt(phys));
            if let Ok(alias) = alias {
                write(alias.as_u64());
            }
        }
        Provocation::ExecuteData => {
            // A `ret` on the stack: it would come back, were it allowed to run.
            let code = [0xc3_u8];
            execute(code.as_ptr() as u64);
        }
        Provocation::Null => read(0),
        Provocation::NonCanonical => read(0x0123_4567_89ab_cdef),
        Provocation::StackOverflow => {
            info!("provoke: recursed {} bytes deep", overflow(0));
        }
        Provocation::StackOverflowOnCpu1 => work::on_all(|cpu| {
            if cpu.index() == 1 {
                info!("provoke: recursed {} bytes deep", overflow(0));
            }
        }),
        Provocation::GuardPage => {
            let part = EntryPart::Stack(EntryStack::DoubleFault);
            let guard = layout.cpu_entry().and_then(|area| area.guard(0, part));
            guard
                .into_iter()
                .for_each(|guard| read(guard.last().as_u64() - 7));
        }
        Provocation::Vmalloc => {
            let area = layout.area(AreaKind::Vmalloc);
            let last = area.map(|area| area.range().end_u64() - 8);
            last.into_iter().for_each(read);
        }
        Provocation::FreedArea => touch_area(|area, areas| {
            // SAFETY: made for this, and not used: so no TLB has it.
            if unsafe { areas.free(area.start()) }.is_ok() {
                read(area.start().as_u64() + 8);
            }
        }),
        Provocation::AreaGuard => touch_area(|area, _| read(area.end_u64())),
        Provocation::EmptySlot => {
            let slot = layout
                .fixmap()
                .and_then(|fixmap| fixmap.address(FixmapSlot::EarlyConsole));
            slot.into_iter().for_each(|page| read(page.as_u64() + 16));
        }
        Provocation::DoubleVfree => double_vfree(),
        Provocation::UnmappedUser => read_unmapped_user(),
        Provocation::ReadOnlyPage => touch_area(|area, _| {
            if change(area, Change::ReadOnly) {
                write(area.start().as_u64());
            }
        }),
        Provocation::NonPresentPage => touch_area(|area, areas| {
            let frame = areas.tables().memory();
            let walker = handoff.walker(frame);
            let place = walker.translate(area.start());
            let place = place.and_then(|phys| layout.phys_to_virt(phys).ok());
            if let Some(place) = place
                && change(VirtRange::new(place, 4096), Change::NonPresent)
            {
                read(place.as_u64());
            }
        }),
        Provocation::DirectMapHole => {
            let hole = report::hole_in_ram(&handoff.plan.memory_map, layout);
            hole.into_iter().for_each(|hole| read(hole.as_u64()));
        }
        Provocation::UserAccess => {
            map_user_page(handoff)
                .into_iter()
                .for_each(|page| read(page.as_u64()));
        }
        Provocation::UserExecute => {
            map_user_page(handoff)
                .into_iter()
                .for_each(|page| execute(page.as_u64()));
        }
        Provocation::LockAcrossFlush => flush_with_a_lock_held(layout),
        Provocation::Panic => panic!("provoked"),
        Provocation::PanicEverywhere => {
            work::on_all(|cpu| panic!("provoked on CPU {}", cpu.index()));
        }
        Provocation::HeapExhausted => exhaust_heap(),
        Provocation::Hole => {
            let before = start_of(AreaKind::Vmemmap).map(|start| start - 4096);
            before.into_iter().for_each(read);
        }
    }
}

/// Calls `touch` with an area of three pages.
fn touch_area(touch: impl FnOnce(VirtRange, &Areas)) {
    let Some(areas) = vmalloc::get() else { return };
    match areas.allocate(&AreaRequest::new(3 * 4096)) {
        Ok(area) => touch(area, areas),
        Err(error) => info!("provoke: {error}"),
    }
}

/// Frees an area by its bare address, and then the value that has it: whose panic names both.
fn double_vfree() {
    let Some(areas) = vmalloc::get() else { return };
    match OwnedArea::allocate(areas, &AreaRequest::new(4096)) {
        Ok(area) => {
            // SAFETY: nobody uses the area; that the value has it still is what is provoked.
            let freed = unsafe { areas.free(area.start()) };
            info!("provoke: freed once: {}", freed.is_ok());
            area.free();
        }
        Err(error) => info!("provoke: {error}"),
    }
}

/// Maps an area in a user space, reads it there, takes it away, and reads again.
fn read_unmapped_user() {
    let Some(areas) = vmalloc::get() else { return };
    let read_there = |page: VirtAddr| {
        // SAFETY: as in `read`.
        unsafe { user_space::read_user(page) }
    };
    let done = workloads::in_space(areas, |space| {
        workloads::user_page(areas, space).map(|(mapping, page)| {
            user_space::in_user_space(space, || {
                info!("provoke: user page {page} has {:#x}", read_there(page));
                mapping.unmap();
                info!("provoke: reading it again");
                read_there(page)
            })
        })
    });
    info!("provoke: nothing faulted: {done:?}");
}

/// Changes pages that nobody but the fault uses; whether that was done.
#[track_caller]
fn change(range: VirtRange, change: Change) -> bool {
    let Some(rights) = permissions::get() else {
        return false;
    };
    // SAFETY: what touches them is meant to fault.
    match unsafe { rights.set(range.start(), range.size(), change) } {
        Ok(()) => true,
        Err(error) => {
            info!("provoke: {error}");
            false
        }
    }
}

/// Leaks pieces of 1 MiB until there are no more.
fn exhaust_heap() {
    info!("provoke: allocating without end");
    loop {
        alloc::vec::Vec::<u8>::with_capacity(1 << 20).leak();
    }
}

/// What [`kspace::shootdown`] forbids by its third rule, and finds.
fn flush_with_a_lock_held(layout: &Layout) {
    static LOCK: Lock<()> = Lock::new(());
    let Some(vmalloc) = layout.area(AreaKind::Vmalloc) else {
        return;
    };
    let range = VirtRange::new(vmalloc.range().start(), 4096);
    let page = PageSize::Size4K;
    let stale = Stale {
        range,
        page,
        global: true,
        tables: false,
        root: false,
    };
    let _held = LOCK.lock();
    shootdown::KERNEL.invalidate(&Invalidation::Range(stale));
}

/// Maps a frame that holds a `ret` where a program would have its code; `None` when that fails.
fn map_user_page(handoff: &Handoff) -> Option<VirtAddr> {
    let memory = handoff.memory()?;
    let frames = crate::memory::get()?.tables();
    let Plan { layout, limits, .. } = &handoff.plan;
    // SAFETY: these are the kernel's live tables; nothing else edits the user half, and nothing was mapped there.
    let editor = unsafe {
        Editor::<PageFormat, _, _>::new(layout.mode(), handoff.root, *limits, &memory, &frames)
    };
    let page = VirtRange::new(VirtAddr::new(0x40_0000), 4096);
    let frame = frames.allocate()?;
    let kmap = memory.kmap();
    // SAFETY: a fresh frame.
    let mut code = unsafe { kmap.map(PhysRange::new(frame, 4096)) }.ok()?;
    code.write(0, &[0xc3]).ok()?;
    let protection = Protection::user(Access::ReadExecute);
    editor
        .ok()?
        .map(page, frame, protection, PageSize::Size4K)
        .ok()?;
    Some(page.start())
}

fn read(address: u64) {
    info!("provoke: reading {address:016x}");
    // SAFETY: the load either faults, which ends the boot, or its result is thrown away. It is assembly so that the compiler
    // cannot know, or rely on, what is there.
    unsafe {
        asm!("mov {scratch}, [{address}]", address = in(reg) address, scratch = out(reg) _, options(readonly, nostack))
    };
}

fn write(address: u64) {
    info!("provoke: writing {address:016x}");
    // SAFETY: the store writes back the value it finds there; it changes nothing even where it should have faulted.
    unsafe {
        asm!("lock or qword ptr [{address}], 0", address = in(reg) address & !7, options(nostack));
    }
}

fn execute(address: u64) {
    info!("provoke: jumping to {address:016x}");
    // SAFETY: the caller put a `ret` there, so that the call comes back should it not fault.
    unsafe { asm!("call {address}", address = in(reg) address, clobber_abi("C")) };
}

/// Recurses until the stack ends; the fault comes on the guard page below it.
#[inline(never)]
fn overflow(depth: u64) -> u64 {
    let page = core::hint::black_box([depth; 64]);
    if depth == u64::MAX {
        0
    } else {
        overflow(depth + 512) + (core::hint::black_box(page)[0] & 1)
    }
}
