//! `stress-frames=N`: every CPU allocates, fills, hands on, checks and frees, N rounds; then memory is used up; then all must be as before.
//!
//! ```text
//!   handler.rs    a timer interrupt every now and then, which allocates in the middle of whatever its CPU is doing
//!   mixed.rs      blocks of all orders, runs, contiguous ranges; some are freed by the next CPU, some twice
//!   heap.rs       vectors, boxes and a map that grow and shrink between the others
//!   exhaust.rs    every CPU keeps frames in its stacks, and one takes all there is: it must get those too, by interrupt;
//!                 then all CPUs take all there is at once, some of them urgently
//!   here          counts before and after: free frames, whole huge frames, what the heap has
//! ```
//!
//! Each cache line of a block has a number that follows from who allocated it and when ([`held`]). A frame that two have at the same
//! time shows as a wrong number.

mod exhaust;
mod handler;
mod heap;
mod held;
mod mixed;
mod tally;

use super::Memory;
use crate::arch::{self, CpuData};
use crate::info;
use crate::log::counted::Counted;
use tally::TALLY;

pub use handler::in_handler;

/// What must be the same before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    free: u64,
    huge: u64,
    heap: u64,
    refused: u64,
}

/// Runs `rounds` rounds on every CPU, decided at random from `seed`. True when nothing was wrong.
pub fn run(rounds: u64, seed: u64) -> bool {
    let Some(memory) = super::get() else {
        return false;
    };
    tally::begin(rounds, seed);
    heap::first_block();
    arch::on_all(mixed::make_mailbox);
    let before = count(memory);
    handler::turn_on();
    arch::on_all(mixed::rounds_on);
    handler::turn_off();
    arch::on_all(mixed::empty_mailbox_of);
    report_mixed(rounds);
    let exhausted = exhaust::run(memory);
    let after = count(memory);
    report_counts(&before, &after);
    let interrupted = TALLY.interrupts() >= arch::cpus_online();
    before == after && exhausted && interrupted && TALLY.is_clean()
}

/// Counts when no CPU keeps anything for itself.
fn count(memory: &Memory) -> Counts {
    arch::on_all(|_: &'static CpuData| drain_all());
    let zones = memory.zones().as_slice();
    let sum = |of: fn(&super::FrameZone) -> usize| zones.iter().map(|zone| of(zone) as u64).sum();
    Counts {
        free: sum(|zone| zone.frames().free_frames_exact()),
        huge: sum(|zone| zone.frames().free_huges()),
        heap: super::heap::block_frames(),
        refused: sum(|zone| zone.frames().refused_drops()),
    }
}

/// Gives back all that this CPU keeps.
fn drain_all() {
    let Some(memory) = super::get() else { return };
    arch::pinned(|pin| {
        for zone in memory.zones().as_slice() {
            zone.frames().drain(pin);
        }
    });
}

fn report_mixed(rounds: u64) {
    let tally = &TALLY;
    info!(
        "stress-frames: {rounds} rounds on each of {}, seed={}: {} blocks of {} frames, {} runs, {} contiguous ranges, {} freed by \
         another CPU, {} requests refused",
        Counted(arch::cpus_online(), "CPU"),
        tally.seed(),
        tally.blocks(),
        tally.frames(),
        tally.runs(),
        tally.ranges(),
        tally.handed(),
        tally.refusals(),
    );
    info!(
        "stress-frames: {} double frees tried, {} let through; {} wrong numbers; {} heap pieces, {} wrong; {} interrupts allocated",
        tally.doubles(),
        tally.doubles_taken(),
        tally.wrong(),
        tally.pieces(),
        tally.wrong_pieces(),
        tally.interrupts(),
    );
}

fn report_counts(before: &Counts, after: &Counts) {
    info!(
        "stress-frames: {} frames free before, {} after: {} lost; {} huge frames whole before, {} after; the heap has {} frames, then {}",
        before.free,
        after.free,
        before.free.abs_diff(after.free),
        before.huge,
        after.huge,
        before.heap,
        after.heap,
    );
}
