//! A peer that is a program of its own: `DIR/frames-peer`, which has been built beside.
//!
//! It says its name in one line. Then it is asked by lines, and answers each by a line with one number: `LOAD THREADS` runs
//! the load of that word (see `loads`) on fresh memory of 1 GiB a thread; `instructions` runs nothing but says how many
//! instructions a pair takes, and so on. `?` means that it cannot.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The running program.
pub(super) struct Driver {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub(super) name: &'static str,
}

impl Driver {
    /// Starts `frames-peer` in `directory`.
    pub(super) fn start(directory: &Path) -> std::io::Result<Self> {
        let mut child = Command::new(directory.join("frames-peer"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        let mut output = BufReader::new(output);
        let mut name = String::new();
        output.read_line(&mut name)?;
        Ok(Self {
            child,
            input,
            output,
            // A few letters once a run: rows have static names.
            name: String::leak(name.trim().to_owned()),
        })
    }

    /// Asks for a figure.
    pub(super) fn ask(&mut self, question: &str) -> Option<f64> {
        let input = self.input.as_mut()?;
        writeln!(input, "{question}").ok()?;
        input.flush().ok()?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).ok()?;
        answer.trim().parse().ok()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // It ends when it is asked no more.
        drop(self.input.take());
        let _ = self.child.wait();
    }
}
