//! Frames while the kernel builds its first page tables, before the zones have their allocators.
//!
//! ```text
//!   window   |------------------------------------------------------------|
//!   RAM        [      ]  [##########]   [                              ]      # reserved
//!   order       <--5       4--              <--3--  <--2--  <--1-- handed out
//!                                              |512|               downwards; runs where they are aligned
//!            '------------------ widen ------------------>
//!            '------------------ hand_over ------------------> all that is left, once, to the zones
//! ```
//!
//! Frames come from the top of the window down, as Linux's memblock does: what boot takes stays for good, so it must
//! not take the first 16 MiB, which old devices' DMA and the start of further CPUs need.
//!
//! What is free is a list of runs in a table of fixed size; what comes back is joined with its neighbours. The frames' content
//! is never touched: this crate maps nothing. A lock guards the list, so that it can be a `static`; it is meant for one CPU with
//! interrupts off.

mod runs;

use core::fmt;

use kspace_layout::{FRAME_SIZE, Pfn, PhysRange};
use spin::Mutex;

use crate::MemoryMap;
use crate::map::MAX_ENTRIES;
use crate::pieces::{above, below};
use crate::reserved::MAX_RESERVATIONS;

use runs::{Full, Run, Runs};

/// Each reservation can split one range of RAM in two; and a wider window may show two more pieces of ranges.
const MAX_RANGES: usize = MAX_ENTRIES + MAX_RESERVATIONS + 2;

/// How many runs can be free: those at the beginning, and what was released between frames in use. Building an address space
/// releases a few at a time.
const MAX_FREE: usize = MAX_RANGES + 256;

/// A source of frames: RAM that was free in a [`MemoryMap`] when this was made. Reservations made later are not seen.
pub struct EarlyFrames {
    state: Mutex<State>,
}

struct State {
    window: PhysRange,
    /// All that there ever was to hand out.
    all: Runs<MAX_RANGES>,
    free: Runs<MAX_FREE>,
    counts: Counts,
    handed_over: bool,
}

/// How many frames a source has and had: `total` is the sum of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// Frames that there were at the beginning, and those that [`EarlyFrames::widen`] added.
    pub total: u64,
    /// Frames in use: handed out and not released.
    pub in_use: u64,
    /// Frames that can still be handed out.
    pub free: u64,
    /// Frames that came back when there was no room to remember them, and so will not be handed out again.
    pub lost: u64,
    /// Frames that are somebody else's: see [`EarlyFrames::hand_over`].
    pub handed_over: u64,
}

impl EarlyFrames {
    /// A source of the free frames of `map` that lie wholly in `window`, for example the memory that the boot page
    /// tables reach.
    #[must_use]
    pub fn new(map: &MemoryMap, window: PhysRange) -> Self {
        let mut state = State {
            window,
            all: Runs::new(),
            free: Runs::new(),
            counts: Counts::default(),
            handed_over: false,
        };
        for range in free_in(map, window) {
            // A map has no more ranges than there is room for.
            let _ = state.take_in(Run::of(range));
        }
        Self {
            state: Mutex::new(state),
        }
    }

    /// Adds the free frames of `map` that lie in `window` and not in the window so far, which is a part of it: once all RAM can be
    /// reached.
    ///
    /// # Errors
    ///
    /// [`WidenError`]; nothing is changed.
    pub fn widen(&self, map: &MemoryMap, window: PhysRange) -> Result<(), WidenError> {
        let mut state = self.state.lock();
        if state.handed_over {
            return Err(WidenError::HandedOver);
        }
        let old = state.window;
        if !window.contains_range(old) {
            return Err(WidenError::Narrower { old, new: window });
        }
        let parts = [above(window, old.last()), below(window, old.start())];
        let added = || {
            parts
                .into_iter()
                .flatten()
                .flat_map(|part| free_in(map, part))
        };
        if state.all.as_slice().len() + added().count() > MAX_RANGES
            || state.free.as_slice().len() + added().count() > MAX_FREE
        {
            return Err(WidenError::TooManyRanges { new: window });
        }
        for range in added() {
            // There is room, as was just seen.
            let _ = state.take_in(Run::of(range));
        }
        state.window = window;
        Ok(())
    }

    /// A frame with unknown content; `None` when none is left.
    #[must_use]
    pub fn allocate(&self) -> Option<Pfn> {
        self.allocate_run(1, 1)
    }

    /// `frames` frames in a row with unknown content, of which the first one's number is a multiple of `align`, a power of two: 512
    /// and 512 for a page of 2 MiB. `None` when there are no such, or for no frames or another alignment.
    #[must_use]
    pub fn allocate_run(&self, frames: u64, align: u64) -> Option<Pfn> {
        if frames == 0 || !align.is_power_of_two() {
            return None;
        }
        let mut state = self.state.lock();
        let first = state.free.take_highest(frames, align)?;
        state.counts.in_use += frames;
        state.counts.free -= frames;
        Pfn::try_new(first).ok()
    }

