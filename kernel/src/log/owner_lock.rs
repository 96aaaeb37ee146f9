//! The log's lock: one that knows its owner, and that a dying CPU can pass.
//!
//! A line must come out whatever happened: from an NMI that interrupted a CPU while it was writing one, from a fault in the
//! writing itself, and when the CPU that holds the lock has stopped for good. So a writer gets one of two things:
//!
//! - the lock, and with it the data (interrupts being off, only an NMI or a fault can come between);
//! - leave to write to the device anyway, without the data: when it holds the lock itself already, when the owner has stopped for
//!   good and said so, or after waiting in vain.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

/// How often a writer looks before it passes the lock: more than a second on any machine, far more than a line takes.
const PATIENCE: u32 = 20_000_000;

const FREE: u32 = 0;
/// The owner has stopped for good, perhaps in the middle of a change: nobody gets the data any more.
const ABANDONED: u32 = u32::MAX;

/// Data that one CPU at a time may use.
pub struct OwnerLock<T> {
    /// `FREE`, the number of the owner plus one, or `ABANDONED`.
    owner: AtomicU32,
    data: UnsafeCell<T>,
}

// SAFETY: the data is only reached by the CPU whose number is in `owner`.
unsafe impl<T: Send> Sync for OwnerLock<T> {}

/// What a writer got.
pub enum Access<'a, T> {
    /// The data.
    Owned(Owned<'a, T>),
    /// Leave to go on without it.
    Passed,
}

/// The lock, held.
pub struct Owned<'a, T> {
    lock: &'a OwnerLock<T>,
}

impl<T> OwnerLock<T> {
    /// A free lock around `data`.
    pub const fn new(data: T) -> Self {
        Self {
            owner: AtomicU32::new(FREE),
            data: UnsafeCell::new(data),
        }
    }

    /// Takes the lock for CPU `cpu`, or passes it.
    pub fn enter(&self, cpu: u32) -> Access<'_, T> {
        self.enter_patiently(cpu, PATIENCE)
    }

    fn enter_patiently(&self, cpu: u32, patience: u32) -> Access<'_, T> {
        let me = cpu + 1;
        for _ in 0..patience {
            match self
                .owner
                .compare_exchange(FREE, me, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return Access::Owned(Owned { lock: self }),
                Err(owner) if owner == me || owner == ABANDONED => return Access::Passed,
                Err(_) => core::hint::spin_loop(),
            }
        }
        Access::Passed
    }

    /// Says that CPU `cpu` has stopped for good: if it holds the lock, all others pass it from now on instead of waiting for each
    /// line.
    pub fn abandon(&self, cpu: u32) {
        // Relaxed: nobody gets to the data through this.
        let _ =
            self.owner
                .compare_exchange(cpu + 1, ABANDONED, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl<T> Owned<'_, T> {
    /// The data.
    pub fn data(&mut self) -> &mut T {
        // SAFETY: `owner` names this CPU, and it does not enter twice: there is one `Owned`, and it is borrowed.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for Owned<'_, T> {
    fn drop(&mut self) {
        self.lock.owner.store(FREE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time_and_none_is_lost() {
        let lock = OwnerLock::new(0u64);
        std::thread::scope(|scope| {
            for cpu in 0..4 {
                let lock = &lock;
                scope.spawn(move || {
                    let mut entered = 0;
                    while entered < 1000 {
                        if let Access::Owned(mut owned) = lock.enter(cpu) {
                            let seen = *owned.data();
                            std::hint::black_box(());
                            *owned.data() = seen + 1;
                            entered += 1;
                        }
                    }
                });
            }
        });
        let Access::Owned(mut owned) = lock.enter(9) else {
            panic!("the lock is free")
        };
        assert_eq!(*owned.data(), 4000);
    }

    #[test]
    fn an_owner_that_comes_again_passes_at_once_and_a_stranger_after_a_while() {
        let lock = OwnerLock::new(());
        let held = lock.enter(3);
        assert!(matches!(lock.enter(3), Access::Passed));
        assert!(matches!(lock.enter_patiently(4, 100), Access::Passed));
        drop(held);
        assert!(matches!(lock.enter(4), Access::Owned(_)));
    }

    #[test]
    fn a_lock_whose_owner_has_stopped_is_passed_without_waiting() {
        let lock = OwnerLock::new(());
        let held = lock.enter(3);
        lock.abandon(4);
        assert!(matches!(lock.enter_patiently(4, 0), Access::Passed));
        assert_eq!(lock.owner.load(Ordering::Relaxed), 4, "not its owner");
        lock.abandon(3);
        // More patience than a test can wait for.
        assert!(matches!(lock.enter_patiently(4, u32::MAX), Access::Passed));
        core::mem::forget(held);
    }
}
