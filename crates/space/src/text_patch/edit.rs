//! What is to be changed: [`Edit`], and what can be said about it before anything is looked at.

use kspace_layout::{VirtAddr, VirtRange};

use super::PatchError;
use super::instruction::{BREAKPOINT, Effect, LONGEST, effect};

/// One instruction that is to become another one of the same length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit<'b> {
    /// Where it is.
    pub at: VirtAddr,
    /// Its bytes now.
    pub old: &'b [u8],
    /// Its bytes afterwards.
    pub new: &'b [u8],
}

impl Edit<'_> {
    /// Its addresses.
    pub(super) fn range(&self) -> Result<VirtRange, PatchError> {
        let Self { at, old, new } = *self;
        if old.is_empty() || old.len() > LONGEST || old.len() != new.len() {
            return Err(PatchError::Length {
                at,
                old: old.len(),
                new: new.len(),
            });
        }
        VirtRange::try_new(at, old.len() as u64).map_err(|_| PatchError::Wraps(at))
    }

    /// What a CPU does that runs into the breakpoint meanwhile: as the new instruction, or if that cannot be stood in for, as the old one.
    /// `None`: there is no breakpoint, since one byte is replaced whole.
    pub(super) fn meanwhile(&self) -> Result<Option<Effect>, PatchError> {
        let Self { at, old, new } = *self;
        if old.first() == Some(&BREAKPOINT) || new.first() == Some(&BREAKPOINT) {
            return Err(PatchError::Breakpoint(at));
        }
        if old.len() == 1 {
            return Ok(None);
        }
        let effect = effect(at, new).or_else(|| effect(at, old));
        effect.map(Some).ok_or(PatchError::NoStandIn(at))
    }
}
