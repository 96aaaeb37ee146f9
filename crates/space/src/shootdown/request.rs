//! What a CPU is asked to forget, in the form that a slot of the ring holds.

use kspace_layout::{PageSize, VirtAddr};
use kspace_paging::{Invalidation, Stale};

/// Bits of the first word below the address of the first page.
const PAGE_SIZE_MASK: u64 = 0b11;
const GLOBAL: u64 = 1 << 2;
const TABLES: u64 = 1 << 3;
const ROOT: u64 = 1 << 4;
const WHOLE: u64 = 1 << 5;
const SERIALIZE: u64 = 1 << 6;
const FLAGS: u64 = 0xfff;

/// Pages one by one, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Request {
    /// The first page; means nothing when `pages` is `None`.
    pub(super) start: u64,
    /// How many pages; `None`: all there are.
    pub(super) pages: Option<u32>,
    /// Their size, or a smaller one that all of them are multiples of.
    pub(super) stride: PageSize,
    /// Global translations too.
    pub(super) global: bool,
    /// Upper-level entries, wherever a CPU may walk.
    pub(super) tables: bool,
    /// PAE's root entries.
    pub(super) root: bool,
    /// Instructions that were fetched ahead.
    pub(super) serialize: bool,
}

impl Request {
    /// Forget everything.
    pub(super) const EVERYTHING: Self = Self {
        start: 0,
        pages: None,
        stride: PageSize::Size4K,
        global: true,
        tables: true,
        root: true,
        serialize: true,
    };

    /// Forget no translation, only what was fetched ahead.
    pub(super) const SERIALIZE: Self = Self {
        start: 0,
        pages: Some(0),
        stride: PageSize::Size4K,
        global: false,
        tables: false,
        root: false,
        serialize: true,
    };

    /// What `invalidation` asks for; more than `limit` pages become all of them.
    pub(super) fn new(invalidation: &Invalidation, limit: u32) -> Self {
        let Invalidation::Range(stale) = invalidation else {
            return Self {
                serialize: false,
                ..Self::EVERYTHING
            };
        };
        let Stale {
            range,
            page,
            global,
            tables,
            root,
        } = *stale;
        let start = range.start().as_u64() & !FLAGS;
        // A page of the range contains exactly one of the addresses that are a stride apart, aligned or not.
        let count = ((range.last().as_u64() - start) >> page.bits()) + 1;
        Self {
            start,
            pages: u32::try_from(count).ok().filter(|&count| count <= limit),
            stride: page,
            global,
            tables,
            root,
            serialize: false,
        }
    }

    /// Whether a lazy CPU must fulfil it too, at once: it may be walking the tables, and it executes instructions.
    pub(super) const fn spares_nobody(self) -> bool {
        self.tables || self.serialize
    }

    /// All that both ask for, and no single page.
    pub(super) const fn whole_of(self, other: Self) -> Self {
        Self {
            start: 0,
            pages: None,
            stride: PageSize::Size4K,
            global: self.global || other.global,
            tables: self.tables || other.tables,
            root: self.root || other.root,
            serialize: self.serialize || other.serialize,
        }
    }

    /// An address in each of the pages.
    pub(super) fn addresses(self) -> impl Iterator<Item = VirtAddr> {
        let count = u64::from(self.pages.unwrap_or(0));
        // Up to the last address of a range, so it stays canonical.
        (0..count).map(move |page| VirtAddr::new(self.start + (page << self.stride.bits())))
    }

    /// As two words.
    pub(super) fn encode(self) -> [u64; 2] {
        let flag = |set, bit| if set { bit } else { 0 };
        let stride = match self.stride {
            PageSize::Size4K => 0,
            PageSize::Size2M => 1,
            PageSize::Size4M => 2,
            PageSize::Size1G => 3,
        };
        let flags = stride
            | flag(self.global, GLOBAL)
            | flag(self.tables, TABLES)
            | flag(self.root, ROOT)
            | flag(self.serialize, SERIALIZE)
            | flag(self.pages.is_none(), WHOLE);
        [self.start | flags, self.pages.map_or(0, u64::from)]
    }

    /// The way back.
    pub(super) fn decode([first, pages]: [u64; 2]) -> Self {
        let stride = match first & PAGE_SIZE_MASK {
            0 => PageSize::Size4K,
            1 => PageSize::Size2M,
            2 => PageSize::Size4M,
            _ => PageSize::Size1G,
        };
        Self {
            start: first & !FLAGS,
            // Came from 32 bits, so nothing is cut off.
            pages: (first & WHOLE == 0).then_some(pages as u32),
            stride,
            global: first & GLOBAL != 0,
            tables: first & TABLES != 0,
            root: first & ROOT != 0,
            serialize: first & SERIALIZE != 0,
        }
    }
}
