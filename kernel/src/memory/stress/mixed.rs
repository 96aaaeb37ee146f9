//! Blocks of all orders, runs and ranges, on all CPUs at once.

use alloc::vec::Vec;

use kspace_frames::zone::{Request, ZoneKind};
use kspace_frames::{Constraint, FreeProblem, Order, Owner};
use kspace_layout::Pfn;

use super::held::Held;
use super::tally::TALLY;
use super::{handler, heap};
use crate::acpi::MAX_CPUS;
use crate::arch::{self, CpuData, Lock};
use crate::memory::{self, Memory};

/// What the stress's blocks are used for.
const STRESS: Owner = Owner::new(8);

/// Blocks that a CPU holds at most before it frees some.
const HOLDS: usize = 24;

/// Blocks that wait for a CPU at most.
const MAILBOX: usize = 16;

/// Blocks that another CPU is to free.
static MAILBOXES: [Lock<Vec<Held>>; MAX_CPUS] = [const { Lock::new(Vec::new()) }; MAX_CPUS];

/// Numbers without a pattern, the same for the same seed.
pub(super) struct Dice(u64);

impl Dice {
    /// The numbers of one CPU.
    pub(super) fn of(cpu: &CpuData) -> Self {
        Self(arch::mix(TALLY.seed() ^ (u64::from(cpu.index()) << 48)))
    }

    /// The next number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        arch::mix(self.0)
    }

    /// The next number below `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Gives this CPU a mailbox, which stays: so it is made before anything is counted.
pub(super) fn make_mailbox(cpu: &'static CpuData) {
    let room = Vec::with_capacity(MAILBOX);
    *MAILBOXES[cpu.index() as usize].lock() = room;
}

/// One CPU's rounds.
pub(super) fn rounds_on(cpu: &'static CpuData) {
    let Some(memory) = memory::get() else { return };
    let mut dice = Dice::of(cpu);
    let mut held = Vec::with_capacity(2 * HOLDS);
    for _ in 0..TALLY.rounds() {
        match dice.below(16) {
            0..=8 => one_block(memory, &mut dice, &mut held),
            9 => run_of_blocks(memory, &mut dice, &mut held),
            10 => contiguous(memory, &mut dice, &mut held),
            11 => free_twice(memory),
            12 => heap::grow_and_shrink(&mut dice),
            _ => hand_on(cpu, &mut dice, &mut held),
        }
        while held.len() > HOLDS {
            let which = dice.below(held.len() as u64) as usize;
            held.swap_remove(which).free();
        }
        empty_mailbox_of(cpu);
        handler::soon(&mut dice);
    }
    handler::wait_for_one(cpu);
    held.into_iter().for_each(Held::free);
}

/// Checks and frees what others have handed to this CPU.
pub(super) fn empty_mailbox_of(cpu: &'static CpuData) {
    let mailbox = &MAILBOXES[cpu.index() as usize];
    loop {
        let one = mailbox.lock().pop();
        match one {
            Some(held) => held.free(),
            None => return,
        }
    }
}

/// Small orders more often than large ones, as real loads have it.
fn any_order(dice: &mut Dice) -> Order {
    let largest = dice.below(Order::COUNT as u64) as u32;
    Order::try_new(dice.below(u64::from(largest) + 1) as u32).unwrap_or(Order::FRAME)
}

fn one_block(memory: &'static Memory, dice: &mut Dice, held: &mut Vec<Held>) {
    let order = any_order(dice).get();
    let request = Request::order(order.into()).owner(STRESS);
    let request = match dice.below(8) {
        0 => request.up_to(ZoneKind::Dma),
        1 => request.up_to(ZoneKind::Dma32),
        2 => request.below(Pfn::new(0xfff).start()),
        _ => request,
    };
    match memory.allocate(&request) {
        Ok(block) => held.push(Held::fill(memory, block, dice.next())),
        Err(_) => TALLY.add_refusals(1),
    }
}

fn run_of_blocks(memory: &'static Memory, dice: &mut Dice, held: &mut Vec<Held>) {
    let zones = memory.zones().as_slice();
    let zone = &zones[dice.below(zones.len() as u64) as usize];
    let (frames, first) = (1 + dice.below(200) as usize, held.len());
    let mut blocks = Vec::with_capacity(64);
    let done = arch::pinned(|pin| {
        let sink = |block| blocks.push(block);
        zone.frames()
            .allocate_runs(pin, frames, Order::HUGE, Order::FRAME, STRESS, sink)
    });
    TALLY.add_runs(1);
    if done.is_err() {
        TALLY.add_refusals(1);
    }
    held.extend(
        blocks
            .into_iter()
            .map(|block| Held::fill(memory, block, dice.next())),
    );
    // Too many to hold for long.
    held.drain(first..).for_each(Held::free);
}

fn contiguous(memory: &'static Memory, dice: &mut Dice, held: &mut Vec<Held>) {
    let zones = memory.zones().as_slice();
    let zone = &zones[dice.below(zones.len() as u64) as usize];
    let frames = 1 + dice.below(700) as usize;
    let within = Constraint {
        align: 1 << dice.below(6),
        ..Constraint::NONE
    };
    let range = arch::pinned(|pin| {
        zone.frames()
            .allocate_contiguous(pin, frames, within, STRESS)
    });
    let Ok(range) = range else {
        TALLY.add_refusals(1);
        return;
    };
    TALLY.add_ranges(1);
    let first = held.len();
    range.into_blocks(|block| held.push(Held::fill(memory, block, dice.next())));
    held.drain(first..).for_each(Held::free);
}

/// Frees a frame, and once more: the second time must be refused, unless somebody has been given the frame in between.
fn free_twice(memory: &'static Memory) {
    let Ok(block) = memory.allocate(&Request::order(0).owner(STRESS)) else {
        return TALLY.add_refusals(1);
    };
    let (frame, order) = block.into_raw();
    // Pinned, so that the frame stays in this CPU's stack and nobody is given it.
    let twice = arch::pinned(|_| {
        // SAFETY: the first is the owner's; the second is refused, because what was freed has not been handed out again.
        [(); 2].map(|()| unsafe { memory.free_raw(frame, order) })
    });
    TALLY.add_doubles(1);
    let refused = matches!(&twice, [Ok(()), Err(error)] if matches!(error.problem(), FreeProblem::AlreadyFree(_)));
    TALLY.add_doubles_taken(u64::from(!refused));
}

/// Gives one of the blocks to the next CPU.
fn hand_on(cpu: &CpuData, dice: &mut Dice, held: &mut Vec<Held>) {
    if held.is_empty() {
        return;
    }
    let next = (u64::from(cpu.index()) + 1) % arch::cpus_online();
    let mut mailbox = MAILBOXES[next as usize].lock();
    // It must not grow while the lock is held.
    if mailbox.len() < mailbox.capacity() {
        let which = dice.below(held.len() as u64) as usize;
        mailbox.push(held.swap_remove(which));
        TALLY.add_handed(1);
    }
}
