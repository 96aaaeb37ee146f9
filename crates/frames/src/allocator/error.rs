//! What can be wrong with a request, and how it is said.

use core::fmt;

use kspace_layout::{FRAME_SIZE, Pfn};

use super::index::Order;
use super::record::History;

/// Why nothing was allocated. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocError {
    /// No free block of that order.
    Exhausted {
        /// What was asked for.
        order: Order,
        /// Free frames, all in smaller blocks.
        free: usize,
        /// Frames that CPUs keep: [`request_drain`](super::FrameAllocator::request_drain) gets them back.
        cached: usize,
    },
    /// No free range of that length within the limits.
    NoRange {
        /// Frames asked for.
        frames: usize,
        /// The alignment, in frames.
        align: usize,
        /// The last frame it could have.
        last: Pfn,
        /// Free frames, anywhere.
        free: usize,
    },
    /// Not as many frames as that in blocks of any order.
    TooFew {
        /// Frames asked for.
        frames: usize,
        /// Frames that were missing. The others were given and are the caller's to drop.
        missing: usize,
    },
    /// No frames were asked for.
    ZeroFrames,
    /// The alignment is no power of two.
    Alignment {
        /// The alignment, in frames.
        align: usize,
    },
    /// All of the span lies above the limit.
    BelowLimit {
        /// The first frame of the span.
        start: Pfn,
        /// The last frame that would do.
        last: Pfn,
    },
    /// The allocator was made for fewer CPUs.
    NoSuchCpu {
        /// The CPU's number.
        cpu: u16,
        /// How many there are.
        cpus: usize,
    },
}

/// A number of frames as a size: `1234 frames (4936 KiB)`.
struct Frames(usize);

impl fmt::Display for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No more than can be said in 64 bits: who asks for more is told a size that is large enough.
        let kib = (self.0 as u64).saturating_mul(FRAME_SIZE / 1024);
        let (size, unit) = match kib {
            0 => (0, "KiB"),
            kib if kib % (1 << 20) == 0 => (kib >> 20, "GiB"),
            kib if kib % (1 << 10) == 0 => (kib >> 10, "MiB"),
            kib => (kib, "KiB"),
        };
        write!(f, "{} frames ({size} {unit})", self.0)
    }
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("frames: ")?;
        match *self {
            Self::Exhausted {
                order,
                free,
                cached,
            } => write!(
                f,
                "{order}: no free block; {} free, {} kept by CPUs; free some or drain the CPUs",
                Frames(free),
                Frames(cached)
            ),
            Self::NoRange {
                frames,
                align,
                last,
                free,
            } => write!(
                f,
                "contiguous {} aligned to {align} frames up to {:016x}: none; {} free; ask for smaller pieces",
                Frames(frames),
                last.start().as_u64() | (FRAME_SIZE - 1),
                Frames(free)
            ),
            Self::TooFew { frames, missing } => write!(
                f,
                "{} in blocks: {} are missing; drop the rest and free some",
                Frames(frames),
                Frames(missing)
            ),
            Self::ZeroFrames => f.write_str("zero frames were asked for; ask for at least one"),
            Self::Alignment { align } => {
                write!(f, "alignment of {align} frames: it is no power of two")
            }
            Self::BelowLimit { start, last } => write!(
                f,
                "address limit {:016x} lies below the first frame {}; use another zone",
                last.start().as_u64() | (FRAME_SIZE - 1),
                start.start()
            ),
            Self::NoSuchCpu { cpu, cpus } => write!(
                f,
                "CPU {cpu} of an allocator made for {cpus}; give it a slot for each CPU"
            ),
        }
    }
}

impl core::error::Error for AllocError {}

/// Why a block was not taken back. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeError {
    pub(super) pfn: Pfn,
    pub(super) order: Order,
    pub(super) problem: FreeProblem,
}

impl FreeError {
    /// The first frame of what was to be freed.
    #[must_use]
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// What was wrong.
    #[must_use]
    pub fn problem(&self) -> FreeProblem {
        self.problem
    }
}

/// What is wrong with a block that is to be freed, or otherwise changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeProblem {
    /// It is not in the allocator's span.
    Outside {
        /// The span's first frame.
        first: Pfn,
        /// Its last frame.
        last: Pfn,
    },
    /// A block of that order cannot begin there.
    Misaligned,
    /// It is no memory, or memory that was never given to the allocator.
    Reserved,
    /// It was never handed out.
    NeverAllocated,
    /// It is free already: a double free.
    AlreadyFree(History),
    /// It was handed out with another order.
    WrongOrder(History),
    /// It lies inside a block.
    Inside {
        /// The block's first frame.
        head: Pfn,
        /// What is known of the block.
        block: History,
    },
    /// Page tables point to it.
    Mapped(History),
    /// No page table points to it, as far as its record says.
    NotMapped(History),
    /// Others hold it, too.
    Shared(History),
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.pfn.start();
        write!(f, "frames: free of {start}, {}: ", self.order)?;
        match self.problem {
            FreeProblem::Outside { first, last } => write!(
                f,
                "not in the span {}-{:016x}",
                first.start(),
                last.start().as_u64() | (FRAME_SIZE - 1)
            ),
            FreeProblem::Misaligned => f.write_str("a block of that order does not begin there"),
            FreeProblem::Reserved => f.write_str("reserved, never the allocator's to hand out"),
            FreeProblem::NeverAllocated => f.write_str("never handed out"),
            FreeProblem::AlreadyFree(history) => write!(f, "free already ({history})"),
            FreeProblem::WrongOrder(history) => write!(f, "of another order ({history})"),
            FreeProblem::Inside { head, block } => {
                write!(f, "inside the block at {} ({block})", head.start())
            }
            FreeProblem::Mapped(history) => write!(f, "mapped ({history}); unmap it first"),
            FreeProblem::NotMapped(history) => {
                write!(f, "not mapped ({history}); free it as a block")
            }
            FreeProblem::Shared(history) => write!(f, "shared ({history}); drop one reference"),
        }?;
        f.write_str("; nothing was changed")
    }
}

impl core::error::Error for FreeError {}
