//! Single frames while the kernel builds its first page tables.
//!
//! ```text
//!   window   |------------------------------------------------------------|
//!   RAM        [      ]  [##########]   [                              ]      # reserved
//!   order       <--5       4--              <--3--  <--2--  <--1-- handed out
//!                                                                  downwards
//! ```
//!
//! Frames come from the top of the window down, as Linux's memblock does: what boot takes stays for good, so it must
//! not take the first 16 MiB, which old devices' DMA and the start of further CPUs need.
//!
//! Released frames are remembered in a list of fixed size and handed out again first. The frames' content is never
//! touched: this crate maps nothing. A lock guards it, so that it can be a `static`; it is meant for one CPU with
//! interrupts off.

use core::fmt;

use kspace_layout::{FRAME_SIZE, Pfn, PhysRange};
use spin::Mutex;

use crate::MemoryMap;
use crate::map::MAX_ENTRIES;
use crate::reserved::MAX_RESERVATIONS;

/// How many released frames are remembered. Building an address space releases a few at a time.
const MAX_RELEASED: usize = 512;

/// Each reservation can split one range of RAM in two.
const MAX_RANGES: usize = MAX_ENTRIES + MAX_RESERVATIONS;

/// A source of 4 KiB frames: RAM that was free in a [`MemoryMap`] when this was made. Reservations made later are not
/// seen.
pub struct EarlyFrames {
    state: Mutex<State>,
}

struct State {
    /// Free RAM in the window, highest first.
    ranges: [Option<PhysRange>; MAX_RANGES],
    /// The range that frames are being taken from.
    range: usize,
    /// How many frames have been taken from the top of that range.
    taken: u64,
    released: [Pfn; MAX_RELEASED],
    released_len: usize,
    counts: Counts,
}

/// How many frames a source has and had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// Frames that there were at the beginning.
    pub total: u64,
    /// Frames in use: handed out and not released.
    pub in_use: u64,
    /// Frames that can still be handed out.
    pub free: u64,
    /// Frames that were released when the list of released frames was full, and so will not be handed out again.
    pub lost: u64,
}

impl EarlyFrames {
    /// A source of the free frames of `map` that lie wholly in `window`, for example the memory that the boot page
    /// tables reach.
    #[must_use]
    pub fn new(map: &MemoryMap, window: PhysRange) -> Self {
        let mut ranges = [None; MAX_RANGES];
        let free = map
            .free_from_top()
            .filter_map(|free| free.intersection(window)?.whole_pages());
        let mut total = 0;
        for (slot, range) in ranges.iter_mut().zip(free) {
            *slot = Some(range);
            total += range.size() / FRAME_SIZE;
        }
        Self {
            state: Mutex::new(State {
                ranges,
                range: 0,
                taken: 0,
                released: [Pfn::new(0); MAX_RELEASED],
                released_len: 0,
                counts: Counts {
                    total,
                    in_use: 0,
                    free: total,
                    lost: 0,
                },
            }),
        }
    }

    /// A frame with unknown content; `None` when none is left. Released frames come first, the last released one first
    /// of all.
    #[must_use]
    pub fn allocate(&self) -> Option<Pfn> {
        let mut state = self.state.lock();
        let frame = state.take_released().or_else(|| state.take_new())?;
        state.counts.in_use += 1;
        state.counts.free -= 1;
        Some(frame)
    }

    /// Takes back a frame that nothing uses any more.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`]; nothing is changed, except that a frame for which the list has no room is counted as lost.
    pub fn release(&self, frame: Pfn) -> Result<(), ReleaseError> {
        let mut state = self.state.lock();
        if !state.was_taken(frame) {
            return Err(ReleaseError::NotHandedOut(frame));
        }
        if state.released[..state.released_len].contains(&frame) {
            return Err(ReleaseError::AlreadyReleased(frame));
        }
        // A frame that was counted as lost is remembered nowhere, so its second release looks like a first one.
        state.counts.in_use = state.counts.in_use.saturating_sub(1);
        if state.undo(frame) {
            state.counts.free += 1;
            return Ok(());
        }
        let len = state.released_len;
        let Some(slot) = state.released.get_mut(len) else {
            state.counts.lost += 1;
            return Err(ReleaseError::ListFull(frame));
        };
        *slot = frame;
        state.released_len += 1;
        state.counts.free += 1;
        Ok(())
    }

    /// How many frames there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }
}

impl fmt::Debug for EarlyFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EarlyFrames").field(&self.counts()).finish()
    }
}

impl State {
    fn take_released(&mut self) -> Option<Pfn> {
        self.released_len = self.released_len.checked_sub(1)?;
        Some(self.released[self.released_len])
    }

    fn take_new(&mut self) -> Option<Pfn> {
        let range = (*self.ranges.get(self.range)?)?;
        let frame = Pfn::new(range.last().pfn().as_u64() - self.taken);
        self.taken += 1;
        if frame == range.start().pfn() {
            self.range += 1;
            self.taken = 0;
        }
        Some(frame)
    }

    /// Takes back `frame` without the list, if it is the newest one taken from the ranges.
    fn undo(&mut self, frame: Pfn) -> bool {
        let (range, taken) = match (self.taken, self.range) {
            (0, 0) => return false,
            // Frame by frame until the range was used up.
            (0, range) => match self.ranges[range - 1] {
                Some(full) => (range - 1, full.size() / FRAME_SIZE),
                None => return false,
            },
            (taken, range) => (range, taken),
        };
        let newest = self.ranges[range].map(|from| from.last().pfn().as_u64() - (taken - 1));
        if newest != Some(frame.as_u64()) {
            return false;
        }
        (self.range, self.taken) = (range, taken - 1);
        true
    }

    /// Whether `frame` was handed out at some time.
    fn was_taken(&self, frame: Pfn) -> bool {
        let holds = |range: &Option<PhysRange>| range.is_some_and(|r| r.contains(frame.start()));
        let Some(index) = self.ranges.iter().position(holds) else {
            return false;
        };
        match (index.cmp(&self.range), self.ranges[index]) {
            (core::cmp::Ordering::Less, _) => true,
            (core::cmp::Ordering::Equal, Some(range)) => {
                range.last().pfn().as_u64() - frame.as_u64() < self.taken
            }
            _ => false,
        }
    }
}

/// Why a frame was not taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseError {
    /// It was never handed out here.
    NotHandedOut(Pfn),
    /// It has been released already.
    AlreadyReleased(Pfn),
    /// The list of released frames is full; the frame is lost.
    ListFull(Pfn),
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotHandedOut(frame) => write!(
                f,
                "early frames: release of {}: it was never handed out; nothing was changed",
                frame.start()
            ),
            Self::AlreadyReleased(frame) => write!(
                f,
                "early frames: release of {}: it is free already; nothing was changed",
                frame.start()
            ),
            Self::ListFull(frame) => write!(
                f,
                "early frames: release of {}: {MAX_RELEASED} released frames are waiting already; this one is lost",
                frame.start()
            ),
        }
    }
}

impl core::error::Error for ReleaseError {}
