//! The end: leaving the virtual machine with a status, or halting for good.

use x86_64::instructions::port::Port;

/// Port of QEMU's `isa-debug-exit` device; writing `v` makes QEMU exit with status `2 v + 1`.
const DEBUG_EXIT: u16 = 0xf4;

/// How the kernel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Outcome {
    /// Everything that was asked for was done; QEMU's status is 33.
    Success = 0x10,
    /// A fault, a panic or a failed check; QEMU's status is 35.
    Failure = 0x11,
}

/// Leaves the virtual machine; on a machine that cannot be left, halts.
pub fn leave(outcome: Outcome) -> ! {
    // SAFETY: where the device is absent, nothing answers at this port.
    unsafe { Port::new(DEBUG_EXIT).write(outcome as u32) };
    halt()
}

/// Halts for good.
pub fn halt() -> ! {
    x86_64::instructions::interrupts::disable();
    loop {
        x86_64::instructions::hlt();
    }
}
