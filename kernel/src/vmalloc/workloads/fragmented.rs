//! `fragment-vmalloc`: what the area is for. Of every sixteen frames in a row one is taken, so that no block of order 4 is left anywhere; then
//! 256 MiB are asked for both ways.

use kspace::vmalloc::{AreaError, AreaRequest};
use kspace_frames::zone::Request;
use kspace_frames::{Order, Owner};
use kspace_layout::{FRAME_SIZE, Pfn, VirtRange};

use super::account::Account;
use crate::arch;
use crate::info;
use crate::memory::{self, Memory};
use crate::vmalloc::{self, Areas};

/// What is asked for.
const BYTES: u64 = 256 << 20;
/// No free block is to be as large as this.
const ORDER: u32 = 4;
/// One frame of so many in a row is taken.
const STRIDE: u64 = 1 << ORDER;

/// Whose the frames are that break memory up.
const CRUMBS: Owner = Owner::new(11);

/// Fragments memory, asks, and gives all back. True when the area was had, the block was refused, and nothing was lost.
pub fn run() -> bool {
    let (Some(areas), Some(memory)) = (vmalloc::get(), memory::get()) else {
        return false;
    };
    Account::begin(areas);
    let before = Account::take(areas, memory);
    let result = Crumbs::make(areas, memory).map(|crumbs| {
        let result = ask(areas, memory);
        crumbs.give_back(areas, memory);
        result
    });
    let same = before.is_same_as(&Account::take(areas, memory));
    match result {
        Ok(well) => well && same,
        Err(error) => {
            info!("fragment-vmalloc: {error}");
            false
        }
    }
}

fn ask(areas: &Areas, memory: &'static Memory) -> bool {
    let large = blocks(memory, |order| order >= ORDER as usize);
    info!(
        "fragment-vmalloc: {} MiB are free, {large} free blocks are of order {ORDER} or more",
        memory.free_frames() * FRAME_SIZE / (1 << 20)
    );
    let block = memory.allocate(&Request::order(ORDER));
    let refused = match &block {
        Ok(block) => {
            info!(
                "fragment-vmalloc: a block of order {ORDER} at {} was had",
                block.pfn().start()
            );
            false
        }
        Err(error) => {
            info!("fragment-vmalloc: 64 KiB in a row were refused: {error}");
            true
        }
    };
    if let Ok(block) = block {
        memory.free(block);
    }
    let filled = match areas.allocate(&AreaRequest::new(BYTES)) {
        Ok(range) => {
            let filled = fill_and_check(range);
            info!(
                "fragment-vmalloc: 256 MiB at {range} were had, every page of them was written and read back: {filled}"
            );
            // SAFETY: allocated above, and used no more.
            filled && unsafe { areas.free(range.start()) }.is_ok()
        }
        Err(error) => {
            info!("fragment-vmalloc: 256 MiB were refused: {error}");
            false
        }
    };
    large == 0 && refused && filled
}

fn fill_and_check(range: VirtRange) -> bool {
    let words = || {
        (0..range.size() / FRAME_SIZE)
            .map(|page| (range.start().as_u64() + page * FRAME_SIZE) as *mut u64)
    };
    for word in words() {
        // SAFETY: the area is mapped, and the caller's alone.
        unsafe { word.write_volatile(word as u64) };
    }
    // SAFETY: as above.
    words().all(|word| unsafe { word.read_volatile() } == word as u64)
}

/// Free blocks of these orders, in all zones.
fn blocks(memory: &Memory, wanted: impl Fn(usize) -> bool) -> usize {
    let zones = memory.zones().as_slice().iter();
    zones
        .map(|zone| {
            let blocks = zone.frames().free_blocks();
            let wanted = blocks
                .iter()
                .enumerate()
                .filter(|(order, _)| wanted(*order));
            wanted.map(|(_, count)| count).sum::<usize>()
        })
        .sum()
}

/// Frames that lie between the free ones.
struct Crumbs {
    /// Their numbers, in an area.
    list: VirtRange,
    count: u64,
}

impl Crumbs {
    /// Takes every frame there is, past all marks, and gives all back but one of each sixteen.
    fn make(areas: &Areas, memory: &'static Memory) -> Result<Self, AreaError> {
        let room = memory.zones().managed_frames();
        let list = areas.allocate(&AreaRequest::new(room * 8))?;
        let mut crumbs = Self { list, count: 0 };
        for zone in memory.zones().as_slice() {
            while let Ok(block) =
                arch::pinned(|pin| zone.frames().allocate(pin, Order::FRAME, CRUMBS))
            {
                crumbs.push(block.into_raw().0);
            }
        }
        let all = crumbs.count;
        crumbs.count = 0;
        for index in 0..all {
            let frame = crumbs.get(index);
            if frame.as_u64() % STRIDE == STRIDE / 2 {
                // Its place in the list has been read: this one is never behind it.
                crumbs.push(frame);
            } else {
                release(memory, frame);
            }
        }
        drain(memory);
        Ok(crumbs)
    }

    fn place(&self, index: u64) -> *mut u64 {
        (self.list.start().as_u64() as *mut u64).wrapping_add(index as usize)
    }

    fn push(&mut self, frame: Pfn) {
        // SAFETY: the list's own area, which has room for every frame of the zones.
        unsafe { self.place(self.count).write_volatile(frame.as_u64()) };
        self.count += 1;
    }

    fn get(&self, index: u64) -> Pfn {
        // SAFETY: as in `push`, which has written it.
        Pfn::new(unsafe { self.place(index).read_volatile() })
    }

    fn give_back(self, areas: &Areas, memory: &'static Memory) {
        (0..self.count).for_each(|index| release(memory, self.get(index)));
        drain(memory);
        // SAFETY: allocated by `make`, and used no more.
        if let Err(error) = unsafe { areas.free(self.list.start()) } {
            info!("fragment-vmalloc: {error}");
        }
    }
}

fn release(memory: &'static Memory, frame: Pfn) {
    // SAFETY: the frame was taken by `make`, which gave up the block's value.
    if let Err(error) = unsafe { memory.free_raw(frame, Order::FRAME) } {
        panic!("{error}");
    }
}

/// Blocks are counted without the frames that this CPU keeps.
fn drain(memory: &Memory) {
    arch::pinned(|pin| {
        for zone in memory.zones().as_slice() {
            zone.frames().drain(pin);
        }
    });
}
