//! Until nothing is left: what CPUs keep for themselves must be had, and the reserves must hold.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU64};

use kspace_frames::zone::{Request, Urgency, ZoneError, ZoneKind, ZoneProblem};
use kspace_frames::{Order, Owner};
use kspace_layout::Pfn;

use crate::arch::{self, CpuData};
use crate::info;
use crate::memory::{self, FrameZone, Memory};

const HOARD: Owner = Owner::new(9);

/// Frames that a CPU frees to have them in its stack: no more than half of the smallest stack, so that none goes further.
fn kept_by_each(memory: &Memory) -> usize {
    let zones = memory.zones().as_slice().iter();
    let batches = zones.map(|zone| zone.frames().cache_batch());
    batches.min().unwrap_or(1).min(100)
}

static TAKEN: AtomicU64 = AtomicU64::new(0);
static UNEXPECTED: AtomicU64 = AtomicU64::new(0);

/// Both ways; true when the errors and the counts were right.
pub(super) fn run(memory: &'static Memory) -> bool {
    let alone = one_takes_all(memory);
    let together = all_take_all(memory);
    alone && together && UNEXPECTED.load(Relaxed) == 0
}

/// This CPU takes all there is while the others sleep on what they keep.
fn one_takes_all(memory: &'static Memory) -> bool {
    arch::on_all(keep_some);
    let (kept, interrupts) = (kept_by_cpus(memory), interrupts_taken());
    let hoard = Hoard::take(memory, Urgency::Usual);
    let (left, interrupts) = (kept_by_cpus(memory), interrupts_taken() - interrupts);
    info!(
        "stress-frames: CPUs kept {kept} frames; one took {} frames, after {interrupts} interrupts, and {left} are kept still",
        hoard.frames
    );
    hoard.give_back(memory);
    let others = arch::cpus_online() - 1;
    left == 0 && kept >= others * kept_by_each(memory) as u64 && interrupts >= others
}

/// All CPUs take all there is, with different urgency, and hold it until none gets more: then each frame is held once, or left.
fn all_take_all(memory: &'static Memory) -> bool {
    let all = memory.free_frames();
    arch::on_all(take_and_hold);
    let (taken, left) = (TAKEN.load(Relaxed), LEFT.load(Relaxed));
    info!(
        "stress-frames: all CPUs together held {taken} of {all} frames, and {left} were left; {} unexpected errors",
        UNEXPECTED.load(Relaxed)
    );
    taken + left == all
}

/// CPUs that have taken all they can get.
static HOLDING: AtomicU64 = AtomicU64::new(0);

/// Frames that were left when all of them had.
static LEFT: AtomicU64 = AtomicU64::new(0);

/// The boot CPU has counted what is left.
static COUNTED: AtomicBool = AtomicBool::new(false);

fn take_and_hold(cpu: &'static CpuData) {
    let Some(memory) = memory::get() else { return };
    let urgency = match cpu.index() % 3 {
        0 => Urgency::Usual,
        1 => Urgency::High,
        _ => Urgency::Atomic,
    };
    let hoard = Hoard::take(memory, urgency);
    TAKEN.fetch_add(hoard.frames, Relaxed);
    HOLDING.fetch_add(1, Release);
    if cpu.index() == 0 {
        wait_until(|| HOLDING.load(Acquire) == arch::cpus_online());
        LEFT.store(memory.free_frames(), Relaxed);
        COUNTED.store(true, Release);
    }
    wait_until(|| COUNTED.load(Acquire));
    hoard.give_back(memory);
}

/// Waits with interrupts on, so that who still takes is given what this CPU keeps.
fn wait_until(is_done: impl Fn() -> bool) {
    while !is_done() {
        core::hint::spin_loop();
    }
}

fn kept_by_cpus(memory: &Memory) -> u64 {
    let kept = |zone: &FrameZone| zone.frames().cached_frames() as u64;
    memory.zones().as_slice().iter().map(kept).sum()
}

/// How many interrupts to give frames back all CPUs have taken.
fn interrupts_taken() -> u64 {
    static SUM: AtomicU64 = AtomicU64::new(0);
    SUM.store(0, Relaxed);
    arch::on_all(|cpu| {
        SUM.fetch_add(cpu.drain_interrupts.load(Relaxed), Relaxed);
    });
    SUM.load(Relaxed)
}

/// Leaves some frames in this CPU's stack.
fn keep_some(_: &'static CpuData) {
    let Some(memory) = memory::get() else { return };
    let request = Request::order(0).owner(HOARD);
    let some: Vec<_> = (0..kept_by_each(memory))
        .filter_map(|_| memory.allocate(&request).ok())
        .collect();
    some.into_iter().for_each(|block| memory.free(block));
}

/// Frames in a list that lies in themselves: there is no other memory left.
struct Hoard {
    first: Option<Pfn>,
    frames: u64,
}

impl Hoard {
    /// All frames that there are for this urgency.
    fn take(memory: &'static Memory, urgency: Urgency) -> Self {
        let request = Request::order(0).owner(HOARD).urgency(urgency);
        let mut hoard = Self {
            first: None,
            frames: 0,
        };
        loop {
            match memory.allocate(&request) {
                Ok(block) => hoard.add(memory, block.into_raw().0),
                Err(error) => {
                    if !is_expected(memory, &error, urgency) {
                        UNEXPECTED.fetch_add(1, Relaxed);
                        info!("stress-frames: unexpected: {error}");
                    }
                    return hoard;
                }
            }
        }
    }

    fn add(&mut self, memory: &Memory, frame: Pfn) {
        let next = self.first.map_or(u64::MAX, Pfn::as_u64);
        let pair = [next, !next];
        // SAFETY: the frame is this list's, RAM in the direct map.
        unsafe { place(memory, frame).write(pair) };
        self.first = Some(frame);
        self.frames += 1;
    }

    fn give_back(self, memory: &Memory) {
        let mut next = self.first;
        while let Some(frame) = next {
            // SAFETY: `add` wrote it.
            let [link, check] = unsafe { place(memory, frame).read() };
            assert_eq!(link, !check, "somebody has written to {frame:?}");
            // SAFETY: the frame is this list's, taken from its block.
            if let Err(error) = unsafe { memory.free_raw(frame, Order::FRAME) } {
                panic!("{error}");
            }
            next = Pfn::try_new(link).ok();
        }
    }
}

fn place(memory: &Memory, frame: Pfn) -> *mut [u64; 2] {
    let pointer = memory.window().pointer(frame.start(), 16);
    pointer
        .expect("the direct map has all RAM of the zones")
        .cast()
}

/// Whether the error is the one of memory that is used up to the mark that holds for this urgency.
fn is_expected(memory: &Memory, error: &ZoneError, urgency: Urgency) -> bool {
    let problem = match urgency {
        Urgency::Usual => ZoneProblem::Exhausted,
        _ => ZoneProblem::ReserveExhausted,
    };
    let Some(state) = error.state() else {
        return false;
    };
    let (node, kind) = error.zone();
    let Some(zone) = memory.zones().get(node, kind) else {
        return false;
    };
    let kept = urgency.min(zone.watermarks().min) + zone.protection().from(ZoneKind::Normal);
    // What other CPUs give back may come between the last look and the error.
    let late = error.problem() == ZoneProblem::Fragmented;
    state.kept == kept && (late || (error.problem() == problem && state.free <= kept))
}
