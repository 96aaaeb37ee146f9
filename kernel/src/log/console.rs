//! Where log lines go: COM1 and the ring.

use core::fmt::{self, Write};
use core::num::NonZeroU64;

use spin::Mutex;

use super::ring::{MAX_TEXT, Ring};
use super::stamp::Stamp;
use crate::arch;

const RING_BYTES: usize = 64 * 1024;

struct Log {
    ring: Ring<RING_BYTES>,
    per_second: Option<NonZeroU64>,
}

static LOG: Mutex<Log> = Mutex::new(Log {
    ring: Ring::new(),
    per_second: None,
});

/// Tells the log the rate of the counter behind [`arch::ticks_since_entry`].
pub fn set_ticks_per_second(rate: NonZeroU64) {
    LOG.lock().per_second = Some(rate);
}

/// Writes one line to the console and the ring. The [`info!`](crate::info) macro calls it.
///
/// A fault while the log is being written would wait for itself, so a writer who cannot have the log at once writes to the
/// serial port only.
pub fn write_record(arguments: fmt::Arguments<'_>) {
    let ticks = arch::ticks_since_entry();
    let mut line = Line {
        bytes: [0; MAX_TEXT],
        length: 0,
    };
    // A line that does not fit is cut by `Line`, which never fails.
    let _ = line.write_fmt(arguments);
    let mut log = LOG.try_lock();
    let per_second = log.as_ref().and_then(|log| log.per_second);
    arch::write_console(format_args!(
        "{}{}\n",
        Stamp { ticks, per_second },
        line.text()
    ));
    if let Some(log) = &mut log {
        log.ring.push(ticks, line.text());
    }
}

/// Prints the ring, oldest record first, as `dmesg` does: now every line has its true time.
pub fn replay() {
    let log = LOG.lock();
    let per_second = log.per_second;
    if log.ring.dropped() > 0 {
        arch::write_console(format_args!(
            "({} older records were dropped)\n",
            log.ring.dropped()
        ));
    }
    for record in log.ring.records() {
        let stamp = Stamp {
            ticks: record.ticks,
            per_second,
        };
        arch::write_console(format_args!("{stamp}{}\n", record.text()));
    }
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
