//! Why there is no user space.

use core::fmt;

use kspace_layout::{PagingMode, VirtAddr, VirtRange};

/// Why there is no user space. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceError {
    /// The addresses are no whole pages.
    Unaligned(VirtRange),
    /// The addresses are not all in the part of the address space that user mode may have.
    NotUser {
        /// What was asked for.
        range: VirtRange,
        /// The mode.
        mode: PagingMode,
    },
    /// The kernel's own tables have something there.
    Kernel {
        /// What was asked for.
        range: VirtRange,
        /// The first address that their entry translates.
        at: VirtAddr,
    },
    /// There are no frames for the first table and the books.
    NoFrames,
}

impl fmt::Display for SpaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("user space: ")?;
        match self {
            Self::Unaligned(range) => write!(f, "{range} is not made of whole pages of 4 KiB"),
            Self::NotUser { range, mode } => write!(
                f,
                "{range} is not all in the lower half of {mode} paging; the upper one is the kernel's"
            ),
            Self::Kernel { range, at } => write!(
                f,
                "the kernel's tables have an entry for {at}, in {range}; keep to what the kernel leaves free"
            ),
            Self::NoFrames => f.write_str("out of memory for its first table and books; free some"),
        }
    }
}

impl core::error::Error for SpaceError {}
