//! Why code was not changed. Not one byte is then.

use core::fmt;

use kspace_layout::{VirtAddr, VirtRange};
use kspace_paging::{Attributes, EditError, RootError};

use super::instruction::LONGEST;

/// Why code was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchError {
    /// An instruction has 1 to 15 bytes, and the new one as many as the old one.
    Length {
        /// Where.
        at: VirtAddr,
        /// Bytes of the old one.
        old: usize,
        /// Bytes of the new one.
        new: usize,
    },
    /// The instruction would end behind the last address.
    Wraps(VirtAddr),
    /// Old or new instruction is the breakpoint, which is used for the change.
    Breakpoint(VirtAddr),
    /// Neither the new nor the old instruction is one that a CPU can be led around: a no-operation, a jump, a call.
    NoStandIn(VirtAddr),
    /// Edits are given in ascending order, and do not overlap.
    OutOfOrder {
        /// One edit.
        at: VirtAddr,
        /// The one before it in the list.
        before: VirtAddr,
    },
    /// Nothing is mapped at this byte of an instruction.
    NotMapped(VirtAddr),
    /// What is mapped at this byte of an instruction is not kernel code.
    NotCode {
        /// The byte.
        at: VirtAddr,
        /// What its page is.
        found: Attributes,
    },
    /// Something else stands there than was expected.
    Unexpected {
        /// The first byte that differs.
        at: VirtAddr,
        /// What should be there.
        expected: u8,
        /// What is there.
        found: u8,
    },
    /// All other CPUs would have to be waited for in atomic context.
    Atomic,
}

impl fmt::Display for PatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text patch: ")?;
        match *self {
            Self::Length { at, old, new } if old == new => write!(
                f,
                "an instruction of {old} bytes at {at}; there are none but of 1 to {LONGEST}"
            ),
            Self::Length { at, old, new } => write!(
                f,
                "{old} bytes at {at} cannot become {new}; fill up with a no-operation"
            ),
            Self::Wraps(at) => write!(f, "the instruction at {at} ends behind the last address"),
            Self::Breakpoint(at) => write!(
                f,
                "the breakpoint instruction at {at} is what changes are made with; take the debugger's breakpoint out first"
            ),
            Self::NoStandIn(at) => write!(
                f,
                "neither the old nor the new instruction at {at} is a no-operation, a jump or a call; patch a jump around it"
            ),
            Self::OutOfOrder { at, before } => write!(
                f,
                "the edit at {at} follows the one at {before}; sort them, without overlap"
            ),
            Self::NotMapped(at) => write!(f, "nothing is mapped at {at}"),
            Self::NotCode { at, found } => {
                write!(f, "what is mapped at {at} is not kernel code: {found}")
            }
            Self::Unexpected {
                at,
                expected,
                found,
            } => write!(
                f,
                "{found:02x} at {at} where {expected:02x} should be; somebody else has changed it"
            ),
            Self::Atomic => f.write_str(
                "all CPUs would have to be waited for with a lock held or in an interrupt handler; do it later",
            ),
        }?;
        f.write_str("; nothing was changed")
    }
}

impl core::error::Error for PatchError {}

/// Why there is no patcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatcherError {
    /// The alias's two pages are not apart from what the address spaces share, or not in one page table.
    Window {
        /// Where they were to be.
        window: VirtAddr,
        /// What is shared.
        shared: VirtRange,
    },
    /// There is no frame for the root.
    NoRoot,
    /// There cannot be another root.
    Root(RootError),
    /// There are no frames for the tables.
    Tables(EditError),
}

impl fmt::Display for PatcherError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window { window, shared } => write!(
                f,
                "text patch: two pages at {window} are not in a page table of their own, apart from {shared}; place them elsewhere"
            ),
            Self::NoRoot => f.write_str("text patch: no frame for a root table; free some memory"),
            Self::Root(error) => error.fmt(f),
            Self::Tables(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for PatcherError {}
