//! Yield points: during a stress, each step of the shootdown protocol wastes a random time, so that CPUs meet in other orders than
//! the machine's own.
//!
//! Outside a stress a point costs one load and one branch. Which points waste how much follows from a seed, which the log names; the
//! machine's own timing still has its say, so that a seed makes a failure likely to come again, not certain.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};

use kspace::shootdown::{Probe, Step};

use super::{entropy, per_cpu};

/// 0 while the points are off.
static SEED: AtomicU64 = AtomicU64::new(0);

/// Turns the points on with this seed, or off with 0.
pub fn seed(seed: u64) {
    SEED.store(seed, Ordering::Relaxed);
}

/// The probe that the kernel's shootdown carries.
#[derive(Clone, Copy, Debug)]
pub struct YieldPoints;

// SAFETY: leaves no rule out.
unsafe impl Probe for YieldPoints {
    #[inline(always)]
    fn step(&self, _: Step) {
        let seed = SEED.load(Ordering::Relaxed);
        if seed != 0 {
            waste(seed);
        }
    }
}

#[cold]
#[inline(never)]
fn waste(seed: u64) {
    let cpu = per_cpu::current();
    let number = cpu.yield_points.fetch_add(1, Ordering::Relaxed);
    let random = entropy::mix(seed ^ u64::from(cpu.index()) << 48 ^ number);
    // Most points pass at once: were all alike slow, the order would stay as it is.
    let (choice, length) = (random % 16, random >> 4);
    let spins = match choice {
        0 => length % 8192,
        1..=3 => length % 256,
        _ => 0,
    };
    (0..spins).for_each(|_| spin_loop());
}
