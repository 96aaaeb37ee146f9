//! The workloads of Linux's `lib/test_vmalloc.c`: one loop is an allocation, a byte written, and a free, at the sizes and alignments of
//! Linux 6.12. What a workload sets up and takes down counts, as it does there.

use core::fmt;

use kspace::vmalloc::{AreaError, AreaRequest, FreeError};
use kspace_frames::zone::{Hooks, Request};
use kspace_layout::{FRAME_SIZE, Pfn, VirtRange};

use super::Dice;
use crate::arch;
use crate::command_line::AreaTest;
use crate::info;
use crate::memory;
use crate::vmalloc::{Areas, Zeros};

/// Areas that `long_busy_list_alloc_test` holds.
const HELD: u64 = 15_000;
/// Pages of `fix_align_alloc_test`, and its alignment: twice that of x86-64's stacks of 16 KiB (`THREAD_ALIGN`).
const ALIGNED_PAGES: u64 = 5;
const STACK_ALIGN: u64 = 2 * 16 * 1024;

/// Why a workload did not reach its end.
pub(super) enum Trouble {
    Area(AreaError),
    Free(FreeError),
}

impl From<AreaError> for Trouble {
    fn from(error: AreaError) -> Self {
        Self::Area(error)
    }
}

impl From<FreeError> for Trouble {
    fn from(error: FreeError) -> Self {
        Self::Free(error)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Area(error) => error.fmt(f),
            Self::Free(error) => error.fmt(f),
        }
    }
}

/// How many loops were done.
type Done = Result<u64, Trouble>;

/// Does a workload, so many loops of it. The one that maps a page of somebody else's maps `own`, which stays the caller's until a purge.
pub(super) fn run(test: AreaTest, areas: &Areas, loops: u64, own: Pfn) -> Done {
    match test {
        AreaTest::FixSize => fix_size(areas, loops),
        AreaTest::FullFit => full_fit(areas, loops),
        AreaTest::LongBusyList => long_busy_list(areas, loops),
        AreaTest::RandomSize => random_size(areas, loops),
        AreaTest::FixAlign => fix_align(areas, loops),
        AreaTest::RandomSizeAlign => random_size_align(areas, loops),
        AreaTest::AlignShift => align_shift(areas),
        AreaTest::VmMapRam => vm_map_ram(areas, loops, own),
        AreaTest::Bookkeeping
        | AreaTest::Scaling
        | AreaTest::Remap
        | AreaTest::BadInput
        | AreaTest::LargePages
        | AreaTest::Reallocate => Ok(0),
    }
}

/// A page, a byte, and away.
#[inline(never)]
pub(super) fn fix_size(areas: &Areas, loops: u64) -> Done {
    for _ in 0..loops {
        let area = pages(areas, 1)?;
        write(area, 0);
        free(areas, area)?;
    }
    Ok(loops)
}

#[inline(never)]
fn full_fit(areas: &Areas, loops: u64) -> Done {
    // Linux's bound on what waits for a purge, in pages: 32 MiB for each bit of the number of CPUs.
    let cpus = arch::cpus_online();
    let junk = u64::from(u64::BITS - cpus.leading_zeros()) * (32 << 20) / FRAME_SIZE;
    let (kept, gone) = (Table::new(areas, junk)?, Table::new(areas, junk)?);
    for index in 0..junk {
        kept.set(index, pages(areas, 1)?);
        gone.set(index, pages(areas, 1)?);
    }
    for index in 0..junk {
        free(areas, gone.get(index))?;
    }
    for _ in 0..loops {
        let area = pages(areas, 1)?;
        write(area, 1);
        free(areas, area)?;
    }
    for index in 0..junk {
        free(areas, kept.get(index))?;
    }
    free(areas, kept.0)?;
    free(areas, gone.0)?;
    Ok(loops)
}

#[inline(never)]
fn long_busy_list(areas: &Areas, loops: u64) -> Done {
    let held = Table::new(areas, HELD)?;
    for index in 0..HELD {
        held.set(index, pages(areas, 1)?);
    }
    for _ in 0..loops {
        let (long, short) = (pages(areas, 100)?, pages(areas, 1)?);
        write(long, 0);
        write(short, 1);
        free(areas, long)?;
        free(areas, short)?;
    }
    for index in 0..HELD {
        free(areas, held.get(index))?;
    }
    free(areas, held.0)?;
    Ok(loops)
}

