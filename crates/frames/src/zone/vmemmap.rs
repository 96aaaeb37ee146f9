//! Which parts of the array of frame records are to be mapped, and with which page sizes: pure arithmetic.
//!
//! ```text
//!   frames     0            512          32768                       65536
//!   RAM        [####|    |##############|###########################|   ...   records of 64 bytes
//!   records    |4K..|    |4K ...........|2M.........................|
//! ```
//!
//! The array has a record for every frame number, RAM or not; it is virtual, and only what holds a record of RAM gets
//! memory. Linux maps 2 MiB for every section of 128 MiB in which there is any; so a machine of 64 MiB pays 2 MiB there,
//! and 1 MiB here.

use core::fmt;

use kspace_layout::{FRAME_SIZE, PageSize, PhysRange};

use super::Nodes;
use super::node::NodeBlock;

/// What of the array of frame records is to be mapped.
#[derive(Clone, Copy, Debug)]
pub struct RecordPlan<'a> {
    nodes: &'a Nodes,
    /// Bytes of one record: a power of two up to 4096.
    record_bytes: u64,
    large: Option<PageSize>,
    only: Option<PhysRange>,
}

/// Bytes of a record that do not divide a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSizeError {
    record_bytes: u64,
}

impl fmt::Display for RecordSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "frame records of {} bytes: no power of two from 1 to {FRAME_SIZE}; round up",
            self.record_bytes
        )
    }
}

impl core::error::Error for RecordSizeError {}

impl<'a> RecordPlan<'a> {
    /// The plan for all RAM in `nodes`, with `record_bytes` for each frame, in 4 KiB pages and pages of `large` where whole
    /// ones are filled.
    ///
    /// # Errors
    ///
    /// [`RecordSizeError`], when a record could cross the end of a page.
    pub const fn new(
        nodes: &'a Nodes,
        record_bytes: u64,
        large: Option<PageSize>,
    ) -> Result<Self, RecordSizeError> {
        if !record_bytes.is_power_of_two() || record_bytes > FRAME_SIZE {
            return Err(RecordSizeError { record_bytes });
        }
        Ok(Self {
            nodes,
            record_bytes,
            large,
            only: None,
        })
    }

    /// The same plan for the RAM in `range` alone: what is to be mapped in addition when memory was plugged in there and
    /// [added](Nodes::add). That is whole sections, so they share no page of records with what was there before.
    #[must_use]
    pub const fn only(self, range: PhysRange) -> Self {
        Self {
            only: Some(range),
            ..self
        }
    }

    /// The runs, in order: disjoint, and no two that touch have the same page size.
    #[must_use]
    pub fn runs(&self) -> RecordRuns<'a> {
        RecordRuns {
            plan: *self,
            next: 0,
            pending: None,
        }
    }

    /// Bytes that all runs take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs().map(|run| run.size).sum()
    }

    /// The lowest stretch of whole pages at or above `from` that hold records of RAM, as first byte and end.
    fn stretch(&self, from: u64) -> Option<(u64, u64)> {
        let mut found: Option<(u64, u64)> = None;
        for (start, end) in self.nodes.blocks().filter_map(|block| self.pages_of(block)) {
            let start = start.max(from);
            if start >= end {
                continue;
            }
            match &mut found {
                None => found = Some((start, end)),
                Some((_, reach)) if start <= *reach => *reach = end,
                Some(_) => break,
            }
        }
        found
    }

    /// The whole pages that hold the records of a block's RAM.
    fn pages_of(&self, block: NodeBlock) -> Option<(u64, u64)> {
        let range = match self.only {
            Some(only) => block.range().intersection(only)?,
            None => block.range(),
        };
        let start = range.start().pfn().as_u64() * self.record_bytes;
        let end = (range.last().pfn().as_u64() + 1) * self.record_bytes;
        Some((start & !(FRAME_SIZE - 1), end.next_multiple_of(FRAME_SIZE)))
    }

    /// The longest piece of the stretch from `start` to `end` that has one page size.
    fn piece(&self, start: u64, end: u64) -> RecordRun {
        let run = |page: PageSize, size| RecordRun {
            offset: start,
            size,
            page,
            record_bytes: self.record_bytes,
        };
        let Some(large) = self.large else {
            return run(PageSize::Size4K, end - start);
        };
        let first_large = start.next_multiple_of(large.bytes());
        let whole = end & !(large.bytes() - 1);
        if first_large >= whole {
            run(PageSize::Size4K, end - start)
        } else if start < first_large {
            run(PageSize::Size4K, first_large - start)
        } else {
            run(large, whole - start)
        }
    }
}

/// A part of the array that has one page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRun {
    offset: u64,
    size: u64,
    page: PageSize,
    record_bytes: u64,
}

impl RecordRun {
    /// Where it starts: bytes from the start of the array, whole pages of [`page`](Self::page).
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// Its size in bytes, whole pages of [`page`](Self::page).
    #[must_use]
    pub const fn size(self) -> u64 {
        self.size
    }

    /// The size of its pages.
    #[must_use]
    pub const fn page(self) -> PageSize {
        self.page
    }

    /// The numbers of the frames whose records lie here: the first, and the one after the last.
    #[must_use]
    pub const fn frames(self) -> (u64, u64) {
        let end = self.offset + self.size;
        (self.offset / self.record_bytes, end / self.record_bytes)
    }
}

impl fmt::Display for RecordRun {
    /// `records of frames 8000-ffff, 2 MiB, page 2M`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, end) = self.frames();
        let size = kspace_layout::ByteSize(self.size);
        write!(
            f,
            "records of frames {first:x}-{:x}, {size}, page {}",
            end - 1,
            self.page
        )
    }
}

/// Iterator over the runs of a plan; see [`RecordPlan::runs`].
#[derive(Clone, Debug)]
pub struct RecordRuns<'a> {
    plan: RecordPlan<'a>,
    next: u64,
    /// The rest of a stretch that was begun: its end.
    pending: Option<u64>,
}

impl Iterator for RecordRuns<'_> {
    type Item = RecordRun;

    fn next(&mut self) -> Option<RecordRun> {
        let (start, end) = match self.pending {
            Some(end) => (self.next, end),
            None => self.plan.stretch(self.next)?,
        };
        let run = self.plan.piece(start, end);
        self.next = start + run.size;
        self.pending = (self.next < end).then_some(end);
        Some(run)
    }
}
