//! `stress=N`: every CPU maps, uses, unmaps and reuses, N times, while its neighbour reads what it maps.
//!
//! ```text
//!   CPU c, its window W(c) in area modules              CPU c - 1, between its own rounds
//!   takes a frame, fills it with (c, round)
//!   maps it at W(c), says so under the window's lock
//!   reads it back through W(c)                            under the lock, if it is mapped: reads W(c),
//!   says "gone" under the lock                            which must hold the round that was said
//!   unmaps, flushes everywhere, gives the frame back
//! ```
//!
//! The neighbour's TLB keeps a translation of W(c) from every round. If a flush did not reach it, it reads the frame of an earlier
//! round, which by then holds another CPU's numbers: so a lost flush shows as a wrong number, not as a fault.

use core::sync::atomic::{AtomicU64, Ordering};

use kspace_frames::Owner;
use kspace_frames::zone::Request;
use kspace_layout::{AreaKind, FRAME_SIZE, PageSize, VirtAddr, VirtRange};
use kspace_paging::{Editor, Protection};

use super::atomic_context::Lock;
use super::boot::{self, Handoff};
use super::memory::Window;
use super::per_cpu::{self, CpuData};
use super::{PageFormat, shootdown, work, yield_points};
use crate::acpi::MAX_CPUS;
use crate::info;
use crate::log::counted::Counted;
use crate::memory;

/// Distance of two CPUs' windows: in page tables of their own, and some that share the level above.
const STRIDE: u64 = 2 << 20;

static ROUNDS: AtomicU64 = AtomicU64::new(0);
static READ: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// What each CPU says of its window: the number in it, or 0 while it is not mapped.
static SAID: [Lock<u64>; MAX_CPUS] = [const { Lock::new(0) }; MAX_CPUS];

/// Runs `rounds` rounds on every CPU, the protocol's steps delayed at random by `seed` (0: not at all). True when every number read
/// was right.
pub fn run(rounds: u64, seed: u64) -> bool {
    info!("stress: yield points delayed by seed={seed}");
    ROUNDS.store(rounds, Ordering::Relaxed);
    let counts = || {
        let memory = memory::get()?;
        Some((memory.free_frames(), memory.blocks_of(Owner::PAGE_TABLE)))
    };
    let before = counts();
    yield_points::seed(seed);
    work::on_all(rounds_on);
    yield_points::seed(0);
    let after = counts();
    let activity = shootdown::KERNEL.activity();
    let (read, wrong) = (READ.load(Ordering::Relaxed), WRONG.load(Ordering::Relaxed));
    let refused = REFUSED.load(Ordering::Relaxed);
    info!(
        "stress: {rounds} rounds on each of {}: {read} numbers read, {wrong} wrong, {refused} edits refused",
        Counted(per_cpu::online().count() as u64, "CPU")
    );
    info!(
        "stress: {} flushes, {} interrupts sent, {} pages and {} whole TLBs forgotten",
        activity.flushes, activity.interrupts, activity.pages, activity.wholes
    );
    let (Some((free, tables)), Some((free_after, tables_after))) = (before, after) else {
        return false;
    };
    let tables = tables_after.saturating_sub(tables);
    let lost = free.saturating_sub(free_after + tables);
    info!("stress: {tables} page tables stay, {lost} frames lost");
    wrong == 0 && refused == 0 && lost == 0
}

fn rounds_on(cpu: &'static CpuData) {
    let Some(handoff) = boot::handoff() else {
        return;
    };
    let Some(memory) = handoff.memory() else {
        return;
    };
    let index = u64::from(cpu.index());
    let count = per_cpu::online().count() as u64;
    let neighbour = (index + 1) % count;
    for round in 1..=ROUNDS.load(Ordering::Relaxed) {
        // Different for every CPU and round, and never 0.
        let number = index << 48 | round;
        if one_round(handoff, &memory, index, neighbour, number).is_none() {
            REFUSED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn one_round(
    handoff: &Handoff,
    memory: &Window,
    index: u64,
    neighbour: u64,
    number: u64,
) -> Option<()> {
    let ram = memory::get()?;
    let tables = ram.tables();
    // SAFETY: these are the kernel's live tables, and each CPU edits only its own window.
    let editor = unsafe {
        let (mode, limits) = (handoff.plan.layout.mode(), handoff.plan.limits);
        Editor::<PageFormat, _, _>::new(mode, handoff.root, limits, memory, &tables).ok()?
    };
    let window = window_of(handoff, index)?;
    let block = ram.allocate(&Request::order(0)).ok()?;
    let frame = block.pfn().start();
    let words = memory.pointer(frame, FRAME_SIZE)?.cast::<u64>();
    for word in 0..FRAME_SIZE as usize / 8 {
        // SAFETY: the frame is this CPU's, in reach of the direct map.
        unsafe { words.add(word).write(number) };
    }
    editor
        .map(window, frame, Protection::KERNEL_DATA, PageSize::Size4K)
        .ok()?;
    let block = block.map().ok()?;
    *SAID[index as usize].lock() = number;
    check(window, number);
    look_at(handoff, neighbour);
    *SAID[index as usize].lock() = 0;
    let token = editor.unmap(window).ok()?.with(block);
    let block = token.flush(&shootdown::KERNEL, memory, &tables);
    // SAFETY: the only mapping is gone, and flushed on every CPU.
    ram.free(unsafe { block.unmapped() }.ok()?);
    Some(())
}

/// Reads the neighbour's window, if it says that there is something in it.
fn look_at(handoff: &Handoff, neighbour: u64) {
    let Some(window) = window_of(handoff, neighbour) else {
        return;
    };
    let said = SAID[neighbour as usize].lock();
    if *said != 0 {
        check(window, *said);
    }
}

fn check(window: VirtRange, number: u64) {
    for offset in [0, 2048, FRAME_SIZE - 8] {
        let place = (window.start().as_u64() + offset) as *const u64;
        // SAFETY: the window is mapped for as long as its owner says so, which the caller knows.
        let found = unsafe { place.read_volatile() };
        READ.fetch_add(1, Ordering::Relaxed);
        if found != number {
            WRONG.fetch_add(1, Ordering::Relaxed);
            info!("stress: {window} holds {found:#x} where {number:#x} was written");
        }
    }
}

fn window_of(handoff: &Handoff, index: u64) -> Option<VirtRange> {
    let modules = handoff.plan.layout.area(AreaKind::Modules)?.range();
    let start: VirtAddr = modules.start().checked_add(index * STRIDE).ok()?;
    VirtRange::try_new(start, FRAME_SIZE).ok()
}