#[inline(never)]
fn random_size(areas: &Areas, loops: u64) -> Done {
    let mut dice = Dice(loops);
    for _ in 0..loops {
        let area = pages(areas, 1 + dice.below(100))?;
        write(area, 1);
        free(areas, area)?;
    }
    Ok(loops)
}

#[inline(never)]
fn fix_align(areas: &Areas, loops: u64) -> Done {
    for _ in 0..loops {
        let request = AreaRequest::new(ALIGNED_PAGES * FRAME_SIZE);
        let area = areas.allocate(&request.aligned(STACK_ALIGN).zeroed())?;
        free(areas, area)?;
    }
    Ok(loops)
}

/// Says what zeros cost in the workload before: as many pages, one by one.
pub(super) fn measure_zeroing() {
    const ROUNDS: u64 = 100;
    let Some(memory) = memory::get() else { return };
    let Ok(block) = memory.allocate(&Request::order(3)) else {
        return;
    };
    let zeros = Zeros {
        window: memory.window(),
    };
    let began = arch::ticks();
    for _ in 0..ROUNDS {
        for page in 0..ALIGNED_PAGES {
            zeros.zero(Pfn::new(block.pfn().as_u64() + page), 1);
        }
    }
    let took = (arch::ticks() - began) / ROUNDS;
    info!("test-vmalloc: zeroing: {ALIGNED_PAGES} pages: {took} ticks");
    memory.free(block);
}

#[inline(never)]
fn random_size_align(areas: &Areas, loops: u64) -> Done {
    let mut dice = Dice(loops);
    for _ in 0..loops {
        let number = dice.below(256);
        let request = AreaRequest::new((number % 10 + 1) * FRAME_SIZE);
        let area = areas.allocate(&request.aligned(1 << (number % 23)).zeroed())?;
        free(areas, area)?;
    }
    Ok(loops)
}

/// Linux says of its test: it is to fail. So is this one, at the first alignment for which there is no place.
#[inline(never)]
fn align_shift(areas: &Areas) -> Done {
    for shift in 0..u64::BITS {
        let request = AreaRequest::new(FRAME_SIZE).aligned(1 << shift).zeroed();
        let area = areas.allocate(&request)?;
        free(areas, area)?;
    }
    Ok(u64::from(u64::BITS))
}

#[inline(never)]
fn vm_map_ram(areas: &Areas, loops: u64, own: Pfn) -> Done {
    for _ in 0..loops {
        // SAFETY: the frame is the caller's, who frees it only after a purge.
        let area = unsafe { areas.map_ram(1, |_| own)? };
        write(area, b'a');
        // SAFETY: mapped just now, and not used any more.
        unsafe { areas.unmap_ram(area.start(), 1)? };
    }
    Ok(loops)
}

/// An area of so many pages.
#[inline(always)]
fn pages(areas: &Areas, pages: u64) -> Result<VirtRange, AreaError> {
    areas.allocate(&AreaRequest::new(pages * FRAME_SIZE))
}

/// Writes the area's first byte.
#[inline(always)]
fn write(area: VirtRange, byte: u8) {
    // SAFETY: the area is mapped and the caller's alone.
    unsafe { (area.start().as_u64() as *mut u8).write_volatile(byte) };
}

#[inline(always)]
fn free(areas: &Areas, area: VirtRange) -> Result<(), FreeError> {
    // SAFETY: whoever calls this allocated the area, and uses it no more.
    unsafe { areas.free(area.start()) }
}

/// Areas of one page, in an area.
struct Table(VirtRange);

impl Table {
    fn new(areas: &Areas, count: u64) -> Result<Self, AreaError> {
        Ok(Self(areas.allocate(&AreaRequest::new(count * 8))?))
    }

    fn place(&self, index: u64) -> *mut u64 {
        (self.0.start().as_u64() as *mut u64).wrapping_add(index as usize)
    }

    fn set(&self, index: u64, area: VirtRange) {
        // SAFETY: the table's own area, which has room for as many as were asked for.
        unsafe { self.place(index).write_volatile(area.start().as_u64()) };
    }

    fn get(&self, index: u64) -> VirtRange {
        // SAFETY: as in `set`, which has written it.
        let start = unsafe { self.place(index).read_volatile() };
        VirtRange::new(kspace_layout::VirtAddr::new(start), FRAME_SIZE)
    }
}
