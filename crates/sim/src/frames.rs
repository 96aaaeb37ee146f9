//! A source of frames that counts, fails on demand, and never forgets whom a frame belonged to.

use std::sync::{Mutex, MutexGuard};

use kspace_layout::{FRAME_SIZE, Pfn, PhysAddr, PhysRange};
use kspace_paging::FrameSource;

use crate::SimMemory;

/// Frames of a range of [`SimMemory`]. A frame that was just released is the first to be handed out again, which is the worst for
/// whoever still uses it.
pub struct SimFrames<'m> {
    memory: &'m SimMemory,
    range: PhysRange,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    free: Vec<Pfn>,
    /// The frames handed out at least once, from the start of the range.
    frames: Vec<Frame>,
    in_use: usize,
    /// Allocations until failure, if failure is asked for.
    budget: Option<usize>,
}

#[derive(Clone, Copy, Default)]
struct Frame {
    /// How often it was released.
    releases: u64,
    in_use: bool,
}

impl<'m> SimFrames<'m> {
    /// All frames of `range`, to be handed out in ascending order.
    #[must_use]
    pub fn new(memory: &'m SimMemory, range: PhysRange) -> Self {
        Self {
            memory,
            range,
            state: Mutex::default(),
        }
    }

    /// Lets `count` more allocations succeed, and fails the ones after; `None`: fails only when the range is used up.
    pub fn set_budget(&self, count: Option<usize>) {
        self.state().budget = count;
    }

    /// How many frames are handed out.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.state().in_use
    }

    /// How often `frame` has been released. A translation to it that is older than the last release is stale.
    #[must_use]
    pub fn releases(&self, frame: Pfn) -> u64 {
        let index = self.index(frame);
        self.state()
            .frames
            .get(index)
            .map_or(0, |frame| frame.releases)
    }

    /// The frames handed out, in ascending order.
    #[must_use]
    pub fn used(&self) -> Vec<Pfn> {
        let state = self.state();
        let frames = state.frames.iter().enumerate();
        frames
            .filter(|(_, frame)| frame.in_use)
            .map(|(index, _)| self.frame(index))
            .collect()
    }

    /// Where a frame is in the range; past its end when it is not.
    fn index(&self, frame: Pfn) -> usize {
        let first = self.range.start().pfn().as_u64();
        let index = frame.as_u64().checked_sub(first);
        index.map_or(usize::MAX, |index| index as usize)
    }

    fn frame(&self, index: usize) -> Pfn {
        Pfn::new(self.range.start().pfn().as_u64() + index as u64)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("lock")
    }
}

// SAFETY: a frame is handed out once until it comes back, exists in the memory, and is cleared first.
unsafe impl FrameSource for SimFrames<'_> {
    fn allocate(&self) -> Option<PhysAddr> {
        let mut state = self.state();
        if state.budget == Some(0) {
            return None;
        }
        let frame = match state.free.pop() {
            Some(frame) => frame,
            None => {
                let index = state.frames.len();
                if index as u64 * FRAME_SIZE >= self.range.size() {
                    return None;
                }
                state.frames.push(Frame::default());
                self.frame(index)
            }
        };
        state.budget = state.budget.map(|budget| budget - 1);
        state.in_use += 1;
        state.frames[self.index(frame)].in_use = true;
        self.memory.add(frame);
        self.memory.clear(frame);
        Some(frame.start())
    }

    fn release(&self, frame: PhysAddr) {
        let mut state = self.state();
        let pfn = frame.pfn();
        match state.frames.get_mut(self.index(pfn)) {
            Some(frame) if frame.in_use => {
                frame.in_use = false;
                frame.releases += 1;
            }
            _ => panic!("frame {pfn} is released, but not in use"),
        }
        state.in_use -= 1;
        state.free.push(pfn);
    }
}
