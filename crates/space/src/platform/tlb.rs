//! The TLB of the CPU that runs the caller, and the way to those of the others.

use kspace_layout::{PagingMode, VirtAddr};

use super::CpuMask;

/// An invalidation on this CPU: one instruction, or two. What each invalidates is Intel SDM vol. 3, section 5.10.4.1.
///
/// ```text
///                  translations                                     upper-level entries (PML5E to PDE)
///   Page           of one page: current PCID, and global ones       all of the current PCID
///   LoadRoot       all but global: current PCID                     all of the current PCID; PAE's four root entries
///   ToggleGlobal   all: every PCID, and global ones                 all
///   EveryContext   all but global: every PCID                       all
///   Everything     all: every PCID, and global ones                 all
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LocalFlush {
    /// `INVLPG` of this address. Once is enough for a large page.
    Page(VirtAddr),
    /// CR3 is written with what it holds, bit 63 clear.
    LoadRoot,
    /// CR4.PGE is changed and changed back, both by a write to CR4. Nothing may come between: interrupts off. Used only with global
    /// pages or PCIDs; every CPU that has PCIDs has the bit.
    ToggleGlobal,
    /// `INVPCID` of type 3. Used only where [`TlbFeatures`] has it.
    EveryContext,
    /// `INVPCID` of type 2. Used only where [`TlbFeatures`] has it.
    Everything,
}

/// What the CPUs' TLBs have, and how the kernel uses it. All CPUs are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlbFeatures {
    /// The paging mode that the CPUs run in.
    pub mode: PagingMode,
    /// CR4.PGE is set: translations can be global.
    pub global_pages: bool,
    /// CR4.PCIDE is set: translations of several roots are kept at once.
    pub contexts: bool,
    /// The CPUs have `INVPCID` (CPUID 7, EBX bit 10).
    pub invpcid: bool,
    /// Every page that is mapped in all address spaces is global. Then with PCIDs one `INVLPG` reaches it under all of them;
    /// otherwise a range in those pages takes a flush of everything.
    pub shared_is_global: bool,
}

impl TlbFeatures {
    /// A machine with none of the extras.
    #[must_use]
    pub const fn plain(mode: PagingMode) -> Self {
        Self {
            mode,
            global_pages: false,
            contexts: false,
            invpcid: false,
            shared_is_global: false,
        }
    }

    /// With global pages, used for everything that all address spaces share.
    #[must_use]
    pub const fn with_global_pages(self) -> Self {
        Self {
            global_pages: true,
            shared_is_global: true,
            ..self
        }
    }

    /// With PCIDs.
    #[must_use]
    pub const fn with_contexts(self) -> Self {
        Self {
            contexts: true,
            ..self
        }
    }

    /// With `INVPCID`.
    #[must_use]
    pub const fn with_invpcid(self) -> Self {
        Self {
            invpcid: true,
            ..self
        }
    }
}

/// The TLB of this CPU, and the way to those of the others.
///
/// # Safety
///
/// Frames are given to others on the word of these calls:
/// - [`features`](Self::features) is true of every CPU that takes part;
/// - [`perform`](Self::perform) returns when the CPU has done what the variant says;
/// - [`interrupt`](Self::interrupt) makes every target call [`serve`](crate::shootdown::Shootdown::serve) later, as soon as it accepts
///   interrupts.
pub unsafe trait Tlb {
    /// What the CPUs have. Asked in every flush, so it should be a load at most.
    fn features(&self) -> TlbFeatures;

    /// Executes one invalidation on this CPU.
    fn perform(&self, flush: LocalFlush);

    /// Sends the shootdown interrupt to each of `targets`, this CPU not among them; does not wait. All that this CPU has stored
    /// before must be visible to the handlers: writes to an x2APIC register need `MFENCE; LFENCE` before them (Intel SDM vol. 3,
    /// section 12.12.3).
    fn interrupt(&self, targets: &CpuMask);

    /// Executes a serializing instruction (Intel SDM vol. 3, section 9.3): what this CPU has fetched and decoded ahead is dropped, and what
    /// it executes next it fetches anew. `CPUID` does it everywhere; a kernel has cheaper ones, like a write to CR2.
    #[inline]
    fn serialize(&self) {
        serialize_by_cpuid();
    }

    /// Serves whatever else the shootdown interrupt serves: the protocols of user spaces, besides the kernel's. Called in every turn of
    /// waiting for one of them, because two CPUs that wait for each other in two protocols, both with interrupts off, would wait
    /// forever. A kernel with one protocol leaves this as it is.
    #[inline]
    fn serve_others(&self) {}
}

/// `CPUID`, which every program may execute.
#[inline]
fn serialize_by_cpuid() {
    #[cfg(target_arch = "x86")]
    use core::arch::x86::__cpuid;
    #[cfg(target_arch = "x86_64")]
    use core::arch::x86_64::__cpuid;
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    core::hint::black_box(__cpuid(0));
}
