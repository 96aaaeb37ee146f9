//! A machine that somebody looks into: QEMU with a monitor and, if wanted, a debugger on its first instruction.
//!
//! Dropping it ends QEMU, so no test leaves one behind.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::boot::{Ended, Exit, Serial, drain, end};
use super::folder::Folder;
use super::gdb::Gdb;
use super::monitor::Monitor;
use crate::failure::{About, Failure, Result};
use crate::host::command::shown;

/// A running machine under observation.
#[derive(Debug)]
pub(crate) struct Paused {
    child: Child,
    serial: Serial,
    log: String,
    folder: Folder,
}

impl Paused {
    /// Starts the machine; it runs at once.
    ///
    /// # Errors
    ///
    /// When QEMU cannot be started.
    pub(crate) fn start(command: Command) -> Result<Self> {
        Self::spawn(command, &[])
    }

    /// Starts the machine stopped before its first instruction, for [`gdb`](Self::gdb) to continue.
    ///
    /// # Errors
    ///
    /// When QEMU cannot be started.
    pub(crate) fn start_stopped(command: Command) -> Result<Self> {
        Self::spawn(command, &["-S"])
    }

    fn spawn(mut command: Command, options: &[&str]) -> Result<Self> {
        let folder = Folder::new()?;
        let socket = |name| {
            format!(
                "unix:{},server=on,wait=off",
                folder.path().join(name).display()
            )
        };
        command.args([
            "-serial",
            "stdio",
            "-qmp",
            &socket("qmp"),
            "-gdb",
            &socket("gdb"),
        ]);
        command.args(options);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().about(shown(&command))?;
        let serial = Serial::of(&mut child);
        if let Some(stderr) = child.stderr.take() {
            drain(stderr);
        }
        Ok(Self {
            child,
            serial,
            log: String::new(),
            folder,
        })
    }

    /// Reads the serial port until a line contains `text`.
    ///
    /// # Errors
    ///
    /// When the machine ends first, or `limit` passes first.
    pub(crate) fn wait_for(&mut self, text: &str, limit: Duration) -> Result {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.serial.next_line(left) {
                Ok(line) => {
                    self.log.push_str(&line);
                    self.log.push('\n');
                    if line.contains(text) {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Failure::failed(format!(
                        "no line with \"{text}\" within {} s",
                        limit.as_secs()
                    )));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::failed(format!(
                        "the machine ended before a line with \"{text}\""
                    )));
                }
            }
        }
    }

    /// What came out of the serial port so far, as far as it was waited for.
    pub(crate) fn log(&self) -> &str {
        &self.log
    }

    /// Waits until the machine ends by itself, at most `limit`.
    ///
    /// # Errors
    ///
    /// When its end cannot be awaited.
    pub(crate) fn until_its_end(mut self, limit: Duration) -> Result<Ended> {
        let begun = Instant::now();
        loop {
            match self.serial.next_line(limit.saturating_sub(begun.elapsed())) {
                Ok(line) => {
                    self.log.push_str(&line);
                    self.log.push('\n');
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Ok(self.ended(Exit::TimedOut(limit), begun));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let exit = Exit::of(self.child.wait().about("qemu")?);
        Ok(self.ended(exit, begun))
    }

    fn ended(&mut self, exit: Exit, begun: Instant) -> Ended {
        let log = std::mem::take(&mut self.log);
        Ended {
            log,
            complaints: String::new(),
            exit,
            took: begun.elapsed(),
        }
    }

    /// Connects to the monitor.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub(crate) fn monitor(&self) -> Result<Monitor> {
        Monitor::connect(&self.folder.path().join("qmp"))
    }

    /// Connects to the debugger's stub.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub(crate) fn gdb(&self) -> Result<Gdb> {
        Gdb::connect(&self.folder.path().join("gdb"))
    }

    /// A folder that lives as long as the machine.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
