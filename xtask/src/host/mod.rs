//! This machine: the programs, packages and toolchains that building and booting need.

pub(crate) mod command;
pub(crate) mod packages;
pub(crate) mod toolchain;

use std::path::{Path, PathBuf};

/// The root of the workspace: the folder above this package's.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Where cargo builds: `CARGO_TARGET_DIR` or the workspace's `target`.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
}

/// A folder of our own below cargo's, for logs and sockets; made if need be.
///
/// # Errors
///
/// When it cannot be made.
pub(crate) fn scratch_dir() -> std::io::Result<PathBuf> {
    let dir = target_dir().join("xtask");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}
