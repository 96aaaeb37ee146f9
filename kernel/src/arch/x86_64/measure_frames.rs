//! `measure`: what a frame costs, in ticks of the time-stamp counter. Under QEMU's `-icount shift=0` a tick is an instruction.
//!
//! A pair is one block taken and given back, from and to what this CPU keeps: through the allocator of one zone by who has pinned
//! the CPU already, and as the kernel asks for memory, with marks, fallback and pinning. What the loop itself takes is taken off.

use core::hint::black_box;

use kspace_frames::zone::Request;
use kspace_frames::{FrameAllocator, Order, Owner, PinnedCpu};

use super::{clock, pinned};
use crate::info;
use crate::memory::{self, Memory};

/// Pairs per figure: the few that leave the CPU's own stacks are lost in them.
const PAIRS: u64 = 10_000;

/// Measures on this CPU.
pub(super) fn run() {
    let Some(memory) = memory::get() else { return };
    let zones = memory.zones().as_slice().iter();
    let Some(zone) = zones.max_by_key(|zone| zone.frames().free_frames()) else {
        return;
    };
    let frames = zone.frames();
    let [single, huge] = pinned(|pin| {
        [
            through_allocator::<0>(frames, pin),
            through_allocator::<9>(frames, pin),
        ]
    });
    report("order 0, through the allocator", single);
    report("order 9, through the allocator", huge);
    report("order 0, through the zones", through_zones(memory));
}

fn report(what: &str, ticks: Option<u64>) {
    match ticks {
        Some(ticks) => info!("measure: alloc + free, {what}: {ticks} ticks"),
        None => info!("measure: alloc + free, {what}: refused"),
    }
}

#[inline(never)]
fn through_allocator<const ORDER: u8>(
    frames: &FrameAllocator<'static>,
    pin: &PinnedCpu,
) -> Option<u64> {
    ticks_each(|| {
        let pin = black_box(pin);
        let block = frames.allocate(pin, const { Order::new(ORDER) }, Owner::KERNEL);
        block.is_ok_and(|block| block.free(pin).is_ok())
    })
}

#[inline(never)]
fn through_zones(memory: &'static Memory) -> Option<u64> {
    let request = Request::order(0);
    ticks_each(|| match memory.allocate(black_box(&request)) {
        Ok(block) => {
            memory.free(block);
            true
        }
        Err(_) => false,
    })
}

/// What `pair` takes, rounded; `None` when one of them fails.
#[inline(always)]
fn ticks_each(mut pair: impl FnMut() -> bool) -> Option<u64> {
    let mut taken = 0;
    // The first round fills this CPU's stacks. One place for the call, so that it is made part of the loop.
    for round in [1, PAIRS] {
        let began = clock::ticks();
        for _ in 0..round {
            if !pair() {
                return None;
            }
        }
        taken = clock::ticks() - began;
    }
    let began = clock::ticks();
    for pair in 0..PAIRS {
        black_box(pair);
    }
    let idle = clock::ticks() - began;
    Some((taken.saturating_sub(idle) + PAIRS / 2) / PAIRS)
}
