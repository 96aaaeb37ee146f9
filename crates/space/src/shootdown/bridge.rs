//! Flush tokens are flushed by the protocol: [`Flush::flush`](kspace_paging::Flush::flush) takes a [`Shootdown`].

use kspace_paging::Invalidation;

use super::{Probe, Shootdown};
use crate::platform::{Cpu, Tlb};

impl<P: Cpu + Tlb, const CPUS: usize, const SLOTS: usize, W: Probe> kspace_paging::Tlb
    for Shootdown<P, CPUS, SLOTS, W>
{
    fn invalidate(&self, invalidation: &Invalidation) {
        Shootdown::invalidate(self, invalidation);
    }
}
