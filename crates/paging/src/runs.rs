//! The mappings of a range, merged into runs: what a page-table dump prints one line for.
//!
//! Holes cost one entry each, at the level where they appear, so that the 128 TiB between two mappings are skipped in a few
//! reads. Neighbours in one table that continue a hole or a run are passed over in a loop that only reads and compares. At every moment the iterator stands at one position of one table per level: tables that point at themselves or at each
//! other make it return much, but never recurse.

use core::fmt;

use kspace_layout::{PageSize, PhysAddr, VirtAddr, VirtRange};

use crate::entry::{ACCESSED, DIRTY, PRESENT, Rights};
use crate::walker::MAX_LEVELS;
use crate::{Attributes, EntryRead, Format, Walker};

/// What counts as one run.
///
/// In any case its pages follow each other in virtual memory and have equal rights, global bit and cache type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Pages follow each other in physical memory too. If not, a run's `phys` is that of its first page.
    pub contiguous: bool,
    /// Pages have one size. If not, a run's `page` is the smallest in it.
    pub same_size: bool,
    /// Accessed and dirty are equal too. If not, a run has them when one of its pages has.
    pub history: bool,
}

impl Default for Merge {
    /// Contiguous, one page size, whatever accessed and dirty say.
    fn default() -> Self {
        Self {
            contiguous: true,
            same_size: true,
            history: false,
        }
    }
}

/// Pages of equal attributes, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where they are in virtual memory.
    pub virt: VirtRange,
    /// Where the first is in physical memory.
    pub phys: PhysAddr,
    /// Their size.
    pub page: PageSize,
    /// What they allow.
    pub attributes: Attributes,
}

/// `ffff888000000000-ffff88803fffffff -> 0000000000000000 1G rw- supervisor global write-back`
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} -> {} {} {}",
            self.virt, self.phys, self.page, self.attributes
        )
    }
}

/// Part of a range that has entries, but no mappings that could be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The memory does not hold the entry that maps this part.
    Unreadable {
        /// The addresses that the entry concerns, within the range asked for.
        virt: VirtRange,
        /// The level of the entry's table.
        level: u8,
        /// Where the entry should be.
        entry: PhysAddr,
    },
    /// A present entry has reserved bits set: every access to this part faults.
    ReservedBits {
        /// The addresses that the entry concerns, within the range asked for.
        virt: VirtRange,
        /// The entry's level.
        level: u8,
        /// Where the entry is.
        entry: PhysAddr,
        /// What it says.
        raw: u64,
        /// The bits that are reserved.
        bits: u64,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { virt, level, entry } => write!(
                f,
                "walk {virt}: the level-{level} entry at physical {entry} is not in this memory"
            ),
            Self::ReservedBits {
                virt,
                level,
                entry,
                raw,
                bits,
            } => write!(
                f,
                "walk {virt}: the level-{level} entry at physical {entry} is {raw:016x}, of which this machine reserves {bits:#x}"
            ),
        }
    }
}

impl core::error::Error for Obstacle {}

/// The runs of a range, in ascending order; obstacles come between them, at their place.
#[derive(Debug)]
pub struct Runs<'m, M: ?Sized> {
    walker: Walker<'m, M>,
    merge: Merge,
    /// The next address to look at; `None` at the end.
    next: Option<VirtAddr>,
    last: VirtAddr,
    /// The tables over `next`, and the rights down to each, by level - 1; valid from `level` upwards.
    tables: [(PhysAddr, Rights); MAX_LEVELS],
    level: u8,
    /// Met while a run was being gathered; returned after it.
    waiting: Option<Result<Run, Obstacle>>,
}

impl<'m, M: EntryRead + ?Sized> Runs<'m, M> {
    pub(crate) fn new(walker: Walker<'m, M>, range: VirtRange, merge: Merge) -> Self {
        let top = walker.mode.levels();
        let mut tables = [(PhysAddr::ZERO, Rights::ALL); MAX_LEVELS];
        tables[top as usize - 1].0 = walker.root;
        // Both ends lie in one half, so the part that this mode has is again one range.
        let (start, last) = within_mode(&walker, range);
        Self {
            walker,
            merge,
            next: start,
            last,
            tables,
            level: top,
            waiting: None,
        }
    }

