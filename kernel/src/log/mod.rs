//! The kernel's log: every line goes to the serial console at once and into a ring that `dmesg` reads.
//!
//! A record keeps the raw time-stamp counter, not seconds: lines are written before the counter's rate is known. Printed at
//! once, such a line says `[    0.000000]`, as Linux's do; read back later, it has its true time.

pub mod counted;
pub mod lines;
pub mod owner_lock;
pub mod ring;
pub mod stamp;

#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
pub use console::{abandon, replay, set_ticks_per_second, write_record};

/// Logs one line, formatted as by `format!`, without a line end.
#[cfg(target_os = "none")]
#[macro_export]
macro_rules! info {
    ($($argument:tt)*) => {
        $crate::log::write_record(::core::format_args!($($argument)*))
    };
}

/// Logs a text of several lines, formatted as by `format!`, each line as a record of its own.
#[cfg(target_os = "none")]
#[macro_export]
macro_rules! info_lines {
    ($($argument:tt)*) => {{
        let mut lines = $crate::log::lines::Lines::new(|line| $crate::info!("{line}"));
        // The adapter takes everything.
        let _ = ::core::fmt::Write::write_fmt(&mut lines, ::core::format_args!($($argument)*));
    }};
}
