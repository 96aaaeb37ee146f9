//! The serial console on COM1.

use core::fmt::{self, Write};

use spin::Mutex;
use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550Tty};

const COM1: u16 = 0x3f8;

static CONSOLE: Mutex<Option<Uart16550Tty<PioBackend>>> = Mutex::new(None);

/// Finds and sets up COM1. Without one the log goes into its ring only.
pub fn start() {
    // SAFETY: COM1's ports belong to the kernel from its first instruction on, and only `CONSOLE` uses them.
    *CONSOLE.lock() = unsafe { Uart16550Tty::new_port(COM1, Config::default()) }.ok();
}

/// Writes text as it is; line ends become those of a terminal.
///
/// Text of a fault that interrupts a write comes in the middle of it, on a line of its own, rather than never.
pub fn write_console(text: fmt::Arguments<'_>) {
    if let Some(mut console) = CONSOLE.try_lock() {
        if let Some(uart) = console.as_mut() {
            let _ = uart.write_fmt(text);
        }
        return;
    }
    // SAFETY: one CPU runs, and whoever holds the lock is the code that was interrupted by this fault: it never goes on.
    unsafe { CONSOLE.force_unlock() };
    if let Some(uart) = CONSOLE.lock().as_mut() {
        let _ = uart.write_str("\n");
        let _ = uart.write_fmt(text);
    }
}
