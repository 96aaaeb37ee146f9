//! Where a CPU must not wait for others: with a spin lock held, and in an interrupt handler.
//!
//! Each CPU counts both. [`Lock`] is the kept `spin` mutex behind `lock_api`, counted: so that a flush wait with a lock held is
//! found where it happens ([`kspace::shootdown`], rule 3), not where two CPUs have stopped for ever.

use core::sync::atomic::Ordering;

use lock_api::{GuardNoSend, RawMutex};

use super::per_cpu;

/// A spin lock that its CPU knows it holds.
pub type Lock<T> = lock_api::Mutex<CountedSpin, T>;

/// The raw lock behind [`Lock`].
pub struct CountedSpin(spin::Mutex<()>);

// SAFETY: the spin mutex excludes; the counts around it are only counts.
unsafe impl RawMutex for CountedSpin {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "lock_api asks for this constant"
    )]
    const INIT: Self = Self(spin::Mutex::new(()));

    // A count belongs to the CPU that took the lock.
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        enter();
        core::mem::forget(self.0.lock());
    }

    fn try_lock(&self) -> bool {
        enter();
        let taken = self.0.try_lock().map(core::mem::forget).is_some();
        if !taken {
            exit();
        }
        taken
    }

    unsafe fn unlock(&self) {
        // SAFETY: the caller holds the lock, whose guard was forgotten when it was taken.
        unsafe { self.0.force_unlock() };
        exit();
    }
}

/// Counts one more reason not to wait.
pub fn enter() {
    if let Some(cpu) = per_cpu::try_current() {
        cpu.atomic_depth.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts one reason less.
pub fn exit() {
    if let Some(cpu) = per_cpu::try_current() {
        cpu.atomic_depth.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether this CPU must not wait for others.
#[inline]
pub fn is_atomic() -> bool {
    per_cpu::try_current().is_some_and(|cpu| cpu.atomic_depth.load(Ordering::Relaxed) > 0)
}
