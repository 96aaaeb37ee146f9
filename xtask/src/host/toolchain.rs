//! Where `core` for a target comes from that the host's toolchain does not have.
//!
//! A stable toolchain brings the standard library of its host only. The kernel needs `core` for bare metal, and the 32-bit build
//! of the libraries needs it for i686. There are three ways, tried in this order:
//!
//! ```text
//!   rustup      the target's own component, installed or fetched by rustup
//!   rust-src    the library's sources beside the active toolchain, compiled here (cargo's build-std)
//!   debian      the packages rustc-web and rust-web-src: a second compiler with its own sources, compiled here
//! ```
//!
//! build-std is not stable; `RUSTC_BOOTSTRAP=1` lets a stable compiler do it. That is confined to the builds set up here.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::command::{captured, cargo, find, first_line};
use super::packages::apt_install;
use crate::failure::{Failure, Result};

/// The bare-metal target that the x86-64 kernel is built for.
pub(crate) const BARE_METAL: &str = "x86_64-unknown-none";

/// The 32-bit target that the libraries are built for.
pub(crate) const THIRTY_TWO_BIT: &str = "i686-unknown-linux-gnu";

/// The oldest compiler that builds the workspace, as `rust-version` in Cargo.toml says.
const OLDEST: (u32, u32) = (1, 91);

/// A way to `core`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// rustup's component for the target.
    Rustup,
    /// The active toolchain's own sources.
    RustSrc,
    /// Debian's second compiler.
    Debian,
}

impl Way {
    /// All ways, in the order they are tried.
    pub(crate) const ALL: [Self; 3] = [Self::Rustup, Self::RustSrc, Self::Debian];

    /// The word for `--toolchain`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rustup => "rustup",
            Self::RustSrc => "rust-src",
            Self::Debian => "debian",
        }
    }
}

/// A way that is there, for one target.
#[derive(Debug)]
pub(crate) struct Toolchain {
    way: Way,
    target: &'static str,
    compiler: String,
    linker: Option<PathBuf>,
}

impl Toolchain {
    /// Finds the way to `core` for `target`; installs what is missing when `install` allows, and says so in a line.
    ///
    /// # Errors
    ///
    /// When no way is there and none can be had; the message says why each failed.
    pub(crate) fn find(target: &'static str, wanted: Option<Way>, install: bool) -> Result<Self> {
        let ways: Vec<Way> = wanted.map_or(Way::ALL.to_vec(), |way| vec![way]);
        // What is there already is better than anything fetched, so look everywhere before fetching anywhere.
        if let Some(toolchain) = ways.iter().find_map(|way| Self::present(*way, target).ok()) {
            return Ok(toolchain);
        }
        let mut reasons = Vec::new();
        for way in ways {
            let fetched = if install { fetch(way, target) } else { Ok(()) };
            match fetched.and_then(|()| Self::present(way, target)) {
                Ok(toolchain) => return Ok(toolchain),
                Err(reason) => reasons.push(format!("{}: {reason}", way.name())),
            }
        }
        Err(Failure::missing(format!(
            "the Rust library `core` for {target} is missing ({}); \
             type: rustup target add {target}, or, as root: apt-get install rustc-web rust-web-src",
            reasons.join("; ")
        )))
    }

    /// The toolchain, if this way is there; else what it lacks.
    fn present(way: Way, target: &'static str) -> std::result::Result<Self, String> {
        let rustc = match way {
            Way::Rustup | Way::RustSrc => rustc(),
            Way::Debian => DEBIAN_RUSTC.to_owned(),
        };
        let ask = |words: &[&str]| {
            let mut command = Command::new(&rustc);
            if way == Way::Debian {
                command.env_remove("LD_LIBRARY_PATH");
            }
            first_line(command.args(words)).ok_or_else(|| format!("{rustc} is not there"))
        };
        let compiler = ask(&["--version"])?;
        if version_of(&compiler).is_none_or(|version| version < OLDEST) {
            let (major, minor) = OLDEST;
            return Err(format!("{rustc} is {compiler}, older than {major}.{minor}"));
        }
        let there = match way {
            Way::Rustup => has_core(Path::new(&ask(&[
                "--print",
                "target-libdir",
                "--target",
                target,
            ])?)),
            Way::RustSrc | Way::Debian => has_sources(Path::new(&ask(&["--print", "sysroot"])?)),
        };
        if !there {
            let what = if way == Way::Rustup {
                "core for this target"
            } else {
                "library sources"
            };
            return Err(format!("{rustc} has no {what}"));
        }
        let linker = match way {
            Way::Debian => Some(rust_lld().ok_or("there is no rust-lld to link with")?),
            Way::Rustup | Way::RustSrc => None,
        };
        Ok(Self {
            way,
            target,
            compiler,
            linker,
        })
    }

