//! User address spaces: each has tables of its own for the user half, and the kernel's for the rest.
//!
//! ```text
//!   root of a user space                       kernel's root
//!   | user | user | ...  | kernel | kernel |   |  none  | ...  | kernel | kernel |
//!      |      |              |        '------------------------------'                the same tables
//!      |      '-- tables of this space alone: every level lets user mode in, the page decides
//!      '-- UserMapping: addresses that are held from before the first entry is filled until the last CPU has flushed
//! ```
//!
//! The kernel's part is shared by copies of the root's entries, which never change: what the kernel maps later appears in every space.
//! Pages of the kernel's part are closed to user mode by their own entries, and pages of the user part are never global.
//!
//! **Who holds what.** A range of user addresses is held by one [`UserMapping`] at a time, so two threads of a process can map and unmap
//! without a lock over the tables. A mapping of an area holds the area: its frames are freed after the last mapping is gone, and
//! flushed on all CPUs that run the space, whoever frees the area before that. A mapping that is forgotten leaks; it frees nothing.
//!
//! **CPUs.** Each space has a [`Shootdown`](crate::shootdown::Shootdown) of its own, of [`Scope::Own`](crate::shootdown::Scope::Own): a CPU that
//! loads the root does so inside [`switch_in`](crate::shootdown::Shootdown::switch_in), and leaves by
//! [`switch_out`](crate::shootdown::Shootdown::switch_out).
//!
//! Page tables of the user part stay until the space goes.

mod error;
mod mapping;
mod space;

pub use error::SpaceError;
pub use mapping::UserMapping;
pub use space::UserSpace;

pub(crate) use mapping::{Part, Trouble};
