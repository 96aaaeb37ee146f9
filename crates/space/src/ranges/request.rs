//! What is asked for.

use kspace_layout::VirtRange;

/// A request for addresses: how many pages, and where they may lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    pub(super) pages: u64,
    pub(super) align: u64,
    pub(super) window: Option<VirtRange>,
    pub(super) random: Option<u64>,
}

impl Request {
    /// `pages` pages of 4 KiB, anywhere.
    #[must_use]
    pub const fn pages(pages: u64) -> Self {
        Self {
            pages,
            align: 1,
            window: None,
            random: None,
        }
    }

    /// Starting at a multiple of `pages` pages, a power of two: 512 for 2 MiB, 2^18 for 1 GiB.
    #[must_use]
    pub const fn aligned(mut self, pages: u64) -> Self {
        self.align = pages;
        self
    }

    /// Wholly inside `window`. Of the window only what lies in the area counts, and of its pages only whole ones.
    #[must_use]
    pub const fn within(mut self, window: VirtRange) -> Self {
        self.window = Some(window);
        self
    }

    /// At a place drawn by `number`, one of 2^64 equally likely ones: each place that is free, aligned and allowed is then
    /// equally likely (to one part in 2^12, as an area has at most 2^52 pages).
    ///
    /// For debugging: code that relies on where its areas lie, or on neighbours, breaks sooner. It fragments the area by
    /// intent, and takes time linear in the number of free ranges, as all of them are counted.
    #[must_use]
    pub const fn random(mut self, number: u64) -> Self {
        self.random = Some(number);
        self
    }
}