    /// Takes back a frame that nothing uses any more.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`]; nothing is changed, except that frames that cannot be kept are counted as lost.
    pub fn release(&self, frame: Pfn) -> Result<(), ReleaseError> {
        self.release_run(frame, 1)
    }

    /// Takes back the `frames` frames from `first` that nothing uses any more: all of a run that was handed out, or a part.
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release).
    pub fn release_run(&self, first: Pfn, frames: u64) -> Result<(), ReleaseError> {
        let run = Run::new(first.as_u64(), frames);
        let mut state = self.state.lock();
        if !state.all.contains(run) {
            return Err(ReleaseError::NotOurs { first, frames });
        }
        if let Some(free) = state.free.overlap(run) {
            return Err(ReleaseError::Free(Pfn::try_new(free).unwrap_or(first)));
        }
        // Frames that were lost or handed over are remembered nowhere, so they look as if they were in use.
        state.counts.in_use = state.counts.in_use.saturating_sub(frames);
        if state.handed_over {
            state.counts.lost += frames;
            return Err(ReleaseError::HandedOver { first, frames });
        }
        if state.free.insert(run) == Err(Full) {
            state.counts.lost += frames;
            return Err(ReleaseError::ListFull { first, frames });
        }
        state.counts.free += frames;
        Ok(())
    }

    /// Gives all that is free to `each`, from the highest address down, and hands out nothing from then on. A second time there
    /// is nothing to give.
    ///
    /// The lock is held meanwhile: `each` must not come back here.
    pub fn hand_over(&self, mut each: impl FnMut(PhysRange)) {
        let mut state = self.state.lock();
        for run in state.free.as_slice().iter().rev() {
            if let Ok(first) = Pfn::try_new(run.first) {
                each(PhysRange::new(first.start(), run.frames() * FRAME_SIZE));
            }
        }
        state.free.clear();
        state.counts.handed_over += state.counts.free;
        state.counts.free = 0;
        state.handed_over = true;
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
    fn take_in(&mut self, run: Run) -> Result<(), Full> {
        self.all.insert(run)?;
        self.free.insert(run)?;
        self.counts.total += run.frames();
        self.counts.free += run.frames();
        Ok(())
    }
}

/// The whole free frames of `map` in `window`, from the top down.
fn free_in(map: &MemoryMap, window: PhysRange) -> impl Iterator<Item = PhysRange> {
    map.free_from_top()
        .filter_map(move |free| free.intersection(window)?.whole_pages())
}

/// Why frames were not taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseError {
    /// They are not all of this source.
    NotOurs {
        /// The first frame.
        first: Pfn,
        /// How many.
        frames: u64,
    },
    /// This one of them is free already.
    Free(Pfn),
    /// There is no room to remember them; they are lost.
    ListFull {
        /// The first frame.
        first: Pfn,
        /// How many.
        frames: u64,
    },
    /// What was left has been handed over; these came too late and are lost.
    HandedOver {
        /// The first frame.
        first: Pfn,
        /// How many.
        frames: u64,
    },
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, frames) = match *self {
            Self::Free(first) => (first, 1),
            Self::NotOurs { first, frames }
            | Self::ListFull { first, frames }
            | Self::HandedOver { first, frames } => (first, frames),
        };
        let first = first.start();
        write!(f, "early frames: release of {first}")?;
        if frames != 1 {
            write!(f, " ({frames} frames)")?;
        }
        match self {
            Self::NotOurs { .. } => f.write_str(": never handed out here; nothing was changed"),
            Self::Free(_) => f.write_str(": it is free already; nothing was changed"),
            Self::ListFull { .. } => write!(
                f,
                ": {MAX_FREE} runs are free already, with frames in use between them; lost"
            ),
            Self::HandedOver { .. } => {
                f.write_str(": what was left has gone to the zones; lost, free them there")
            }
        }
    }
}

impl core::error::Error for ReleaseError {}

/// Why a window was not widened. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WidenError {
    /// The new window does not hold the old one.
    Narrower {
        /// The window so far.
        old: PhysRange,
        /// The new one.
        new: PhysRange,
    },
    /// More separate ranges of free RAM than there is room for.
    TooManyRanges {
        /// The new window.
        new: PhysRange,
    },
    /// What was left has been handed over.
    HandedOver,
}

impl fmt::Display for WidenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Narrower { old, new } => write!(
                f,
                "early frames: window {new} does not hold the window so far, {old}; nothing was changed"
            ),
            Self::TooManyRanges { new } => write!(
                f,
                "early frames: window {new} shows more than {MAX_RANGES} ranges of free RAM; nothing was changed"
            ),
            Self::HandedOver => f.write_str(
                "early frames: what was left has gone to the zones; nothing was changed",
            ),
        }
    }
}

impl core::error::Error for WidenError {}
