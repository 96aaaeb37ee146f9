//! Flush tokens are flushed by the protocol: [`Flush::flush`](kspace_paging::Flush::flush) takes a [`Shootdown`].

use kspace_paging::Invalidation;

use super::{Probe, Shootdown};
use crate::platform::{Cpu, Tlb};

// SAFETY: the protocol returns when every CPU has forgotten, or cannot use what it holds before it has; see its module. The platform's
// own promises are part of its unsafe traits.
unsafe impl<P: Cpu + Tlb, const CPUS: usize, const SLOTS: usize, W: Probe> kspace_paging::Tlb
    for Shootdown<P, CPUS, SLOTS, W>
{
    fn invalidate(&self, invalidation: &Invalidation) {
        Shootdown::invalidate(self, invalidation);
    }
}
