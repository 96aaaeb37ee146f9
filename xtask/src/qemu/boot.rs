//! A machine run to its end, within a time limit, its serial port read line by line.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::folder::Folder;
use crate::failure::{About, Result};
use crate::host::command::shown;

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The kernel ended it and said that all is well.
    Success,
    /// The kernel ended it and said that something failed.
    Failure,
    /// The CPU reset itself: a fault in a fault handler, with no handler left (a triple fault).
    Reset,
    /// It was still running at the time limit and was killed.
    TimedOut(Duration),
    /// QEMU ended, and the kernel did not end it: by hand or by a signal, or by a reset that nobody was there to see.
    FromOutside,
    /// QEMU itself failed, with this status, if it had one.
    Qemu(Option<i32>),
}

impl Exit {
    /// Reads QEMU's exit status. The kernel writes 0x10 or 0x11 to isa-debug-exit, which doubles it and adds one.
    pub(crate) fn of(status: ExitStatus) -> Self {
        match status.code() {
            Some(33) => Self::Success,
            Some(35) => Self::Failure,
            Some(0) => Self::Reset,
            code => Self::Qemu(code),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("the kernel ended with success"),
            Self::Failure => f.write_str("the kernel ended with a failure; its log says which"),
            Self::Reset => f.write_str("the CPU reset itself (triple fault)"),
            Self::TimedOut(limit) => write!(f, "still running after {} s, killed", limit.as_secs()),
            Self::FromOutside => f.write_str(
                "QEMU ended before the kernel ended it: by hand, or by a reset of the CPU",
            ),
            Self::Qemu(Some(code)) => write!(f, "QEMU failed with status {code}"),
            Self::Qemu(None) => f.write_str("QEMU was killed by a signal"),
        }
    }
}

/// What QEMU says when a signal ends it, Ctrl-C's for example; its status is then that of a reset.
const SIGNALLED: &str = "terminating on signal";

/// A machine that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// What came out of its serial port.
    pub(crate) log: String,
    /// What QEMU itself had to say.
    pub(crate) complaints: String,
    /// How it ended.
    pub(crate) exit: Exit,
    /// How long it ran, QEMU's own start included.
    pub(crate) took: Duration,
}

/// Runs the machine that `command` describes until it ends or `limit` has passed; `line` sees each line of its serial port as it
/// comes.
///
/// # Errors
///
/// When QEMU cannot be started. Everything that happens later is told by [`Ended`].
pub(crate) fn boot(
    mut command: Command,
    limit: Duration,
    mut line: impl FnMut(&str),
) -> Result<Ended> {
    command.args(["-serial", "stdio", "-monitor", "none"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let folder = Folder::new()?;
    let interrupts = folder.path().join("interrupts");
    command.args(["-d", "int,cpu_reset", "-D"]).arg(&interrupts);
    let begun = Instant::now();
    let mut child = command.spawn().about(shown(&command))?;
    let serial = Serial::of(&mut child);
    let complaints = child.stderr.take().map(drain);

    let mut log = String::new();
    let in_time = loop {
        match serial.next_line(limit.saturating_sub(begun.elapsed())) {
            Ok(text) => {
                line(&text);
                log.push_str(&text);
                log.push('\n');
            }
            Err(RecvTimeoutError::Timeout) => break false,
            Err(RecvTimeoutError::Disconnected) => break true,
        }
    };
    let exit = if in_time {
        Exit::of(child.wait().about("qemu")?)
    } else {
        end(&mut child);
        Exit::TimedOut(limit)
    };
    let mut complaints = complaints
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default();
    let exit = match exit {
        Exit::Reset if complaints.contains(SIGNALLED) => Exit::FromOutside,
        exit => exit,
    };
    if exit == Exit::Reset {
        let interrupts = std::fs::read_to_string(&interrupts).unwrap_or_default();
        complaints.push_str(&last_exceptions(&interrupts));
    }
    Ok(Ended {
        log,
        complaints,
        exit,
        took: begun.elapsed(),
    })
}

/// The exceptions that ended in a triple fault, out of QEMU's log of interrupts: vector, error code, instruction, stack, CR2.
fn last_exceptions(interrupts: &str) -> String {
    let Some((before, _)) = interrupts.rsplit_once("Triple fault") else {
        return String::new();
    };
    let exceptions: Vec<&str> = before
        .lines()
        .filter(|line| line.contains(": v="))
        .collect();
    let last = &exceptions[exceptions.len().saturating_sub(3)..];
    last.iter()
        .map(|line| format!("before the reset: {}\n", line.trim()))
        .collect()
}

/// Kills a child and collects it. It may have ended by itself in the meantime, which is just as well.
pub(crate) fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// The lines of a machine's serial port, read by a thread so that waiting for one can be bounded.
#[derive(Debug)]
pub(crate) struct Serial {
    lines: Receiver<String>,
}

impl Serial {
    /// Takes over `child`'s standard output.
    pub(crate) fn of(child: &mut Child) -> Self {
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                let mut reader = BufReader::new(stdout);
                while let Some(line) = read_line(&mut reader) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Self { lines }
    }

    /// The next line without its end, waiting at most `limit`; `Disconnected` once the port is closed.
    pub(crate) fn next_line(
        &self,
        limit: Duration,
    ) -> std::result::Result<String, RecvTimeoutError> {
        self.lines.recv_timeout(limit)
    }
}

/// One line without its end. A guest can write any byte, so this must not insist on UTF-8.
fn read_line(reader: &mut BufReader<ChildStdout>) -> Option<String> {
    let mut bytes = Vec::new();
    match reader.read_until(b'\n', &mut bytes) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(
            String::from_utf8_lossy(&bytes)
                .trim_end_matches(['\r', '\n'])
                .to_owned(),
        ),
    }
}

/// Reads `source` to its end on a thread of its own, so that its writer never waits.
pub(crate) fn drain(mut source: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = source.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
