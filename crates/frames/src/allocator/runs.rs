//! Many frames in as few blocks as there are: what memory behind virtual ranges wants.

use super::cache::PinnedCpu;
use super::error::AllocError;
use super::index::Order;
use super::record::Owner;
use super::{Block, FrameAllocator};

impl FrameAllocator<'_> {
    /// `frames` frames in blocks of the largest orders there are, from `largest` down to `smallest`, each given to `sink`.
    ///
    /// With a `smallest` above single frames, the last block may have more frames than are left to give.
    ///
    /// # Errors
    ///
    /// [`AllocError::ZeroFrames`]; [`AllocError::TooFew`]: the blocks given until then are the caller's, and dropping them
    /// undoes the call. [`AllocError::NoSuchCpu`].
    pub fn allocate_runs<'a>(
        &'a self,
        pin: &PinnedCpu,
        frames: usize,
        largest: Order,
        smallest: Order,
        owner: Owner,
        mut sink: impl FnMut(Block<'a>),
    ) -> Result<(), AllocError> {
        let mut left = frames;
        let mut order = Order::largest_in(frames)
            .ok_or(AllocError::ZeroFrames)?
            .min(largest);
        while let Some(fits) = Order::largest_in(left) {
            order = order.min(fits).max(smallest);
            match self.allocate(pin, order, owner) {
                Ok(block) => {
                    left = left.saturating_sub(order.frames());
                    sink(block);
                }
                Err(error @ AllocError::NoSuchCpu { .. }) => return Err(error),
                Err(_) => match order.smaller().filter(|&next| next >= smallest) {
                    Some(next) => order = next,
                    None => {
                        return Err(AllocError::TooFew {
                            frames,
                            missing: left,
                        });
                    }
                },
            }
        }
        Ok(())
    }
}
