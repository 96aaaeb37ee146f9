//! A spin lock for what is changed rarely. Who takes it has interrupts off, so no handler spins for what its own CPU holds.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::platform::Interrupts;

/// A value that one CPU at a time may change.
pub(crate) struct Lock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `with` lends the value to one CPU at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self {
            held: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Changes the value. `body` takes no other lock but in the order of their fields in `Vmalloc`, and never waits for a flush.
    pub(crate) fn with<P: Interrupts, R>(
        &self,
        platform: &P,
        _off: &P::Off,
        body: impl FnOnce(&mut T) -> R,
    ) -> R {
        while self.held.swap(true, Ordering::Acquire) {
            while self.held.load(Ordering::Relaxed) {
                platform.relax();
            }
        }
        // SAFETY: the lock is held, by the swap above, until the store below. A body that panics leaves it held for ever.
        let result = body(unsafe { &mut *self.value.get() });
        self.held.store(false, Ordering::Release);
        result
    }

    /// As [`with`](Self::with), for who cannot wait: `None` when it is held, perhaps for ever, by a CPU that was stopped meanwhile. `_off` is what
    /// keeps interrupts off.
    pub(crate) fn try_with<O, R>(&self, _off: &O, body: impl FnOnce(&mut T) -> R) -> Option<R> {
        if self.held.swap(true, Ordering::Acquire) {
            return None;
        }
        // SAFETY: as in `with`.
        let result = body(unsafe { &mut *self.value.get() });
        self.held.store(false, Ordering::Release);
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::{Lock, Ordering};

    #[test]
    fn who_cannot_wait_does_without_what_is_held() {
        let lock = Lock::new(1);
        let double = |value: &mut i32| {
            *value *= 2;
            *value
        };
        assert_eq!(lock.try_with(&(), double), Some(2));
        lock.held.store(true, Ordering::Relaxed);
        assert_eq!(lock.try_with(&(), double), None);
        lock.held.store(false, Ordering::Relaxed);
        assert_eq!(lock.try_with(&(), double), Some(4));
    }
}
