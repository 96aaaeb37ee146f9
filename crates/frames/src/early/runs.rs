//! A sorted list of runs of frames, in a table of fixed size.

use kspace_layout::{FRAME_SIZE, PhysRange};

/// Frames in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first frame's number.
    pub(super) first: u64,
    /// The number after the last one's.
    pub(super) end: u64,
}

impl Run {
    pub(super) const fn new(first: u64, frames: u64) -> Self {
        Self {
            first,
            end: first.saturating_add(frames),
        }
    }

    /// The frames of a range of whole pages.
    pub(super) const fn of(range: PhysRange) -> Self {
        Self::new(range.start().pfn().as_u64(), range.size() / FRAME_SIZE)
    }

    pub(super) const fn frames(self) -> u64 {
        self.end - self.first
    }
}

/// The table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// At most `N` runs: in ascending order, disjoint, no two of which touch.
pub(super) struct Runs<const N: usize> {
    slots: [Run; N],
    len: usize,
}

impl<const N: usize> Runs<N> {
    pub(super) const fn new() -> Self {
        Self {
            slots: [Run::new(0, 0); N],
            len: 0,
        }
    }

    pub(super) fn as_slice(&self) -> &[Run] {
        &self.slots[..self.len]
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Whether all of `run` is in the list.
    pub(super) fn contains(&self, run: Run) -> bool {
        let at = self.as_slice().partition_point(|old| old.end <= run.first);
        let old = self.as_slice().get(at);
        old.is_some_and(|old| old.first <= run.first && run.end <= old.end)
    }

    /// The first frame of `run` that is in the list.
    pub(super) fn overlap(&self, run: Run) -> Option<u64> {
        let at = self.as_slice().partition_point(|old| old.end <= run.first);
        let old = self.as_slice().get(at)?;
        (old.first < run.end).then(|| old.first.max(run.first))
    }

    /// Adds a run of which nothing is in the list, joining it with neighbours that it touches.
    pub(super) fn insert(&mut self, run: Run) -> Result<(), Full> {
        let at = self.as_slice().partition_point(|old| old.end < run.first);
        let below = at < self.len && self.slots[at].end == run.first;
        let above = at + usize::from(below);
        let joins_above = above < self.len && self.slots[above].first == run.end;
        match (below, joins_above) {
            (true, true) => {
                self.slots[at].end = self.slots[above].end;
                self.slots.copy_within(above + 1..self.len, above);
                self.len -= 1;
            }
            (true, false) => self.slots[at].end = run.end,
            (false, true) => self.slots[above].first = run.first,
            (false, false) if self.len == N => return Err(Full),
            (false, false) => {
                self.slots.copy_within(at..self.len, at + 1);
                self.slots[at] = run;
                self.len += 1;
            }
        }
        Ok(())
    }

    /// Takes the highest `frames` frames in a row that begin at a multiple of `align`, a power of two. A place that would cut a
    /// run in two counts only while there is room for both.
    pub(super) fn take_highest(&mut self, frames: u64, align: u64) -> Option<u64> {
        let full = self.len == N;
        let place = |run: &Run| {
            let first = run.end.checked_sub(frames)? & !(align - 1);
            let cuts = first > run.first && first + frames < run.end;
            (first >= run.first && !(cuts && full)).then_some(first)
        };
        let places = self.as_slice().iter().enumerate().rev();
        let (at, first) = places
            .filter_map(|(at, run)| Some((at, place(run)?)))
            .next()?;
        self.cut_out(at, Run::new(first, frames));
        Some(first)
    }

    /// Takes `part` out of the run at `at`, which holds it. If two pieces are left, there is room for them.
    fn cut_out(&mut self, at: usize, part: Run) {
        let old = self.slots[at];
        match (old.first < part.first, part.end < old.end) {
            (false, false) => {
                self.slots.copy_within(at + 1..self.len, at);
                self.len -= 1;
            }
            (false, true) => self.slots[at].first = part.end,
            (true, false) => self.slots[at].end = part.first,
            (true, true) => {
                self.slots.copy_within(at..self.len, at + 1);
                self.len += 1;
                self.slots[at].end = part.first;
                self.slots[at + 1].first = part.end;
            }
        }
    }
}
