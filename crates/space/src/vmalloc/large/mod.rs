//! Large areas: more pages than a chunk takes, or a larger alignment. They are refused so far.

use core::panic::Location;

use kspace_layout::{Pfn, VirtAddr, VirtRange};
use kspace_paging::Invalidation;

use super::allocate::Checked;
use super::caller::Caller;
use super::error::{FreeError, FreeProblem};
use super::state::Vmalloc;
use super::{AreaError, AreaInfo, AreaRequest, Kernel, Purged, Totals};

/// The books on large areas.
#[derive(Debug)]
pub(super) struct Large {}

impl Large {
    pub(super) const fn new() -> Self {
        Self {}
    }
}

impl<K: Kernel, const CPUS: usize> Vmalloc<'_, K, CPUS> {
    /// A large area with frames of its own.
    #[cold]
    pub(super) fn allocate_large(
        &self,
        request: &AreaRequest,
        _checked: Checked,
        _caller: Caller,
    ) -> Result<VirtRange, AreaError> {
        Err(self.too_large(request))
    }

    /// A large area that maps given frames.
    #[cold]
    pub(super) fn map_large(
        &self,
        request: &AreaRequest,
        _checked: Checked,
        _caller: Caller,
        _frame: &impl Fn(u64) -> Pfn,
    ) -> Result<VirtRange, AreaError> {
        Err(self.too_large(request))
    }

    fn too_large(&self, request: &AreaRequest) -> AreaError {
        AreaError::TooLarge {
            bytes: request.bytes,
            within: self.area(),
        }
    }

    /// Frees what begins at an address that lies in no chunk.
    #[cold]
    pub(super) fn free_large(
        &self,
        start: VirtAddr,
        caller: &'static Location<'static>,
    ) -> Result<(), FreeError> {
        Err(FreeError {
            address: start,
            caller,
            problem: FreeProblem::NoArea,
        })
    }

    /// The large area that an address lies in, or in whose guard.
    pub(super) fn find_large(&self, _address: VirtAddr) -> Option<AreaInfo> {
        None
    }

    /// The first large area that begins at or after an address.
    pub(super) fn next_large(&self, _from: VirtAddr) -> Option<AreaInfo> {
        None
    }

    /// The totals with large areas in them.
    pub(super) fn add_large(&self, small: Totals) -> Totals {
        small
    }

    /// Takes all freed large areas for the purge under way: what the CPUs must forget, if there are some.
    pub(super) fn gather_large(&self) -> Option<Invalidation> {
        None
    }

    /// Gives back what [`gather_large`](Self::gather_large) took, after the flush.
    pub(super) fn release_large(&self, _purged: &mut Purged) {}
}
