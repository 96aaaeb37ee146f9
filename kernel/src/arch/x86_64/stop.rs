//! The end on many CPUs: one CPU reports, the others are stopped by NMI and tell what they were doing.
//!
//! ```text
//!   CPU that faults or panics        every other CPU
//!   stop_others: NMI to all   --->   stop_here: leaves its registers and stack, says "stopped", halts for good
//!   explains its own fault
//!   report_others: prints what each left, or that it did not answer
//! ```
//!
//! NMI, because a CPU that spins with interrupts off must answer, too. Whoever comes second with a fault or panic of its own finds
//! the stop wanted already, and stops as the others do, with a trace. A CPU that faults while it reports says so and goes on; one
//! that does so again and again ends the machine instead.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use kspace::fault::Spot;
use kspace::platform::CpuId;
use kspace_layout::VirtAddr;

use super::leave::Outcome;
use super::traps::TrapFrame;
use super::{apic, clock, explain, leave, per_cpu, shootdown, stacks};
use crate::acpi::MAX_CPUS;
use crate::{info, log};

/// Words of a stack that are shown.
const STACK_WORDS: usize = 32;

/// Longest wait for the others, in ticks of the time-stamp counter: a second at a few GHz.
const PATIENCE: u64 = 1 << 31;

const NOBODY: u32 = u32::MAX;

/// Which CPU reports.
static REPORTER: AtomicU32 = AtomicU32::new(NOBODY);

/// How often the reporter has begun: once, and once more for each fault while reporting.
static BEGUN: AtomicU32 = AtomicU32::new(0);

/// Reports of faults while reporting are cut here: the third has nothing new to say, and each could bring the next.
const MOST_REPORTS: u32 = 3;

/// What a CPU was doing when it was stopped.
#[derive(Clone, Copy)]
struct Trace {
    instruction: u64,
    stack: u64,
    words: [u64; STACK_WORDS],
    count: usize,
}

struct Traces([UnsafeCell<Trace>; MAX_CPUS]);

// SAFETY: each CPU writes only its own trace, once, before it says that it has stopped; the reporter reads it only after.
unsafe impl Sync for Traces {}

const EMPTY: Trace = Trace {
    instruction: 0,
    stack: 0,
    words: [0; STACK_WORDS],
    count: 0,
};
static TRACES: Traces = Traces([const { UnsafeCell::new(EMPTY) }; MAX_CPUS]);

/// Whether some CPU has asked all others to stop.
pub fn is_wanted() -> bool {
    REPORTER.load(Ordering::Acquire) != NOBODY
}

/// Makes this CPU the one that reports and stops the others. When another one reports already, this one stops instead, at `frame`
/// or, without one, where the reporter's NMI finds it.
pub fn stop_others(frame: Option<&TrapFrame>) {
    // Before per-CPU data is set up only the boot CPU runs.
    let own = per_cpu::try_current();
    let number = own.map_or(0, per_cpu::CpuData::index);
    let first = REPORTER.compare_exchange(NOBODY, number, Ordering::AcqRel, Ordering::Acquire);
    if let Err(reporter) = first
        && reporter != number
    {
        match frame {
            Some(frame) => stop_here(frame),
            None => leave::halt(),
        }
    }
    if BEGUN.fetch_add(1, Ordering::Relaxed) >= MOST_REPORTS {
        leave::leave(Outcome::Failure);
    }
    let (Ok(_), Some(me)) = (first, own) else {
        return;
    };
    for other in per_cpu::online().filter(|cpu| cpu.index() != me.index()) {
        apic::local().send_nmi(other.apic_id());
    }
}

/// Leaves what this CPU was doing for the reporter, and halts for good.
pub fn stop_here(frame: &TrapFrame) -> ! {
    let me = per_cpu::current();
    if me.is_stopped() {
        // An NMI on top of a stop whose trace the reporter may be reading.
        leave::halt();
    }
    let mut trace = Trace {
        instruction: frame.instruction,
        stack: frame.stack,
        ..EMPTY
    };
    trace.count = explain::read_stack(frame.stack, &mut trace.words);
    // SAFETY: this CPU's own trace, which nobody reads before the next line.
    unsafe { *TRACES.0[me.index() as usize].get() = trace };
    shootdown::KERNEL.gone(CpuId::new(me.index() as usize));
    log::abandon(me.index());
    me.set_stopped();
    leave::halt()
}

/// Logs what the stopped CPUs left.
pub fn report_others() {
    let Some(me) = per_cpu::try_current() else {
        return;
    };
    let began = clock::ticks();
    for other in per_cpu::online().filter(|cpu| cpu.index() != me.index()) {
        while !other.is_stopped() && clock::ticks().wrapping_sub(began) < PATIENCE {
            core::hint::spin_loop();
        }
        if !other.is_stopped() {
            info!("CPU {}: does not answer an NMI", other.index());
            continue;
        }
        // SAFETY: the CPU has stopped, so its trace is complete and final.
        let trace = unsafe { *TRACES.0[other.index() as usize].get() };
        info!(
            "CPU {}: stopped at {}",
            other.index(),
            Place(trace.instruction)
        );
        print_stack(trace.stack, &trace.words[..trace.count]);
    }
}

/// Logs this CPU's own stack.
#[inline(never)]
pub fn print_own_stack() {
    let here = 0_u64;
    print_stack_at(&raw const here as u64);
}

/// Logs the words from `stack` upwards.
pub fn print_stack_at(stack: u64) {
    let mut words = [0; STACK_WORDS];
    let count = explain::read_stack(stack, &mut words);
    print_stack(stack, &words[..count]);
}

/// Logs the words on a stack that are addresses the kernel knows.
fn print_stack(stack: u64, words: &[u64]) {
    for (index, word) in words.iter().enumerate() {
        if Place(*word).is_known() {
            info!(
                "  {:016x}: {}",
                stack.wrapping_add(8 * index as u64),
                Place(*word)
            );
        }
    }
}

/// An address in the layout's words.
struct Place(u64);

impl Place {
    fn spot(&self) -> Option<Spot> {
        explain::spot(VirtAddr::try_new(self.0).ok()?)
    }

    /// Only the upper half is the kernel's, and of that holes mean nothing on a stack.
    fn is_known(&self) -> bool {
        (self.0 as i64) < 0
            && self
                .spot()
                .is_some_and(|spot| !matches!(spot, Spot::Hole(_)))
    }
}

impl core::fmt::Display for Place {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let stack = VirtAddr::try_new(self.0).ok().and_then(stacks::owner);
        if let Some(cpu) = stack {
            return write!(f, "{:016x}: CPU {cpu}'s stack", self.0);
        }
        match self.spot() {
            Some(spot) => write!(f, "{:016x}: {spot}", self.0),
            None => write!(f, "{:016x}", self.0),
        }
    }
}