    /// `rustc 1.96.0` of `rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)`.
    fn version(&self) -> &str {
        self.compiler.split(" (").next().unwrap_or(&self.compiler)
    }

    /// Which way this is.
    pub(crate) fn way(&self) -> Way {
        self.way
    }

    /// A cargo command that builds for the target: `cargo VERB --target …`, with its environment.
    pub(crate) fn cargo(&self, verb: &str) -> Command {
        let mut command = cargo();
        command.args([verb, "--target", self.target]);
        if self.way != Way::Rustup {
            command.env("RUSTC_BOOTSTRAP", "1").args([
                "-Zbuild-std=core,alloc,compiler_builtins",
                "-Zbuild-std-features=compiler-builtins-mem",
            ]);
            // What another compiler built is of no use to the host's: keep the two apart.
            command.env(
                "CARGO_TARGET_DIR",
                super::target_dir().join(self.way.name()),
            );
        }
        if self.way == Way::Debian {
            // cargo passes its own toolchain's libraries on; Debian's compiler has to find Debian's.
            command
                .env("RUSTC", DEBIAN_RUSTC)
                .env_remove("LD_LIBRARY_PATH");
            command.env_remove("RUSTDOC");
        }
        if let Some(linker) = &self.linker {
            let name = self.target.to_uppercase().replace('-', "_");
            command.env(format!("CARGO_TARGET_{name}_LINKER"), linker);
        }
        command
    }
}

/// `rustc 1.96.0, core for …`: the compiler by its name and version, without the rest of its own line.
impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (compiler, target) = (self.version(), self.target);
        match self.way {
            Way::Rustup => write!(f, "{compiler}, its own {target}"),
            Way::RustSrc => write!(f, "{compiler}, core for {target} built from its rust-src"),
            Way::Debian => write!(
                f,
                "Debian's {compiler}, core for {target} built from rust-web-src"
            ),
        }
    }
}

/// Where Debian's compiler is; rustup's, if any, comes before it on the search path. Debian 12's package `rustc` is 1.63, while
/// `rustc-web` follows the releases through Debian's security updates.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

fn rustc() -> String {
    std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned())
}

/// `(1, 96)` of `rustc 1.96.0 (…)`.
fn version_of(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.split_whitespace().nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn has_core(libdir: &Path) -> bool {
    std::fs::read_dir(libdir).is_ok_and(|mut files| {
        files.any(|file| {
            file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
        })
    })
}

fn has_sources(sysroot: &Path) -> bool {
    sysroot
        .join("lib/rustlib/src/rust/library/core/src/lib.rs")
        .is_file()
}

/// The linker for bare metal: the host toolchain's rust-lld (Debian's compiler brings none), or one on the search path.
fn rust_lld() -> Option<PathBuf> {
    let beside_rustc = first_line(Command::new(rustc()).args(["--print", "sysroot"]))
        .map(|root| Path::new(&root).join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld"))
        .filter(|linker| linker.is_file());
    beside_rustc
        .or_else(|| find("rust-lld"))
        .or_else(|| find("ld.lld"))
}

fn fetch(way: Way, target: &str) -> std::result::Result<(), String> {
    let rustup = |words: &[&str]| {
        if find("rustup").is_none() {
            return Err("there is no rustup".to_owned());
        }
        println!("kspace: core for {target}: rustup {}", words.join(" "));
        let output =
            captured(Command::new("rustup").args(words)).map_err(|failure| failure.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = said
            .lines()
            .find(|line| line.starts_with("error"))
            .unwrap_or("it failed");
        Err(format!("rustup {} failed: {line}", words.join(" ")))
    };
    match way {
        Way::Rustup => rustup(&["target", "add", target]),
        Way::RustSrc => rustup(&["component", "add", "rust-src"]),
        Way::Debian => {
            let linker: &[&str] = if rust_lld().is_some() { &[] } else { &["lld"] };
            let packages = [&["rustc-web", "rust-web-src"], linker].concat();
            apt_install(&format!("core for {target}"), &packages)
                .map_err(|failure| failure.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_compilers_own_line() {
        assert_eq!(
            version_of("rustc 1.96.0 (ac68faa20 2026-05-25)"),
            Some((1, 96))
        );
        assert_eq!(
            version_of("rustc 1.63.0 (Debian 1.63.0+dfsg1-2)"),
            Some((1, 63))
        );
        assert_eq!(version_of("rustc"), None);
        assert_eq!(version_of(""), None);
    }
}
