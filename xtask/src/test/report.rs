//! What a test run prints: one line per check as it ends, then the count.

use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};

/// What a check that passed has to tell.
#[derive(Debug)]
pub(crate) struct Passed {
    /// How many tests it stands for.
    pub(crate) count: u64,
    /// A few words after the time, or nothing.
    pub(crate) note: String,
}

impl Passed {
    /// One test, nothing to add.
    pub(crate) fn one() -> Self {
        Self::noting("")
    }

    /// One test, with a few words about it.
    pub(crate) fn noting(note: impl Into<String>) -> Self {
        Self {
            count: 1,
            note: note.into(),
        }
    }
}

/// What a check that failed has to tell.
#[derive(Debug)]
pub(crate) struct Failed {
    /// How many tests passed before or beside those that failed.
    pub(crate) passed: u64,
    /// How many failed, at least one.
    pub(crate) failed: u64,
    /// What was expected and what was there, then the log: as many lines as it takes.
    pub(crate) reason: String,
}

impl Failed {
    /// One test failed, for `reason`.
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Self {
            passed: 0,
            failed: 1,
            reason: reason.into(),
        }
    }

    /// Adds what a machine said to the reason.
    pub(crate) fn with_log(self, log: &str) -> Self {
        let lines: String = log.lines().map(|line| format!("    | {line}\n")).collect();
        Self {
            reason: format!("{}\n{}", self.reason, lines.trim_end()),
            ..self
        }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::because(failure.to_string())
    }
}

/// What a check returns.
pub(crate) type Outcome = std::result::Result<Passed, Failed>;

/// The run so far. Checks may end on any thread.
#[derive(Debug)]
pub(crate) struct Report {
    begun: Instant,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    passed: u64,
    failed: u64,
}

impl Report {
    /// Nothing has run yet.
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            counts: Mutex::default(),
        }
    }

    /// Runs one check and prints its line; the reason of a failure follows at once.
    pub(crate) fn run(&self, name: &str, check: impl FnOnce() -> Outcome) {
        let begun = Instant::now();
        let outcome = check();
        let took = begun.elapsed();
        let mut counts = self
            .counts
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let text = match outcome {
            Ok(passed) => {
                counts.passed += passed.count;
                line("ok", name, took, &passed.note)
            }
            Err(failed) => {
                counts.passed += failed.passed;
                counts.failed += failed.failed;
                format!(
                    "{}{}\n",
                    line("FAILED", name, took, ""),
                    failed.reason.trim_end()
                )
            }
        };
        // The lock keeps lines whole. Whoever closed the pipe still gets the exit status.
        let _ = std::io::stdout().write_all(text.as_bytes());
    }

    /// Prints the closing line; an error when anything failed or nothing ran.
    pub(crate) fn close(self) -> Result {
        let counts = self
            .counts
            .into_inner()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let text = format!(
            "\nin {:.0} s\n{} passed, {} failed\n",
            self.begun.elapsed().as_secs_f64(),
            counts.passed,
            counts.failed
        );
        let _ = std::io::stdout().write_all(text.as_bytes());
        if counts.failed == 0 {
            Ok(())
        } else {
            Err(Failure::failed(""))
        }
    }
}

fn line(verdict: &str, name: &str, took: Duration, note: &str) -> String {
    let line = format!(
        "{verdict:<6}  {name:<44} {:>6.1} s  {note}",
        took.as_secs_f64()
    );
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_counted_and_fails_the_run() {
        let report = Report::new();
        report.run("good", || {
            Ok(Passed {
                count: 3,
                note: String::new(),
            })
        });
        report.run("bad", || {
            Err(Failed {
                passed: 2,
                failed: 1,
                reason: "why".to_owned(),
            })
        });
        assert_eq!(report.close().unwrap_err().status(), 1);
        let report = Report::new();
        report.run("good", || Ok(Passed::one()));
        assert_eq!(report.close(), Ok(()));
    }

    #[test]
    fn lines_align_and_have_no_blanks_at_their_end() {
        let took = Duration::from_millis(1234);
        assert_eq!(
            line("ok", "format", took, ""),
            "ok      format                                          1.2 s\n"
        );
        assert_eq!(
            line("FAILED", "format", took, "x"),
            "FAILED  format                                          1.2 s  x\n"
        );
    }
}
