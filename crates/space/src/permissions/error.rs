//! Why pages were not changed.

use core::fmt;

use kspace_layout::{ByteSize, Place, SectionKind, VirtAddr, VirtRange};
use kspace_paging::{EditError, Reason};

use super::Change;
use crate::cache_types::TypeError;
use crate::vmalloc::AreaInfo;

/// Pages that were not changed. Nothing was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermissionError {
    /// Where they begin.
    pub start: VirtAddr,
    /// How many bytes they have.
    pub bytes: u64,
    /// What was asked for; `None`: to restore them.
    pub change: Option<Change>,
    /// Why not.
    pub problem: Problem,
}

/// Why pages were not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No bytes.
    Empty,
    /// Start and size are not those of pages.
    Unaligned,
    /// The range goes past the last address of its half of the address space.
    Wraps,
    /// The caller must not wait: it holds a lock, or is an interrupt handler.
    Atomic,
    /// Pages there are nobody's to change: no area of those that may be changed has them.
    Elsewhere(Place),
    /// The range goes on behind the end of what has its first page.
    Beyond(VirtRange),
    /// A guard page, or one that is not in use any more.
    NotInUse {
        /// The page.
        page: VirtAddr,
        /// The area beside it, or that was there.
        area: Option<AreaInfo>,
    },
    /// There is no page.
    NotMapped(VirtAddr),
    /// Nothing in the direct map is ever executable.
    DirectMap,
    /// The page would be writable and executable: in one of its places, or in two.
    WriteExecute {
        /// The first such page: where one of the two rights is.
        page: VirtAddr,
    },
    /// The kernel's code and constants are never writable, uncached or gone.
    Image {
        /// The section.
        section: SectionKind,
        /// Where the page is.
        page: VirtAddr,
    },
    /// The memory type of a page that is not present cannot change.
    NotPresent(VirtAddr),
    /// An area has the same frame: here is its page, or one whose memory type was changed through it. The type must be changed there, for
    /// both.
    ByArea(VirtAddr),
    /// The area is for [`Code`](crate::areas::Code), which sees to its rights.
    Code(VirtRange),
    /// User mode may have the area writable, and has it with the memory type that it was made with.
    ForUsers(VirtRange),
    /// A device's memory type is that of its first mapping, for good.
    Device(VirtRange),
    /// A part of it has another type, or there is no room to write it down.
    Type(TypeError),
    /// Too few frames for page tables.
    NoFrames {
        /// Tables needed.
        needed: u64,
        /// Frames there were.
        had: u64,
    },
    /// No frame for the books.
    NoBooks,
    /// The books have as many changed ranges as they may have.
    Full {
        /// So many.
        limit: u64,
    },
    /// The tables do not allow it.
    Tables(EditError),
}

impl From<EditError> for Problem {
    fn from(error: EditError) -> Self {
        match error.reason {
            Reason::WriteExecute { page } => Self::WriteExecute { page },
            Reason::NotMapped { page } => Self::NotMapped(page),
            _ => Self::Tables(error),
        }
    }
}

impl From<TypeError> for Problem {
    fn from(error: TypeError) -> Self {
        Self::Type(error)
    }
}

impl fmt::Display for PermissionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.change {
            Some(change) => write!(f, "make {change}: ")?,
            None => f.write_str("restore: ")?,
        }
        match VirtRange::try_new(self.start, self.bytes) {
            Ok(range) => write!(f, "{range}: ")?,
            Err(_) => write!(f, "{} bytes from {} on: ", self.bytes, self.start)?,
        }
        self.problem.write(f, self.change)?;
        f.write_str("; nothing was changed")
    }
}

impl Problem {
    fn write(&self, f: &mut fmt::Formatter<'_>, change: Option<Change>) -> fmt::Result {
        match *self {
            Self::Empty => f.write_str("ask for at least one page"),
            Self::Unaligned => f.write_str("start and size must be multiples of 4 KiB"),
            Self::Wraps => {
                f.write_str("goes past the last address of its half; check the size")
            }
            Self::Atomic => f.write_str(
                "all CPUs must be waited for, which cannot be done with a lock held or in an interrupt handler; do it later",
            ),
            Self::Elsewhere(place) => write!(
                f,
                "{place} is not to be changed; only the direct map, the kernel image and areas mapped on demand are"
            ),
            Self::Beyond(whole) => write!(f, "goes on outside {whole}; keep to it"),
            Self::NotInUse { page, area: None } => {
                write!(f, "no area has page {page}; check the address")
            }
            Self::NotInUse {
                page,
                area: Some(area),
            } => {
                let what = if area.range.contains(page) {
                    "in the freed"
                } else {
                    "the guard page of the"
                };
                let size = ByteSize(area.range.size());
                write!(f, "page {page} is {what} {} area {} ({size}); keep to what is in use", area.kind, area.range)
            }
            Self::NotMapped(page) => write!(f, "page {page} is not mapped; leave it out"),
            Self::DirectMap => f.write_str(
                "nothing in the direct map is ever executable; map the frames in an area, and ask for it there",
            ),
            Self::WriteExecute { page } => {
                let (other, first) = if change == Some(Change::Executable) {
                    ("writable", "read-only")
                } else {
                    ("executable", "not executable")
                };
                write!(
                    f,
                    "page {page} is {other}, and writable and executable together is refused; make it {first} first"
                )
            }
            Self::Image { section, page } => write!(
                f,
                "page {page} is of the kernel's {}, which stays as it is; keep to other memory",
                section.name()
            ),
            Self::NotPresent(page) => {
                write!(f, "page {page} is not present; make it present first")
            }
            Self::ByArea(page) => write!(
                f,
                "page {page} is an area's, or has its memory type through an area that maps the same frame; change it in that area, for both"
            ),
            Self::Code(area) => write!(
                f,
                "{area} is for code, which becomes executable when it is sealed, and data when it is dropped"
            ),
            Self::ForUsers(area) => write!(
                f,
                "{area} is for user spaces too, which would go on writing to it with the memory type that it has; use another area"
            ),
            Self::Device(area) => write!(
                f,
                "{area} is a device's, whose memory type is chosen when it is mapped; unmap it and map it with the other type"
            ),
            Self::Type(error) => write!(f, "{error}"),
            Self::NoFrames { needed, had } => write!(
                f,
                "large pages must be split, which takes {needed} tables, and there were frames for {had}; free some memory"
            ),
            Self::NoBooks => f.write_str("no frame to write it down; free some memory"),
            Self::Full { limit } => write!(
                f,
                "{limit} ranges are changed, and there can be no more; restore some, or change larger ranges"
            ),
            Self::Tables(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for PermissionError {}
