//! `measure`: what flushes cost (and frames: [`measure_frames`]), in ticks of the time-stamp counter. Under QEMU's `-icount shift=0`
//! a tick is an instruction.
//!
//! Each figure is a line `measure: NAME: VALUE UNIT`, which `cargo xtask bench` reads. The other CPUs spin meanwhile: a halted
//! one would be passed over.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kspace::shootdown::Quarantine;
use kspace_layout::{AreaKind, FRAME_SIZE, PageSize, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Editor, Flush, FrameSource, Invalidation, Protection, Stale};

use super::boot::{self, Handoff};
use super::memory::Window;
use super::per_cpu::{self, CpuData};
use super::{PageFormat, clock, measure_frames, shootdown, work};
use crate::info;
use crate::log::counted::Counted;

/// Flushes per figure: one alone would measure cold caches of QEMU's translator.
const REPEATED: u64 = 200;
/// Unmaps per figure of messages.
const UNMAPS: u64 = 1000;
/// Ranges of a batch, and unmaps that wait in quarantine until they are flushed together.
const BATCH: usize = 512;

static DONE: AtomicBool = AtomicBool::new(false);
static READY: AtomicU64 = AtomicU64::new(0);

static QUARANTINE: Quarantine<PhysAddr, BATCH> = Quarantine::new(BATCH as u64);

/// Measures with all CPUs that are online.
pub fn run() {
    work::on_all(measure_or_spin);
}

fn measure_or_spin(cpu: &'static CpuData) {
    if cpu.index() != 0 {
        READY.fetch_add(1, Ordering::Release);
        while !DONE.load(Ordering::Acquire) {
            core::hint::spin_loop();
        }
        return;
    }
    let others = per_cpu::online().count() as u64 - 1;
    while READY.load(Ordering::Acquire) < others {
        core::hint::spin_loop();
    }
    if let Some(handoff) = boot::handoff() {
        flushes(handoff, others);
        messages(handoff, others);
    }
    measure_frames::run();
    DONE.store(true, Ordering::Release);
}

fn flushes(handoff: &Handoff, others: u64) {
    let Some(modules) = modules(handoff) else {
        return;
    };
    let whose = if others == 0 { "local" } else { "remote" };
    let one = ticks_each(|| shootdown::KERNEL.invalidate(&stale(page(modules, 0))));
    let others = Counted(others, "other CPU");
    info!("measure: {whose} flush of a page, {others}: {one} ticks");
    let pages = (0..BATCH as u64).map(|index| stale(page(modules, 2 * index)));
    let batch = ticks_each(|| shootdown::KERNEL.invalidate_all(pages.clone()));
    info!("measure: {whose} flush of a batch of {BATCH}, {others}: {batch} ticks");
}

fn ticks_each(mut flush: impl FnMut()) -> u64 {
    flush();
    let began = clock::ticks();
    (0..REPEATED).for_each(|_| flush());
    (clock::ticks() - began) / REPEATED
}

fn messages(handoff: &Handoff, others: u64) {
    let Some(memory) = handoff.memory() else {
        return;
    };
    let Some(frames) = crate::memory::get().map(crate::memory::Memory::tables) else {
        return;
    };
    let others = Counted(others, "other CPU");
    let sent = || shootdown::KERNEL.activity().interrupts;

    let before = sent();
    for _ in 0..UNMAPS {
        let Some(token) = map_and_unmap(handoff, &memory) else {
            return;
        };
        frames.release(token.flush(&shootdown::KERNEL, &memory, &frames));
    }
    info!(
        "measure: messages per {UNMAPS} unmaps, each flushed, {others}: {} messages",
        sent() - before
    );

    let before = sent();
    let purge = || {
        QUARANTINE.purge(&shootdown::KERNEL, &memory, &frames, |frame| {
            frames.release(frame)
        });
    };
    for _ in 0..UNMAPS {
        let Some(token) = map_and_unmap(handoff, &memory) else {
            return;
        };
        if let Err(refused) = QUARANTINE.put(token, 1) {
            purge();
            // Empty now, so it is not refused again.
            drop(QUARANTINE.put(refused.0, 1));
        }
    }
    purge();
    info!(
        "measure: messages per {UNMAPS} unmaps, batched, {others}: {} messages",
        sent() - before
    );
}

/// Maps a fresh frame at a page of its own, and unmaps it.
fn map_and_unmap(handoff: &Handoff, memory: &Window) -> Option<Flush<PhysAddr>> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let frames = crate::memory::get()?.tables();
    // SAFETY: these are the kernel's live tables, and only the boot CPU edits area modules.
    let editor = unsafe {
        let (mode, limits) = (handoff.plan.layout.mode(), handoff.plan.limits);
        Editor::<PageFormat, _, _>::new(mode, handoff.root, limits, memory, &frames).ok()?
    };
    let range = page(modules(handoff)?, NEXT.fetch_add(1, Ordering::Relaxed));
    let frame = frames.allocate()?;
    if editor
        .map(range, frame, Protection::KERNEL_DATA, PageSize::Size4K)
        .is_err()
    {
        frames.release(frame);
        return None;
    }
    Some(editor.unmap(range).ok()?.with(frame))
}

/// Area modules, in which nothing else is mapped.
fn modules(handoff: &Handoff) -> Option<VirtRange> {
    Some(handoff.plan.layout.area(AreaKind::Modules)?.range())
}

/// A page of an area, which has more than twice as many as there are numbers.
fn page(area: VirtRange, index: u64) -> VirtRange {
    VirtRange::new(
        VirtAddr::new(area.start().as_u64() + index * FRAME_SIZE),
        FRAME_SIZE,
    )
}

fn stale(range: VirtRange) -> Invalidation {
    let page = PageSize::Size4K;
    Invalidation::Range(Stale {
        range,
        page,
        global: true,
        tables: false,
        root: false,
    })
}
