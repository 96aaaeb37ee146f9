//! A client of QEMU's monitor protocol (QMP): JSON lines over a Unix socket.
//!
//! The human monitor's `info tlb` and `info registers` have no commands of their own in QMP, so they travel inside
//! `human-monitor-command`. Events that QEMU sends in between are not ours to react to and are skipped.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::{About, Failure, Result};

/// How long QEMU may take to open its socket, and to answer one command (`info tlb` of a large guest is tens of thousands of
/// lines).
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to the monitor of a running QEMU.
#[derive(Debug)]
pub(crate) struct Monitor {
    reader: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to the socket at `path`, waiting until QEMU has made it.
    ///
    /// # Errors
    ///
    /// When there is no such socket in time, or what answers is not QMP.
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let stream = connect(path)?;
        let mut monitor = Self {
            reader: BufReader::new(stream),
        };
        let greeting = monitor.receive()?;
        if greeting.get("QMP").is_none() {
            return Err(Failure::failed(format!(
                "qemu monitor: greeted with {greeting}, not QMP"
            )));
        }
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Runs one QMP command and gives what it returned.
    ///
    /// # Errors
    ///
    /// When QEMU refuses the command or goes away.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.reader
            .get_mut()
            .write_all(line.as_bytes())
            .about("qemu monitor")?;
        loop {
            let mut answer = self.receive()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                let why = error
                    .get("desc")
                    .and_then(Value::as_str)
                    .unwrap_or("no reason given");
                return Err(Failure::failed(format!("qemu monitor: {command}: {why}")));
            }
        }
    }

    /// Runs one command of the human monitor and gives what it printed.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub(crate) fn human(&mut self, command: &str) -> Result<String> {
        let printed = self.execute("human-monitor-command", json!({ "command-line": command }))?;
        printed.as_str().map(str::to_owned).ok_or_else(|| {
            Failure::failed(format!(
                "qemu monitor: {command} returned {printed}, not text"
            ))
        })
    }

    /// Stops every CPU of the guest.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub(crate) fn stop(&mut self) -> Result {
        self.execute("stop", json!({})).map(drop)
    }

    /// Reads `size` bytes of guest-physical memory at `address`, by way of a file of our own.
    ///
    /// # Errors
    ///
    /// When QEMU cannot write the file or it comes out shorter.
    pub(crate) fn read_physical(
        &mut self,
        address: u64,
        size: usize,
        file: &Path,
    ) -> Result<Vec<u8>> {
        self.execute(
            "pmemsave",
            json!({ "val": address, "size": size, "filename": file }),
        )?;
        let bytes = std::fs::read(file).about(file.display())?;
        if bytes.len() != size {
            return Err(Failure::failed(format!(
                "qemu monitor: pmemsave of {size} bytes at {address:016x} gave {}",
                bytes.len()
            )));
        }
        Ok(bytes)
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line).about("qemu monitor")? == 0 {
            return Err(Failure::failed("qemu monitor: QEMU closed the connection"));
        }
        serde_json::from_str(&line)
            .map_err(|error| Failure::failed(format!("qemu monitor: {line:?}: {error}")))
    }
}

/// Connects to a Unix socket that QEMU is about to make.
pub(super) fn connect(path: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => {
                stream
                    .set_read_timeout(Some(PATIENCE))
                    .about(path.display())?;
                return Ok(stream);
            }
            Err(error) if Instant::now() >= deadline => {
                return Err(error).about(format!("qemu socket {}", path.display()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
