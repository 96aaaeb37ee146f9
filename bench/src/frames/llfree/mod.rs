//! LLFree (github.com/luhsra/llfree-rs), which is in no package registry: a checkout, given by `--peer DIR`, is built with a
//! small program of ours that runs the same loads.
//!
//! ```text
//!   DIR/core  (theirs) ---+
//!   loads.rs              +--> a package beside this program's executable --> LLFree's figures, asked for line by line
//!   llfree/program.rs ----+
//! ```
//!
//! Same compiler, same flags, same loads. Nothing of theirs is kept here. Written for commit 441c8d1 (June 2026): another
//! may not build, which is then said.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::row::Refused;

/// The files of the package, but for its manifest.
const SOURCES: [(&str, &str); 2] = [
    ("src/main.rs", include_str!("program.rs")),
    ("loads.rs", include_str!("../loads.rs")),
];

/// The program, running.
pub(super) struct LlFree {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub(super) program: PathBuf,
    pub(super) name: &'static str,
}

impl LlFree {
    /// Builds the program against the checkout and starts it.
    pub(super) fn start(checkout: &Path) -> Result<Self, Refused> {
        let program = build(checkout)?;
        let broken =
            |error: std::io::Error| Refused::failed(format!("{}: {error}", program.display()));
        let mut child = Command::new(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(broken)?;
        let input = child.stdin.take();
        let output = child
            .stdout
            .take()
            .ok_or(std::io::ErrorKind::BrokenPipe.into());
        Ok(Self {
            output: BufReader::new(output.map_err(broken)?),
            child,
            input,
            program,
            // A few letters once a run: rows have static names.
            name: String::leak(name(checkout)),
        })
    }

    /// Asks for a figure; `None` when the program cannot tell, or is gone.
    pub(super) fn ask(&mut self, question: &str) -> Option<f64> {
        let input = self.input.as_mut()?;
        writeln!(input, "{question}").ok()?;
        input.flush().ok()?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).ok()?;
        answer.trim().parse().ok()
    }
}

impl Drop for LlFree {
    fn drop(&mut self) {
        // It ends when it is asked no more.
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// With the commit, if git knows it: figures are of one.
fn name(checkout: &Path) -> String {
    let commit = Command::new("git")
        .arg("-C")
        .arg(checkout)
        .args(["rev-parse", "--short", "HEAD"])
        .output();
    match commit {
        Ok(out) if out.status.success() => {
            format!("LLFree {}", String::from_utf8_lossy(&out.stdout).trim())
        }
        _ => "LLFree".to_owned(),
    }
}

/// Builds the program beside our own executable; where it is.
fn build(checkout: &Path) -> Result<PathBuf, Refused> {
    let core = core_of(checkout)?;
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join("llfree-peer")))
        .ok_or_else(|| Refused::failed("where this program lies is not known".to_owned()))?;
    let written = |path: PathBuf, text: &str| {
        fs::create_dir_all(path.parent().unwrap_or(&beside))
            .and_then(|()| fs::write(&path, text))
            .map_err(|error| Refused::failed(format!("{}: {error}", path.display())))
    };
    written(beside.join("Cargo.toml"), &manifest(&core))?;
    for (path, text) in SOURCES {
        written(beside.join(path), text)?;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--target-dir", "target"])
        .current_dir(&beside)
        .output()
        .map_err(|error| Refused::failed(format!("cargo: {error}")))?;
    if !built.status.success() {
        return Err(Refused::failed(format!(
            "--peer {}: the program in {} does not build against it ({}). It was written for commit 441c8d1; check that out, or \
             mend bench/src/frames/llfree/program.rs.\n{}",
            checkout.display(),
            beside.display(),
            built.status,
            String::from_utf8_lossy(&built.stderr).trim_end()
        )));
    }
    Ok(beside.join("target/release/llfree-peer"))
}

/// The allocator's package in the checkout.
fn core_of(checkout: &Path) -> Result<PathBuf, Refused> {
    const WANTED: &str = "a checkout of github.com/luhsra/llfree-rs is wanted: git clone https://github.com/luhsra/llfree-rs DIR";
    let core = checkout.join("core");
    let manifest = core.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).map_err(|error| {
        Refused::usage(format!("--peer: {}: {error}; {WANTED}", manifest.display()))
    })?;
    if !text.lines().any(|line| line.trim() == "name = \"llfree\"") {
        return Err(Refused::usage(format!(
            "--peer: {} is not of a package called llfree; {WANTED}",
            manifest.display()
        )));
    }
    core.canonicalize()
        .map_err(|error| Refused::usage(format!("--peer: {}: {error}", core.display())))
}

/// Optimised as our own benches are. A workspace of its own: the directory may lie in ours.
fn manifest(core: &Path) -> String {
    format!(
        "[package]\nname = \"llfree-peer\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [dependencies]\nllfree = {{ path = {:?}, features = [\"std\"] }}\n\n\
         [profile.release]\nlto = \"fat\"\ncodegen-units = 1\n\n[workspace]\n",
        core.display().to_string()
    )
}
