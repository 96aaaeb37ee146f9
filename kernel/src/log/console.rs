//! Where log lines go: COM1 and the ring.

use core::fmt::{self, Write};
use core::num::NonZeroU64;

use super::owner_lock::{Access, OwnerLock};
use super::ring::{MAX_TEXT, Ring};
use super::stamp::Stamp;
use crate::arch;

const RING_BYTES: usize = 64 * 1024;

struct Log {
    ring: Ring<RING_BYTES>,
    per_second: Option<NonZeroU64>,
}

static LOG: OwnerLock<Log> = OwnerLock::new(Log {
    ring: Ring::new(),
    per_second: None,
});

/// Tells the log the rate of the counter behind [`arch::ticks_since_entry`].
pub fn set_ticks_per_second(rate: NonZeroU64) {
    with_log(|log| {
        if let Some(log) = log {
            log.per_second = Some(rate);
        }
    });
}

/// Writes one line to the console and the ring. The [`info!`](crate::info) macro calls it.
pub fn write_record(arguments: fmt::Arguments<'_>) {
    let ticks = arch::ticks_since_entry();
    let mut line = Line {
        bytes: [0; MAX_TEXT],
        length: 0,
    };
    // A line that does not fit is cut by `Line`, which never fails.
    let _ = line.write_fmt(arguments);
    with_log(|log| match log {
        Some(log) => {
            let stamp = Stamp {
                ticks,
                per_second: log.per_second,
            };
            arch::write_console(format_args!("{stamp}{}\n", line.text()));
            log.ring.push(ticks, line.text());
        }
        // Somebody was interrupted in the middle of a line, so this one begins on a line of its own. It is not in the ring.
        None => arch::write_console(format_args!("\n! {}\n", line.text())),
    });
}

/// Prints the ring, oldest record first, as `dmesg` does: now every line has its true time.
pub fn replay() {
    with_log(|log| {
        let Some(log) = log else { return };
        if log.ring.dropped() > 0 {
            arch::write_console(format_args!(
                "({} older records were dropped)\n",
                log.ring.dropped()
            ));
        }
        for record in log.ring.records() {
            let stamp = Stamp {
                ticks: record.ticks,
                per_second: log.per_second,
            };
            arch::write_console(format_args!("{stamp}{}\n", record.text()));
        }
    });
}

/// Says that CPU `cpu` writes no more, wherever in a line it was stopped.
pub fn abandon(cpu: u32) {
    LOG.abandon(cpu);
}

/// Runs `write` with the log, or without it when it cannot be had; interrupts are off meanwhile.
fn with_log(write: impl FnOnce(Option<&mut Log>)) {
    arch::without_interrupts(|| match LOG.enter(arch::cpu_index()) {
        Access::Owned(mut owned) => write(Some(owned.data())),
        Access::Passed => write(None),
    });
}

/// A line being formatted, cut where it is full.
struct Line {
    bytes: [u8; MAX_TEXT],
    length: usize,
}

impl Line {
    fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_TEXT - self.length;
        let part = &text.as_bytes()[..text.floor_char_boundary(room)];
        self.bytes[self.length..self.length + part.len()].copy_from_slice(part);
        self.length += part.len();
        Ok(())
    }
}
