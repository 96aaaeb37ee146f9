//! Why a verb ended without success: the message for the reader, and the exit status for the caller.

use std::fmt;

/// A verb's failure. Its `Display` form is the last thing the program prints; after an empty message there is nothing to print.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
}

/// The three ways to fail, each with its exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Something that was built, booted or tested did not do what it should: status 1.
    Failed,
    /// The command line makes no sense: status 2.
    Usage,
    /// This machine lacks a program or a toolchain, and it could not be installed: status 3.
    Missing,
}

impl Failure {
    /// What was built, booted or tested failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Failed,
            message: message.into(),
        }
    }

    /// The command line makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Usage,
            message: message.into(),
        }
    }

    /// A program or toolchain is missing.
    pub(crate) fn missing(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Missing,
            message: message.into(),
        }
    }

    /// The message without the program's name before it, to be made part of another.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The process's exit status, as `--help` documents it.
    pub(crate) fn status(&self) -> u8 {
        match self.kind {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Missing => 3,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kspace: {}", self.message)
    }
}

impl std::error::Error for Failure {}

/// What a verb returns.
pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

/// Names the file or program that an input or output error is about.
pub(crate) trait About<T> {
    /// Turns the error into a [`Failure`] that begins with `what`.
    fn about(self, what: impl fmt::Display) -> Result<T>;
}

impl<T> About<T> for std::io::Result<T> {
    fn about(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Failure::failed(format!("{what}: {error}")))
    }
}
