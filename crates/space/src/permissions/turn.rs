//! Whose turn it is: one change at a time, and who waits serves.

use core::sync::atomic::{AtomicBool, Ordering};

use super::{Permissions, Problem};
use crate::platform::{Cpu, Interrupts, Tlb};
use crate::vmalloc::Kernel;

/// The right to change pages, until it is dropped.
pub(crate) struct Turn<'p>(&'p AtomicBool);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<K: Kernel, const CPUS: usize> Permissions<'_, '_, K, CPUS> {
    /// Waits for the turn, and takes it.
    pub(crate) fn take_turn(&self) -> Result<Turn<'_>, Problem> {
        let platform = self.shootdown.platform();
        if platform.is_atomic() {
            return Err(Problem::Atomic);
        }
        while self.turn.swap(true, Ordering::Acquire) {
            // Who has it waits for this CPU's answers.
            let _off = platform.interrupts_off();
            self.shootdown.serve();
            platform.serve_others();
            platform.relax();
        }
        Ok(Turn(&self.turn))
    }
}
