//! Reaching code: reading it where it runs, writing it where only this CPU can.

use kspace_layout::{PhysAddr, VirtAddr};

use super::{Interrupts, Tlb};

/// A CPU that can be lent another root table, and reads and writes code.
///
/// # Safety
///
/// Code is changed on the word of these calls:
/// - [`with_root`](Self::with_root) runs its body once, on this CPU, with that root in use and nothing else changed, and then loads the root that
///   was in use before;
/// - the other two read and write the very bytes at these addresses, under the root in use, and nothing else.
pub unsafe trait TextAccess: Interrupts + Tlb {
    /// Runs `body` with `root` loaded. Its kernel half is that of the root in use. Interrupts are off. With PCIDs, `root` has one of its
    /// own; what the CPU keeps of it may stay kept.
    ///
    /// # Safety
    ///
    /// The tables under `root` map all that the kernel uses meanwhile.
    unsafe fn with_root(&self, root: PhysAddr, body: impl FnOnce());

    /// Reads the bytes at `from`, which is mapped.
    ///
    /// # Safety
    ///
    /// All of it is mapped memory of the kernel.
    unsafe fn read_text(&self, from: VirtAddr, into: &mut [u8]);

    /// Writes `bytes` at `to`, one after the other, each by one store.
    ///
    /// # Safety
    ///
    /// All of it is mapped writable, and what it changes may be changed.
    unsafe fn write_text(&self, to: VirtAddr, bytes: &[u8]);
}
