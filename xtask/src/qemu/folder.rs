//! Folders for what a running machine needs: sockets, dumps, QEMU's own log.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::failure::{About, Result};

/// A folder of our own, removed with everything in it. It lies in the system's folder for temporary files: the path of a socket
/// may have 107 bytes only, which a build folder can exceed.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes a folder that nobody else uses.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub(crate) fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("kspace-{}-{number}", std::process::id()));
            match std::fs::create_dir(&path) {
                // Left by a process of the same number that was killed.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => return made.about(path.display()).map(|()| Self { path }),
            }
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Left-overs in a folder for temporary files harm nobody.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