    /// The next mapping, of one page or of several that follow each other in one table, or obstacle; `None` at the end.
    fn next_pages(&mut self) -> Option<Result<Run, Obstacle>> {
        let Walker { format, limits, .. } = self.walker;
        loop {
            let at = self.next?;
            let level = self.level;
            let (table, above) = self.tables[level as usize - 1];
            let entry = self.walker.entry_address(table, level, at);
            let Some(raw) = self.walker.read(entry) else {
                let virt = self.pass(at, level);
                return Some(Err(Obstacle::Unreadable { virt, level, entry }));
            };
            if raw & PRESENT == 0 {
                let hole = self.last_while(at, level, table, |raw| raw & PRESENT == 0);
                self.pass_to(at, hole);
                continue;
            }
            let bits = format.reserved_bits(level, raw, limits);
            if bits != 0 {
                let virt = self.pass(at, level);
                return Some(Err(Obstacle::ReservedBits {
                    virt,
                    level,
                    entry,
                    raw,
                    bits,
                }));
            }
            if format.is_leaf(level, raw, limits) {
                let inside = at.as_u64() & ((1 << format.shift(level)) - 1);
                let (last, history) = self.continued(at, level, table, raw);
                return Some(Ok(Run {
                    virt: self.pass_to(at, last),
                    phys: PhysAddr::new(format.page(level, raw, limits).as_u64() | inside),
                    page: self
                        .walker
                        .mode
                        .leaf_size(level)
                        .unwrap_or(PageSize::Size4K),
                    attributes: format.attributes(level, raw | history, above, limits),
                }));
            }
            let rights = above.and(format.rights(level, raw, limits));
            self.level -= 1;
            self.tables[self.level as usize - 1] = (format.table(raw, limits), rights);
        }
    }

    /// Where the leaf `raw` at `level` over `at`, and those behind it in the same table that continue it, end; and which accessed
    /// and dirty bits the latter have.
    fn continued(&self, at: VirtAddr, level: u8, table: PhysAddr, raw: u64) -> (u64, u64) {
        let Walker { format, limits, .. } = self.walker;
        if !self.merge.contiguous {
            return (self.entry_last(at, level), 0);
        }
        let ignored = if self.merge.history {
            0
        } else {
            ACCESSED | DIRTY
        };
        // A run ends where the next address would be too wide for the machine, or change an encryption bit.
        let stop = format.page_limit(level, limits).wrapping_neg() & !(u64::MAX << 53);
        let step = 1 << format.shift(level);
        let (mut expected, mut history) = (raw & !ignored, 0);
        let last = self.last_while(at, level, table, |next| {
            let before = expected;
            expected = expected.wrapping_add(step);
            let continues = next & !ignored == expected && (before ^ expected) & stop == 0;
            if continues {
                history |= next & ignored;
            }
            continues
        });
        (last, history)
    }

    /// The last address of the entry at `level` over `at`, or of the last of those behind it in the same table that `go_on` accepts
    /// one after the other.
    fn last_while(
        &self,
        at: VirtAddr,
        level: u8,
        table: PhysAddr,
        mut go_on: impl FnMut(u64) -> bool,
    ) -> u64 {
        let format = self.walker.format;
        let size = 1 << format.shift(level);
        let end = table.as_u64() + format.entries(level) as u64 * format.entry_bytes();
        let next = self.walker.entry_address(table, level, at).as_u64() + format.entry_bytes();
        let last = self.entry_last(at, level);
        let in_table = (end - next) / format.entry_bytes();
        let in_range = self.last.as_u64().saturating_sub(last).div_ceil(size);
        let count = in_table.min(in_range) as usize;
        if count == 0 {
            return last;
        }
        // In the same frame as the entry before.
        let first = PhysAddr::new(next);
        let memory = self.walker.memory;
        let passed = match format {
            Format::TwoLevel => memory.count_u32s(first, count, &mut go_on),
            Format::Pae | Format::Long => memory.count_u64s(first, count, &mut go_on),
        };
        last + passed as u64 * size
    }

