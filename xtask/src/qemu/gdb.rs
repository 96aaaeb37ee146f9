//! A small client of QEMU's gdb stub: enough of the remote protocol to stop a guest at an instruction and alter what it sees.
//!
//! ```text
//!   packet    $ payload # two hex digits: sum of the payload's bytes, modulo 256      answered by + or -
//! ```
//!
//! The protocol is described in the GDB manual, appendix E. Registers are those of QEMU's x86-64 target, always 64 bits wide here
//! whatever mode the CPU is in.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::monitor::connect;
use crate::failure::{About, Failure, Result};

/// A general register, by its number in QEMU's x86-64 register file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    /// At a PVH entry: where the start info lies.
    Rbx = 1,
    /// The instruction pointer.
    Rip = 16,
}

impl Register {
    /// Where it is in the register file.
    fn bytes(self) -> std::ops::Range<usize> {
        self as usize * 8..self as usize * 8 + 8
    }
}

/// A connection to the stub of a running QEMU.
#[derive(Debug)]
pub(crate) struct Gdb {
    stream: UnixStream,
}

impl Gdb {
    /// Connects to the stub's socket, waiting until QEMU has made it. The guest stops.
    ///
    /// # Errors
    ///
    /// When there is no such socket in time.
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        Ok(Self {
            stream: connect(path)?,
        })
    }

    /// Stops the guest whenever it is about to execute the instruction at `address`, by a debug register: memory stays as it is.
    ///
    /// # Errors
    ///
    /// When the stub refuses.
    pub(crate) fn break_at(&mut self, address: u64) -> Result {
        self.expect_ok(&format!("Z1,{address:x},1"))
    }

    /// Takes back [`break_at`](Self::break_at).
    ///
    /// # Errors
    ///
    /// When the stub refuses.
    pub(crate) fn clear_break(&mut self, address: u64) -> Result {
        self.expect_ok(&format!("z1,{address:x},1"))
    }

    /// Lets the guest run until it stops at a breakpoint.
    ///
    /// # Errors
    ///
    /// When it ends instead, or does not stop in time.
    pub(crate) fn continue_to_break(&mut self) -> Result {
        let reply = self.ask("c")?;
        if reply.starts_with('T') || reply.starts_with('S') {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "gdb stub: the guest did not stop at the breakpoint: {reply}"
        )))
    }

    /// Lets the guest run on without a debugger.
    ///
    /// # Errors
    ///
    /// When the stub refuses.
    pub(crate) fn detach(mut self) -> Result {
        self.expect_ok("D")
    }

    /// The value of one register.
    ///
    /// # Errors
    ///
    /// When the stub's answer is not a register file.
    pub(crate) fn register(&mut self, register: Register) -> Result<u64> {
        let (_, value) = self.register_file(register)?;
        Ok(value)
    }

    /// Sets one register. The whole file is written back: QEMU writes a single one only for clients that read its description.
    ///
    /// # Errors
    ///
    /// When the stub refuses.
    pub(crate) fn set_register(&mut self, register: Register, value: u64) -> Result {
        let (mut file, _) = self.register_file(register)?;
        file[register.bytes()].copy_from_slice(&value.to_le_bytes());
        self.expect_ok(&format!("G{}", to_hex(&file)))
    }

    /// All registers as the stub sends them, which include `register`, and its value.
    fn register_file(&mut self, register: Register) -> Result<(Vec<u8>, u64)> {
        let file = from_hex(&self.ask("g")?)?;
        let value = file
            .get(register.bytes())
            .and_then(|bytes| bytes.try_into().ok());
        match value {
            Some(value) => Ok((file, u64::from_le_bytes(value))),
            None => Err(Failure::failed(format!(
                "gdb stub: {} bytes of registers, no {register:?}",
                file.len()
            ))),
        }
    }

    /// Reads `size` bytes at `address`, as the CPU would see them there: physical while paging is off.
    ///
    /// # Errors
    ///
    /// When nothing is there.
    pub(crate) fn read(&mut self, address: u64, size: usize) -> Result<Vec<u8>> {
        let bytes = from_hex(&self.ask(&format!("m{address:x},{size:x}"))?)?;
        if bytes.len() != size {
            return Err(Failure::failed(format!(
                "gdb stub: {} of {size} bytes at {address:016x}",
                bytes.len()
            )));
        }
        Ok(bytes)
    }

    /// Writes `bytes` at `address`.
    ///
    /// # Errors
    ///
    /// When nothing is there.
    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) -> Result {
        // The stub takes packets of at most 4 KiB of payload.
        for (index, piece) in bytes.chunks(1024).enumerate() {
            let at = address + 1024 * index as u64;
            self.expect_ok(&format!("M{at:x},{:x}:{}", piece.len(), to_hex(piece)))?;
        }
        Ok(())
    }

    fn expect_ok(&mut self, request: &str) -> Result {
        let reply = self.ask(request)?;
        if reply == "OK" {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "gdb stub: {request:.40}: answered {reply:?}, not OK"
        )))
    }

    /// Sends one packet and waits for the answer's payload.
    fn ask(&mut self, request: &str) -> Result<String> {
        let packet = format!("${request}#{:02x}", checksum(request.as_bytes()));
        self.stream.write_all(packet.as_bytes()).about("gdb stub")?;
        if self.byte()? != b'+' {
            return Err(Failure::failed(format!(
                "gdb stub: did not understand {request:.40}"
            )));
        }
        while self.byte()? != b'$' {}
        let mut payload = Vec::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte => payload.push(byte),
            }
        }
        let sent = [self.byte()?, self.byte()?];
        if from_hex(&String::from_utf8_lossy(&sent))? != [checksum(&payload)] {
            return Err(Failure::failed(format!(
                "gdb stub: a damaged answer to {request:.40}"
            )));
        }
        // The answer is here. After a detach the guest may have ended, and QEMU with it, before it is acknowledged.
        let _ = self.stream.write_all(b"+");
        String::from_utf8(payload).map_err(|error| Failure::failed(format!("gdb stub: {error}")))
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).about("gdb stub")?;
        Ok(byte[0])
    }
}

fn checksum(payload: &[u8]) -> u8 {
    payload.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| {
            std::str::from_utf8(pair)
                .ok()
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
        })
        .collect::<Option<_>>()
        .ok_or_else(|| Failure::failed(format!("gdb stub: {text:.40} is not hexadecimal")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_carry_the_sum_of_their_bytes() {
        // The GDB manual's own example of a reply: $OK#9a.
        assert_eq!(checksum(b"OK"), 0x9a);
        assert_eq!(checksum(b""), 0);
    }

    #[test]
    fn hexadecimal_both_ways() {
        assert_eq!(to_hex(&[0, 0x7f, 0xff]), "007fff");
        assert_eq!(from_hex("007fff"), Ok(vec![0, 0x7f, 0xff]));
        assert_eq!(
            from_hex("E0x").unwrap_err().to_string(),
            "kspace: gdb stub: E0x is not hexadecimal"
        );
    }
}
