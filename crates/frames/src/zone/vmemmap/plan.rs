//! Which pages of area vmemmap are backed: what the RAM needs, and no more.

use kspace_layout::PageSize;

use super::runs::{Bytes, VmemmapRun, cut, larges, stretches, without};
use super::{Books, HUGE_BITS, RECORD_BYTES, TREE_COUNTERS, Vmemmap, tree_bytes};
use crate::zone::{NodeBlock, Nodes};
use crate::{HUGE_FRAMES, TREE_FRAMES};

/// Which pages of area vmemmap are backed, and of which size.
///
/// Memory that was plugged in has its part in 4 KiB pages, also where it fills a large page together with what was there: a large
/// page cannot be put in the place of small ones in use.
#[derive(Clone, Copy, Debug)]
pub struct VmemmapPlan<'a> {
    vmemmap: &'a Vmemmap,
    boot: &'a Nodes,
    now: &'a Nodes,
    large: PageSize,
}

impl<'a> VmemmapPlan<'a> {
    /// The plan for the RAM that there is at boot, in pages of `large` where whole ones are needed and of 4 KiB elsewhere.
    #[must_use]
    pub const fn new(vmemmap: &'a Vmemmap, boot: &'a Nodes, large: PageSize) -> Self {
        Self {
            vmemmap,
            boot,
            now: boot,
            large,
        }
    }

    /// The same plan after memory was plugged in: `now` is all RAM, also that of boot.
    #[must_use]
    pub const fn with_plugged(self, now: &'a Nodes) -> Self {
        Self { now, ..self }
    }

    /// Where the books lie.
    #[must_use]
    pub const fn vmemmap(&self) -> &'a Vmemmap {
        self.vmemmap
    }

    /// The RAM at boot.
    #[must_use]
    pub const fn boot(&self) -> &'a Nodes {
        self.boot
    }

    /// All RAM.
    #[must_use]
    pub const fn nodes(&self) -> &'a Nodes {
        self.now
    }

    /// What is backed, in order: disjoint, and no two that touch have the same page size.
    pub fn runs(&self) -> impl Iterator<Item = VmemmapRun> + use<'a> {
        let large = self.large;
        let at_boot = stretches(needed(self.vmemmap, self.boot));
        let now = stretches(needed(self.vmemmap, self.now));
        cut(now, larges(at_boot, large), large)
    }

    /// What is backed and was not by the plan `before`, of which this is the later state: all in 4 KiB pages.
    pub fn runs_since(&self, before: &Self) -> impl Iterator<Item = VmemmapRun> + use<'a> {
        let now = stretches(needed(self.vmemmap, self.now));
        let old = stretches(needed(before.vmemmap, before.now));
        cut(without(now, old), core::iter::empty(), PageSize::Size4K)
    }

    /// Bytes that are backed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs().map(VmemmapRun::size).sum()
    }
}

/// The bytes of the area that are needed, in ascending order.
fn needed<'a>(vmemmap: &'a Vmemmap, nodes: &'a Nodes) -> impl Iterator<Item = Bytes> + 'a {
    // What lies beyond the reach has no place for a record.
    let record = |frame: u64| frame.min(vmemmap.reach) * RECORD_BYTES;
    let records = nodes.blocks().map(move |block| {
        let (first, end) = block.frames();
        (record(first.as_u64()), record(end))
    });
    let first = vmemmap.books().next().map(|books| books.cpus);
    let last = vmemmap.books().last();
    let dense = first.zip(last.map(|last| last.trees + tree_bytes(&last.size)));
    let part = move |frames: usize, bytes: u64, array: fn(&Books) -> u64| {
        vmemmap.books().flat_map(move |books| {
            let parts = nodes.blocks_of(books.zone.node());
            parts.filter_map(move |block| {
                let (first, last) = units(&books, block, frames as u64)?;
                let start = array(&books);
                Some((start + first * bytes, start + (last + 1) * bytes))
            })
        })
    };
    records
        .chain(dense)
        .chain(part(TREE_FRAMES, TREE_COUNTERS, |books| books.huges))
        .chain(part(HUGE_FRAMES, HUGE_BITS, |books| books.bits))
}

/// In which units of so many frames a zone has RAM of a block, counted from its base: the first and the last.
fn units(books: &Books, block: NodeBlock, frames: u64) -> Option<(u64, u64)> {
    let (first, end) = block.frames();
    let first = first.as_u64().max(books.zone.start().as_u64());
    let last = end.min(books.zone.end()).checked_sub(1)?;
    let base = books.base();
    (first <= last).then(|| ((first - base) / frames, (last - base) / frames))
}