    /// The last address that the entry at `level` over `at` translates.
    const fn entry_last(&self, at: VirtAddr, level: u8) -> u64 {
        at.as_u64() | ((1 << self.walker.format.shift(level)) - 1)
    }

    /// Goes on behind the entry at `level` that holds `at`, and returns what was passed.
    fn pass(&mut self, at: VirtAddr, level: u8) -> VirtRange {
        self.pass_to(at, self.entry_last(at, level))
    }

    /// Goes on behind `entry_last`, the last address of an entry of the current table, and returns what was passed since `at`.
    fn pass_to(&mut self, at: VirtAddr, entry_last: u64) -> VirtRange {
        let format = self.walker.format;
        let last = if entry_last >= self.last.as_u64() {
            self.next = None;
            self.last.as_u64()
        } else {
            let next = entry_last + 1;
            // Up to the table that holds the next address too.
            while self.level < self.walker.mode.levels()
                && next & ((1 << format.shift(self.level + 1)) - 1) == 0
            {
                self.level += 1;
            }
            // Not above `self.last`, in the same half, and so canonical.
            self.next = VirtAddr::try_new(next).ok();
            entry_last
        };
        // `last` is neither below `at` nor above `self.last`, which is in the same half.
        VirtRange::new(at, last - at.as_u64() + 1)
    }

    /// `run` with `page` added, when they are one run.
    fn joined(&self, run: &Run, page: &Run) -> Option<Run> {
        let adjacent = run.virt.end_u64() == page.virt.start().as_u64();
        let contiguous =
            !self.merge.contiguous || run.phys.as_u64() + run.virt.size() == page.phys.as_u64();
        let same_size = !self.merge.same_size || run.page == page.page;
        let equal = if self.merge.history {
            run.attributes == page.attributes
        } else {
            run.attributes.without_history() == page.attributes.without_history()
        };
        if !(adjacent && contiguous && same_size && equal) {
            return None;
        }
        Some(Run {
            virt: VirtRange::try_from_bounds(run.virt.start(), page.virt.last()).ok()?,
            phys: run.phys,
            page: run.page.min(page.page),
            attributes: Attributes {
                accessed: run.attributes.accessed || page.attributes.accessed,
                dirty: run.attributes.dirty || page.attributes.dirty,
                ..run.attributes
            },
        })
    }
}

impl<M: EntryRead + ?Sized> Iterator for Runs<'_, M> {
    type Item = Result<Run, Obstacle>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut run = match self.waiting.take().or_else(|| self.next_pages())? {
            Ok(run) => run,
            Err(obstacle) => return Some(Err(obstacle)),
        };
        loop {
            match self.next_pages() {
                Some(Ok(page)) => match self.joined(&run, &page) {
                    Some(longer) => run = longer,
                    None => {
                        self.waiting = Some(Ok(page));
                        return Some(Ok(run));
                    }
                },
                other => {
                    self.waiting = other;
                    return Some(Ok(run));
                }
            }
        }
    }
}

/// The part of `range` that the walker's mode can translate.
fn within_mode<M: ?Sized>(
    walker: &Walker<'_, M>,
    range: VirtRange,
) -> (Option<VirtAddr>, VirtAddr) {
    let mode = walker.mode;
    let (mut start, mut last) = (range.start(), range.last());
    if !mode.contains(start) {
        // Below the upper half of 4-level paging: begin there. Else there is nothing above `start`.
        match mode.upper_half_start() {
            Some(upper) if start < upper && start > mode.lower_half_last() => start = upper,
            _ => return (None, last),
        }
    }
    if !mode.contains(last) {
        last = mode.lower_half_last();
    }
    if start > last {
        (None, last)
    } else {
        (Some(start), last)
    }
}
