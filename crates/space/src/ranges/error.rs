//! Why addresses were not given, or not taken back.

use core::fmt;

use kspace_layout::{ByteSize, FRAME_SIZE, VirtRange};

/// Why no addresses were given. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AllocateError {
    /// Zero pages were asked for.
    NoPages,
    /// The alignment, in pages, is not a power of two.
    Alignment(u64),
    /// The range is not made of whole pages.
    Unaligned(VirtRange),
    /// The range or window does not lie in the area.
    Outside {
        /// What was asked for.
        range: VirtRange,
        /// Where it should be.
        area: VirtRange,
    },
    /// There is no such place.
    NoSpace {
        /// Pages asked for.
        pages: u64,
        /// Their alignment, in pages.
        align: u64,
        /// The area, or the part of it that was allowed.
        window: VirtRange,
        /// Pages that are free in the whole area.
        free: u64,
        /// The largest free range of the whole area, in pages.
        largest: u64,
    },
    /// Part of the range is not free.
    NotFree {
        /// What was asked for.
        range: VirtRange,
        /// Its first part that is taken: up to the next free page, or its end.
        taken: VirtRange,
    },
    /// The pages do not touch a live allocation, so none can grow by them.
    Apart {
        /// What was asked for.
        range: VirtRange,
        /// The free range that they lie in.
        free: VirtRange,
    },
    /// The books need a frame, and the source has none that the memory reaches.
    NoFrame,
}

fn size(pages: u64) -> ByteSize {
    ByteSize(pages.saturating_mul(FRAME_SIZE))
}

impl fmt::Display for AllocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoPages => write!(f, "allocate addresses: 0 pages; ask for 1 or more"),
            Self::Alignment(pages) => {
                write!(
                    f,
                    "allocate addresses: alignment of {pages} pages is not a power of two"
                )
            }
            Self::Unaligned(range) => {
                write!(
                    f,
                    "allocate addresses {range}: not made of whole 4 KiB pages"
                )
            }
            Self::Outside { range, area } => {
                write!(f, "allocate addresses {range}: outside the area {area}")
            }
            Self::NoSpace {
                pages,
                align,
                window,
                free,
                largest,
            } => write!(
                f,
                "allocate addresses: no place for {} aligned to {} in {window}; the area has {} free, the largest piece {}; free \
                 some, or make the area larger",
                size(pages),
                size(align),
                size(free),
                size(largest),
            ),
            Self::NotFree { range, taken } => {
                write!(
                    f,
                    "allocate addresses {range}: {taken} is not free; nothing was changed"
                )
            }
            Self::Apart { range, free } => write!(
                f,
                "grow by addresses {range}: they lie inside the free range {free} and touch no live allocation"
            ),
            Self::NoFrame => write!(
                f,
                "allocate addresses: no frame for the books; nothing was changed; free memory and try again"
            ),
        }
    }
}

impl core::error::Error for AllocateError {}

/// Why addresses were not taken back. Nothing was changed. Each is a fault of who frees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FreeError {
    /// The range is not made of whole pages.
    Unaligned(VirtRange),
    /// The range does not lie in the area.
    Outside {
        /// What was to be freed.
        range: VirtRange,
        /// Where it should be.
        area: VirtRange,
    },
    /// Part of the range is free already.
    AlreadyFree {
        /// What was to be freed.
        range: VirtRange,
        /// The lowest free range that it overlaps.
        free: VirtRange,
    },
    /// After this there would be more free ranges than the live allocations can part: so the range is a piece of an allocation,
    /// and not a whole one (to free), or not one of its ends (to shrink by).
    Piece {
        /// What was to be freed.
        range: VirtRange,
        /// Live allocations, before the call.
        allocations: u64,
    },
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unaligned(range) => {
                write!(f, "free addresses {range}: not made of whole 4 KiB pages")
            }
            Self::Outside { range, area } => {
                write!(f, "free addresses {range}: outside the area {area}")
            }
            Self::AlreadyFree { range, free } => {
                write!(
                    f,
                    "free addresses {range}: {free} is free already; freed twice?"
                )
            }
            Self::Piece { range, allocations } => write!(
                f,
                "free addresses {range}: a piece of an allocation ({allocations} live); free it whole, or shrink it from one end"
            ),
        }
    }
}

impl core::error::Error for FreeError {}
