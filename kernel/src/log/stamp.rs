//! The time in front of a log line, as Linux prints it: `[    0.000000] `.

use core::fmt;

/// The time of a record: ticks of a counter since the kernel's first instruction, and the counter's rate once it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Ticks since entry.
    pub ticks: u64,
    /// Ticks per second; `None` before calibration, when every line is at 0.000000.
    pub per_second: Option<core::num::NonZeroU64>,
}

impl fmt::Display for Stamp {
    /// Seconds in five columns, microseconds in six digits, truncated (Linux: `print_time`, kernel/printk/printk.c).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = match self.per_second {
            None => (0, 0),
            Some(rate) => {
                let rate = u128::from(rate.get());
                let micros = u128::from(self.ticks) * 1_000_000 / rate;
                (micros / 1_000_000, micros % 1_000_000)
            }
        };
        write!(f, "[{seconds:5}.{micros:06}] ")
    }
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroU64;
    use std::string::ToString;

    use super::*;

    fn check(ticks: u64, per_second: u64, expected: &str) {
        let stamp = Stamp {
            ticks,
            per_second: NonZeroU64::new(per_second),
        };
        assert_eq!(stamp.to_string(), expected);
    }

    #[test]
    fn stamps_look_like_those_of_linux() {
        // Columns taken from the boot logs of Linux 3.15 and of a machine up for a day.
        check(123_456, 0, "[    0.000000] ");
        check(0, 1_000_000_000, "[    0.000000] ");
        check(1_234_567_899, 1_000_000_000, "[    1.234567] ");
        check(86_400 * 2_000_000, 2_000_000, "[86400.000000] ");
        check(u64::MAX, 1, "[18446744073709551615.000000] ");
    }
}
