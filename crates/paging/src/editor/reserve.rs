//! Frames set aside before the first change, so that the change itself cannot run out of them.

use kspace_layout::PhysAddr;

use crate::frame_list::FrameList;
use crate::{EntryFormat, FrameSource, PhysMemory, RawEntry};

use super::{Editor, Reason};

/// Frames of zeros for new tables, as many as the survey asked for.
pub(super) struct Reserve {
    list: FrameList,
}

impl<F: EntryFormat, M: PhysMemory, S: FrameSource> Editor<'_, F, M, S> {
    /// Sets `needed` frames aside, or none.
    pub(super) fn reserve(&self, needed: usize) -> Result<Reserve, Reason> {
        let mut reserve = Reserve {
            list: FrameList::EMPTY,
        };
        while reserve.list.count() < needed {
            let Some(frame) = self.frames.allocate() else {
                let available = reserve.list.count();
                self.release(reserve);
                return Err(Reason::OutOfFrames { needed, available });
            };
            if frame.as_u64() >= F::FORMAT.table_limit(self.limits)
                || !reserve.list.push::<F>(frame, self.memory)
            {
                self.frames.release(frame);
                self.release(reserve);
                return Err(Reason::UnusableFrame(frame));
            }
        }
        Ok(reserve)
    }

    /// Takes a frame of zeros out.
    pub(super) fn take(&self, reserve: &mut Reserve) -> PhysAddr {
        reserve
            .list
            .pop(self.memory)
            .expect("the survey counted too few tables")
    }

    /// Puts back a frame that was taken and not used, with whatever was written to it.
    pub(super) fn put_back(&self, reserve: &mut Reserve, frame: PhysAddr) {
        for slot in self.reached(frame, 1) {
            F::Raw::store(slot, 0);
        }
        reserve.list.push::<F>(frame, self.memory);
    }

    /// Gives what is left to the source.
    pub(super) fn release(&self, reserve: Reserve) {
        reserve.list.release(self.memory, self.frames);
    }
}
