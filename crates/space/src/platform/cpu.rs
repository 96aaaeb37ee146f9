//! The CPU that runs the caller: [`Cpu`], and what the library complains of to it.

use core::fmt;
use core::panic::Location;

use kspace_layout::{VirtAddr, VirtRange};

use super::{CpuId, CpuMask};

/// The CPU that runs the caller.
///
/// # Safety
///
/// Frames are given to others on the word of these answers:
/// - two CPUs that run at the same time have different [`id`](Self::id)s, and a CPU keeps its id;
/// - while a value that [`pin`](Self::pin) returned lives, the caller stays on its CPU.
pub unsafe trait Cpu {
    /// Keeps the caller on its CPU as long as it lives. Interrupts may still come. A kernel that never preempts itself takes `()`.
    type Pin;

    /// Which CPU this is. The answer holds only as long as the caller is pinned, or cannot be moved for another reason.
    fn id(&self) -> CpuId;

    /// Keeps the caller on this CPU.
    fn pin(&self) -> Self::Pin;

    /// Whether the caller must not wait for other CPUs: it holds a spin lock, or runs in an interrupt handler.
    ///
    /// Interrupts being off is no reason by itself: who waits for a flush serves the flushes of others meanwhile. But one that
    /// spins for a lock with interrupts off does not, and if the lock's holder waits for it, both wait forever.
    fn is_atomic(&self) -> bool;

    /// Called in every turn of a loop that waits for another CPU.
    #[inline]
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// Takes note of something that must not be, in whatever way suits: usually in the log.
    fn report(&self, complaint: &Complaint);
}

/// Something that must not be and was survived. Its [`Display`](fmt::Display) form is for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// A flush on other CPUs was waited for where waiting is forbidden. A build with debug assertions panics instead.
    WaitInAtomicContext {
        /// The CPU that waited.
        cpu: CpuId,
    },
    /// CPUs have not answered for a long time. The wait goes on: giving up would give frames away that they may still use.
    Unanswered {
        /// The CPU that waits.
        cpu: CpuId,
        /// Those that it waits for.
        waiting_for: CpuMask,
        /// The generation that they have yet to reach.
        generation: u64,
    },
    /// A freed area is not as its freer left it: see [`Debug::poison`](crate::vmalloc::Debug::poison).
    WrittenAfterFree(WrittenAfterFree),
}

/// What was found in a freed area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrittenAfterFree {
    /// Where the area was.
    pub area: VirtRange,
    /// Where in it the first wrong word was, whatever address it was written by.
    pub address: VirtAddr,
    /// What is there instead of the pattern.
    pub value: u64,
    /// Who made the area, if that is known.
    pub made_by: Option<&'static Location<'static>>,
    /// Who freed it, if that is known.
    pub freed_by: Option<&'static Location<'static>>,
}

impl fmt::Display for WrittenAfterFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            area,
            address,
            value,
            made_by,
            freed_by,
        } = self;
        write!(
            f,
            "vmalloc: the area {area} was written after it was freed: {value:#018x} at {address}"
        )?;
        if let Some(place) = made_by {
            write!(f, "; allocated by {place}")?;
        }
        if let Some(place) = freed_by {
            write!(f, "; freed by {place}")?;
        }
        f.write_str("; look for who still uses it then, or has its frames mapped elsewhere")
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WaitInAtomicContext { cpu } => write!(
                f,
                "shootdown: CPU {cpu} waits for a flush in atomic context (a lock held, or in an interrupt handler); \
                 flush after it, or leave the token to a quarantine"
            ),
            Self::Unanswered {
                cpu,
                waiting_for,
                generation,
            } => write!(
                f,
                "shootdown: CPU {cpu} still waits for CPU {waiting_for} to reach generation {generation}; \
                 look there for interrupts kept off"
            ),
            Self::WrittenAfterFree(found) => found.fmt(f),
        }
    }
}
