//! The platform of a machine in which one CPU runs, and nothing interrupts it.

use core::fmt;
use core::marker::PhantomData;

use kspace_frames::PinnedCpu;
use kspace_frames::zone::NodeId;

use crate::platform::{Complaint, Cpu, CpuId, CpuMask, Interrupts, LocalFlush, Tlb, TlbFeatures};
use crate::vmalloc::Pinned;

/// The only CPU, on which no interrupt handler uses the library.
#[derive(Clone, Copy)]
pub struct OneCpu {
    features: TlbFeatures,
    flush: fn(LocalFlush),
    report: fn(&Complaint),
}

impl OneCpu {
    /// The CPU with these features. `flush` executes one invalidation; with [`TlbFeatures::plain`] it is asked for
    /// [`LocalFlush::Page`] (`INVLPG`) and [`LocalFlush::LoadRoot`] (write CR3 with what it holds) only. `report` logs.
    ///
    /// # Safety
    ///
    /// - No other CPU runs kernel code; and handlers of interrupts, if there are any, use nothing that is built on this value. Those of
    ///   faults may [explain](super::Space::explain) them;
    /// - `features` is true, and `flush` returns when the CPU has done what the variant says.
    #[must_use]
    pub const unsafe fn new(
        features: TlbFeatures,
        flush: fn(LocalFlush),
        report: fn(&Complaint),
    ) -> Self {
        Self {
            features,
            flush,
            report,
        }
    }
}

impl fmt::Debug for OneCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OneCpu").field(&self.features).finish()
    }
}

// SAFETY: by the contract of `new` there is one CPU, and nothing to move the caller to another.
unsafe impl Cpu for OneCpu {
    type Pin = ();

    fn id(&self) -> CpuId {
        CpuId::new(0)
    }

    fn pin(&self) {}

    fn is_atomic(&self) -> bool {
        false
    }

    fn report(&self, complaint: &Complaint) {
        (self.report)(complaint);
    }
}

// SAFETY: by the contract of `new`. There is no CPU to interrupt.
unsafe impl Tlb for OneCpu {
    fn features(&self) -> TlbFeatures {
        self.features
    }

    fn perform(&self, flush: LocalFlush) {
        (self.flush)(flush);
    }

    fn interrupt(&self, _targets: &CpuMask) {}
}

/// Nothing interrupts; so this keeps nothing off, and is the frame allocator's proof of it.
#[derive(Debug)]
pub struct OneCpuOff {
    /// It belongs to the one CPU.
    here: PhantomData<*const ()>,
}

struct OnlyPin(PinnedCpu);

// SAFETY: whoever has an `OneCpu` has promised that only one CPU runs, and only it gets here, by an `OneCpuOff`.
unsafe impl Sync for OnlyPin {}

// SAFETY: the one proof about the one CPU, only ever lent.
static PIN: OnlyPin = OnlyPin(unsafe { PinnedCpu::new(0) });

impl Pinned for OneCpuOff {
    fn pin(&self) -> &PinnedCpu {
        &PIN.0
    }

    fn home(&self) -> NodeId {
        NodeId::ZERO
    }
}

// SAFETY: by the contract of `new` no handler that uses the library ever runs.
unsafe impl Interrupts for OneCpu {
    type Off = OneCpuOff;

    fn interrupts_off(&self) -> OneCpuOff {
        OneCpuOff { here: PhantomData }
    }
}
