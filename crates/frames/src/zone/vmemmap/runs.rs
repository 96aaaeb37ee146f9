//! Pieces of the area with one page size, and how they come of the bytes that are needed.

use core::fmt;

use kspace_layout::{ByteSize, FRAME_SIZE, PageSize, VirtAddr, VirtRange};

/// A part of area vmemmap that is backed by pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmemmapRun {
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) page: PageSize,
}

impl VmemmapRun {
    /// Where it starts: bytes from the start of the area, whole pages of [`page`](Self::page).
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

    /// How many pages it has.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.size / self.page.bytes()
    }

    /// Its addresses in an area that starts at `area`; `None` when it does not fit in the address space there.
    #[must_use]
    pub fn range(self, area: VirtAddr) -> Option<VirtRange> {
        VirtRange::try_new(area.checked_add(self.offset).ok()?, self.size).ok()
    }
}

impl fmt::Display for VmemmapRun {
    /// `20000-3ffff, 128 KiB, page 4k`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.offset, self.offset + self.size - 1);
        write!(
            f,
            "{first:x}-{last:x}, {}, page {}",
            ByteSize(self.size),
            self.page
        )
    }
}

/// Some bytes: the first, and the one after the last.
pub(super) type Bytes = (u64, u64);

/// The whole pages that hold these bytes, which come in ascending order; no two that touch.
pub(super) fn stretches(bytes: impl Iterator<Item = Bytes>) -> impl Iterator<Item = Bytes> {
    let mut pages = bytes
        .filter(|(start, end)| start < end)
        .map(|(start, end)| (start & !(FRAME_SIZE - 1), end.next_multiple_of(FRAME_SIZE)))
        .peekable();
    core::iter::from_fn(move || {
        let (start, mut end) = pages.next()?;
        while let Some((_, more)) = pages.next_if(|(next, _)| *next <= end) {
            end = end.max(more);
        }
        Some((start, end))
    })
}

/// The part of each stretch that consists of whole large pages.
pub(super) fn larges(
    stretches: impl Iterator<Item = Bytes>,
    large: PageSize,
) -> impl Iterator<Item = Bytes> {
    stretches
        .map(move |(start, end)| {
            (
                start.next_multiple_of(large.bytes()),
                end & !(large.bytes() - 1),
            )
        })
        .filter(|(start, end)| start < end)
}

/// Cuts stretches where large pages begin and end. Each of `larges` lies in one stretch.
pub(super) fn cut(
    mut stretches: impl Iterator<Item = Bytes>,
    larges: impl Iterator<Item = Bytes>,
    large: PageSize,
) -> impl Iterator<Item = VmemmapRun> {
    let mut larges = larges.peekable();
    let mut rest = None;
    core::iter::from_fn(move || {
        let (start, end) = rest.take().or_else(|| stretches.next())?;
        let (page, until) = match larges.peek().copied() {
            Some((first, until)) if first == start => {
                larges.next();
                (large, until)
            }
            Some((first, _)) => (PageSize::Size4K, first.min(end)),
            None => (PageSize::Size4K, end),
        };
        rest = (until < end).then_some((until, end));
        Some(VmemmapRun {
            offset: start,
            size: until - start,
            page,
        })
    })
}

/// What of the stretches `all` is in none of the stretches `old`.
pub(super) fn without(
    mut all: impl Iterator<Item = Bytes>,
    old: impl Iterator<Item = Bytes>,
) -> impl Iterator<Item = Bytes> {
    let mut old = old.peekable();
    let mut rest: Option<Bytes> = None;
    core::iter::from_fn(move || {
        loop {
            let (start, end) = rest.take().or_else(|| all.next())?;
            while old.next_if(|(_, known)| *known <= start).is_some() {}
            let (first, known) = old.peek().copied().unwrap_or((end, end));
            if first <= start {
                rest = (known < end).then_some((known, end));
                continue;
            }
            rest = (first < end).then_some((first, end));
            return Some((start, first.min(end)));
        }
    })
}
