//! Other programs, run quietly: what they say is kept, and shown only when they fail.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::failure::{About, Failure, Result};

/// Runs `command` to its end with nothing on standard input.
///
/// # Errors
///
/// When it cannot be started. A failing status is not an error here: see [`quietly`].
pub(crate) fn captured(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().about(shown(command))
}

/// Runs `command` and keeps what it prints; when it fails, its messages go to standard error and `what` names the failure.
///
/// # Errors
///
/// When it cannot be started or ends with a failing status.
pub(crate) fn quietly(command: &mut Command, what: &str) -> Result<Output> {
    let output = captured(command)?;
    if output.status.success() {
        return Ok(output);
    }
    // What is wrong stands on standard error; standard output may be messages for programs.
    let messages = if output.stderr.is_empty() {
        &output.stdout
    } else {
        &output.stderr
    };
    eprint!("{}", String::from_utf8_lossy(messages));
    Err(Failure::failed(format!("{what} ({})", output.status)))
}

/// Everything a program printed, standard output first.
pub(crate) fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// The first line a program prints, if it succeeds and prints any.
pub(crate) fn first_line(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}

/// The program as typed into a shell, without quoting: for messages only.
pub(crate) fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Where `program` lies on the search path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| is_file(file))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}

/// The cargo that runs us, or the one on the search path.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(super::workspace());
    command
}
