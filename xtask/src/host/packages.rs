//! Debian packages: installed when a program is missing, with one line that says so.
//!
//! Installing needs root. We are root, or `sudo` lets us be, or the message says exactly what to type.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::Command;

use super::command::{captured, find, first_line, said};
use crate::failure::{Failure, Result};

/// The path of `program`, which is in Debian's package `package`; installs the package when it is missing and `install` allows.
///
/// # Errors
///
/// When the program is missing and stays so; the message says what to type.
pub(crate) fn program(program: &str, package: &str, install: bool) -> Result<PathBuf> {
    needed(program, &[package], install, || find(program))
}

/// What `look` finds, which is in Debian's `packages` and is called `what` in messages; installs them when it finds nothing and `install`
/// allows.
///
/// # Errors
///
/// When it finds nothing all the same; the message says what to type.
pub(crate) fn needed<T>(
    what: &str,
    packages: &[&str],
    install: bool,
    look: impl Fn() -> Option<T>,
) -> Result<T> {
    if let Some(found) = look() {
        return Ok(found);
    }
    if !install {
        let why = "--no-install keeps this machine as it is";
        return Err(missing(what, packages, why));
    }
    apt_install(what, packages)?;
    look().ok_or_else(|| missing(what, packages, "apt-get succeeded, yet it is not there"))
}

/// Installs `packages`, which `what` needs.
///
/// # Errors
///
/// When there is no apt-get, no way to be root, or apt-get fails.
pub(crate) fn apt_install(what: &str, packages: &[&str]) -> Result {
    if find("apt-get").is_none() {
        return Err(missing(
            what,
            packages,
            "this is not a Debian system: there is no apt-get",
        ));
    }
    let Some(root) = becoming_root() else {
        return Err(missing(
            what,
            packages,
            "installing needs root, and there is no sudo",
        ));
    };
    println!("kspace: {what}: installing Debian's {}", packages.join(" "));
    // On a fresh system the lists of packages may be missing or old. Without a network this fails, and what was fetched before
    // may still be installed.
    captured(apt_get(root).args(["update", "--quiet"]))?;
    let output = captured(
        apt_get(root)
            .args(["install", "--yes", "--quiet", "--no-install-recommends"])
            .args(packages),
    )?;
    if output.status.success() {
        return Ok(());
    }
    let said = said(&output);
    let last = said
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing");
    Err(missing(what, packages, &format!("apt-get failed: {last}")))
}

/// How a command becomes root's.
#[derive(Clone, Copy)]
enum Root {
    /// It is already.
    Ourselves,
    /// Through sudo, which may ask for a password.
    Sudo,
    /// Through sudo, which must not ask: nobody is there to answer.
    SudoWithoutAsking,
}

fn becoming_root() -> Option<Root> {
    if first_line(Command::new("id").arg("-u")).as_deref() == Some("0") {
        Some(Root::Ourselves)
    } else if find("sudo").is_none() {
        None
    } else if std::io::stdin().is_terminal() {
        Some(Root::Sudo)
    } else {
        Some(Root::SudoWithoutAsking)
    }
}

fn apt_get(root: Root) -> Command {
    let mut command = match root {
        Root::Ourselves => Command::new("env"),
        Root::Sudo => Command::new("sudo"),
        Root::SudoWithoutAsking => Command::new("sudo"),
    };
    match root {
        Root::Ourselves => {}
        Root::Sudo => drop(command.arg("env")),
        Root::SudoWithoutAsking => drop(command.args(["--non-interactive", "env"])),
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    command
}

fn missing(what: &str, packages: &[&str], why: &str) -> Failure {
    Failure::missing(format!(
        "{what} is missing, and {why}; type, as root: apt-get install {}",
        packages.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_what_to_type() {
        let packages = ["grub-pc-bin", "xorriso"];
        let refused = needed("GRUB", &packages, false, || None::<()>);
        let message = "kspace: GRUB is missing, and --no-install keeps this machine as it is; \
                       type, as root: apt-get install grub-pc-bin xorriso";
        let failure = refused.expect_err("nothing is found");
        assert_eq!(
            (failure.to_string().as_str(), failure.status()),
            (message, 3)
        );
        assert_eq!(needed("GRUB", &packages, false, || Some(7)), Ok(7));
    }
}
