//! What can be wrong, and how it is said.

use core::fmt;
use core::panic::Location;

use kspace_layout::{ByteSize, FRAME_SIZE, VirtAddr, VirtRange};
use kspace_paging::Protection;

use super::Kind;

/// Why there is no area. Nothing was changed; what had to be undone is undone by the next purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AreaError {
    /// No bytes were asked for.
    Empty,
    /// More than the whole of the address space there is for areas.
    TooLarge {
        /// What was asked for.
        bytes: u64,
        /// Where it would have to be.
        within: VirtRange,
    },
    /// The alignment is no power of two.
    Alignment {
        /// What was asked for.
        align: u64,
    },
    /// The kind of area has frames of its own, or has none, and the call is for the other sort.
    Kind(super::Kind),
    /// An area of this kind, or an executable one, is not for user spaces.
    UserMappable(super::Kind),
    /// An area for that kind must not have these rights.
    Protection {
        /// What was asked for.
        protection: Protection,
        /// For what.
        kind: super::Kind,
        /// What is wrong with it.
        problem: ProtectionProblem,
    },
    /// In an interrupt handler, or with a lock held.
    AtomicContext,
    /// Nowhere are so many pages free in one piece, though all that was freed has been purged.
    NoSpace {
        /// What was asked for, with the guard page.
        pages: u64,
        /// At a multiple of so many.
        align: u64,
        /// The longest free piece, outside chunks.
        largest: u64,
        /// Where it would have to be.
        within: VirtRange,
    },
    /// More pages than the machine has frames.
    BeyondMemory {
        /// What was asked for.
        pages: u64,
        /// Frames of the machine.
        memory: u64,
    },
    /// Frames for the area ran out, though all that was freed has been purged.
    NoFrames {
        /// Pages asked for.
        pages: u64,
        /// Pages that had got their frames; they are given back.
        filled: u64,
    },
    /// Frames for a page table or the books on areas ran out.
    NoTables,
}

/// Why an area must not have such rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtectionProblem {
    /// The kernel's addresses are not for user mode.
    User,
    /// Nothing is born executable: whoever fills it could not have written it.
    Executable,
    /// RAM is cached as memory everywhere: two types for one frame are a machine check on some CPUs (Intel SDM vol. 3, section 13.12.4).
    Cache,
}

impl fmt::Display for ProtectionProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user mode has no right here; map it in a user space",
            Self::Executable => {
                "nothing is made executable; ask for executable memory, and seal it"
            }
            Self::Cache => "RAM is write-back everywhere; ask for write-back",
        })
    }
}

impl fmt::Display for AreaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("vmalloc: ")?;
        match *self {
            Self::Empty => f.write_str("no bytes were asked for; ask for at least one"),
            Self::TooLarge { bytes, within } => write!(
                f,
                "{bytes:#x} bytes: more than all of {within} ({:#x} bytes)",
                within.size()
            ),
            Self::Alignment { align } => {
                write!(f, "alignment {align:#x}: it is no power of two")
            }
            Self::Kind(kind) if kind.owns_frames() => {
                write!(f, "an area for {kind} has frames of its own; give none")
            }
            Self::Kind(kind) => write!(f, "an area for {kind} has no frames of its own; give some"),
            Self::UserMappable(kind) => write!(
                f,
                "an area for {kind} was asked for as one for user spaces; only memory that is not executable can be"
            ),
            Self::Protection { kind, problem, .. } => {
                write!(f, "an area for {kind} with such rights: {problem}")
            }
            Self::AtomicContext => f.write_str(
                "in atomic context (a lock held, or in an interrupt handler); allocate before it",
            ),
            Self::NoSpace {
                pages,
                align,
                largest,
                within,
            } => write!(
                f,
                "no {pages} free pages in one piece at a multiple of {align} in {within}; the longest piece has {largest}"
            ),
            Self::BeyondMemory { pages, memory } => write!(
                f,
                "{pages} pages ({}) are asked for, and the machine has {memory} ({}); ask for less",
                ByteSize(pages * FRAME_SIZE),
                ByteSize(memory * FRAME_SIZE)
            ),
            Self::NoFrames { pages, filled } => write!(
                f,
                "out of memory at page {filled} of {pages} ({} KiB); free some, or ask for less",
                pages * (FRAME_SIZE / 1024)
            ),
            Self::NoTables => f.write_str("out of memory for page tables and books; free some"),
        }
    }
}

impl core::error::Error for AreaError {}

/// Why nothing was freed. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeError {
    pub(super) address: VirtAddr,
    pub(super) caller: &'static Location<'static>,
    pub(super) problem: FreeProblem,
}

/// What is wrong with an address that is to be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeProblem {
    /// It does not lie where areas lie.
    Outside(VirtRange),
    /// No area begins there, nor ever did, as far as is known.
    NoArea,
    /// It lies inside an area.
    Inside(VirtRange),
    /// It has been freed before.
    Freed {
        /// By whom, if that is known.
        by: Option<&'static Location<'static>>,
        /// What it was.
        range: VirtRange,
    },
    /// Pages of the area are [changed](crate::permissions), in other places too, where the next who has their frames would find them so.
    Changed(VirtRange),
    /// A short mapping begins there, of another number of pages.
    Pages {
        /// What it is.
        range: VirtRange,
        /// As how many pages it was to be unmapped.
        pages: u64,
    },
    /// It is no short mapping, and was to be unmapped as one.
    Kind {
        /// What it is.
        range: VirtRange,
        /// Of which kind.
        kind: Kind,
    },
}

impl FreeError {
    pub(super) const fn new(
        address: VirtAddr,
        caller: &'static Location<'static>,
        problem: FreeProblem,
    ) -> Self {
        Self {
            address,
            caller,
            problem,
        }
    }

    /// What was to be freed.
    #[must_use]
    pub const fn address(&self) -> VirtAddr {
        self.address
    }

    /// Who wanted to free it.
    #[must_use]
    pub const fn caller(&self) -> &'static Location<'static> {
        self.caller
    }

    /// What is wrong.
    #[must_use]
    pub const fn problem(&self) -> FreeProblem {
        self.problem
    }
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vfree {} by {}: ", self.address, self.caller)?;
        match self.problem {
            FreeProblem::Outside(area) => write!(f, "not in {area}, where areas are"),
            FreeProblem::NoArea => f.write_str("no area begins there"),
            FreeProblem::Inside(range) => write!(
                f,
                "inside the area {range}; free it by its start, {}",
                range.start()
            ),
            FreeProblem::Freed { by, range } => {
                write!(f, "a double free: the area {range} was freed before")?;
                match by {
                    Some(by) => write!(f, ", by {by}"),
                    None => Ok(()),
                }
            }
            FreeProblem::Changed(range) => write!(
                f,
                "pages of the area {range} are changed; restore them first"
            ),
            FreeProblem::Pages { range, pages } => write!(
                f,
                "{pages} pages of a short mapping, {range}, that has {}; unmap it whole",
                range.size() / FRAME_SIZE
            ),
            FreeProblem::Kind { range, kind } => {
                write!(f, "{range} is no short mapping but for {kind}; free it")
            }
        }?;
        f.write_str("; nothing was changed")
    }
}

impl core::error::Error for FreeError {}
