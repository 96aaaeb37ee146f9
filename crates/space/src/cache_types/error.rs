//! Why a memory type was not written down.

use core::fmt;

use kspace_layout::PhysRange;
use kspace_paging::CacheType;

use super::Typed;

/// Why a memory type was not written down. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeError {
    /// The range is not one of whole pages.
    Unaligned(PhysRange),
    /// Some of the memory is mapped with another type.
    Conflict {
        /// What was asked for.
        asked: PhysRange,
        /// With this type.
        wanted: CacheType,
        /// The first memory in it with another type.
        found: Typed,
    },
    /// No frame for the books.
    NoFrame(PhysRange),
    /// The books have as many ranges as they may have.
    Full {
        /// What was asked for.
        asked: PhysRange,
        /// So many.
        limit: u64,
    },
}

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unaligned(range) => write!(
                f,
                "{range}: memory types are those of pages; start and size must be multiples of 4 KiB"
            ),
            Self::Conflict {
                asked,
                wanted,
                found,
            } => write!(
                f,
                "{asked} is wanted {wanted}, and {found} is mapped already; unmap that, make it write-back, or ask for its type"
            ),
            Self::NoFrame(range) => write!(
                f,
                "{range}: no frame for the books on memory types; free some memory"
            ),
            Self::Full { asked, limit } => write!(
                f,
                "{asked}: the books on memory types have {limit} ranges, and can have no more; unmap some devices"
            ),
        }
    }
}

impl core::error::Error for TypeError {}
