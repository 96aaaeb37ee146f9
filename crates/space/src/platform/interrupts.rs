//! Keeping interrupts off this CPU for the few instructions that must not be interrupted.

use super::{Cpu, CpuId};

/// A CPU that can keep interrupts off itself.
///
/// # Safety
///
/// Frames are given to others on the word of this call: while a value that [`interrupts_off`](Self::interrupts_off) returned lives, the
/// caller stays on its CPU, no interrupt handler runs there, and so it answers no shootdown. (An NMI may come; its handler uses no area.)
pub unsafe trait Interrupts: Cpu {
    /// Keeps interrupts off as long as it lives; dropped, it leaves them as they were before. They nest. A kernel whose frame allocator
    /// wants proof of that has the proof in it.
    type Off;

    /// Turns interrupts off here: `PUSHF; CLI`, and `POPF` when the value is dropped.
    fn interrupts_off(&self) -> Self::Off;

    /// The CPU that `off` keeps the caller on: as [`id`](Cpu::id), for who has the proof at hand.
    #[inline]
    fn id_of(&self, _off: &Self::Off) -> CpuId {
        self.id()
    }
}
