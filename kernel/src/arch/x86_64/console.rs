//! The serial console on COM1.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use uart_16550::{Config, Uart16550, Uart16550Tty};

const COM1: u16 = 0x3f8;

static PRESENT: AtomicBool = AtomicBool::new(false);

/// Finds and sets up COM1. Without one the log goes into its ring only.
pub fn start() {
    // SAFETY: COM1's ports belong to the kernel from its first instruction on.
    let port = unsafe { Uart16550Tty::new_port(COM1, Config::default()) };
    PRESENT.store(port.is_ok(), Ordering::Release);
}

/// Writes text as it is; line ends become those of a terminal.
///
/// There is no lock here: the log's lock is around this, except for writers that had to pass that lock, and those must be heard.
/// Each writer has a driver value of its own, so all that two can do to each other is to mix their bytes.
pub fn write_console(text: fmt::Arguments<'_>) {
    if !PRESENT.load(Ordering::Acquire) {
        return;
    }
    // SAFETY: the device was found there and set up, and writing bytes to it needs no other state.
    if let Ok(port) = unsafe { Uart16550::new_port(COM1) } {
        let _ = Uart16550Tty::from_inner(port).write_fmt(text);
    }
}
