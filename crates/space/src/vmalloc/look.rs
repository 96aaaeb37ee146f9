//! Which areas there are, and how much: for `/proc/vmallocinfo`, `/proc/meminfo`, and whoever explains a fault.

use core::panic::Location;
use core::sync::atomic::Ordering;

use kspace_frames::zone::NodeId;
use kspace_layout::{FRAME_SIZE, VirtAddr, VirtRange};

use super::caller::Caller;
use super::chunk::{Chunk, SLOTS};
use super::pages::CHUNK_PAGES;
use super::pool::Books;
use super::slot::AreaWord;
use super::state::{CHUNK_BYTES, Vmalloc};
use super::{Kernel, Kind};

/// What is known of an area. It may be freed at any moment, unless it is the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaInfo {
    /// Its addresses, without the guard page that follows.
    pub range: VirtRange,
    /// Its pages.
    pub pages: u64,
    /// What it is for.
    pub kind: Kind,
    /// The node that was asked for.
    pub node: Option<NodeId>,
    /// Whether it is in use.
    pub state: State,
    /// Whether it may be mapped in [user spaces](crate::user).
    pub user: bool,
    /// Whether pages of it are [changed](crate::permissions), so that it cannot be freed before they are restored.
    pub changed: bool,
    /// Who allocated it; or freed it, when it is freed. `None` when that is in another image.
    pub caller: Option<&'static Location<'static>>,
}

/// Whether an area is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is.
    Live,
    /// It is freed, and waits for the purge.
    Freed,
}

/// How much there is, as `/proc/meminfo` wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of address space (`VmallocTotal`).
    pub bytes: u64,
    /// Bytes in live areas, guards not counted (`VmallocUsed`).
    pub used: u64,
    /// The longest free piece in bytes, chunks not counted (`VmallocChunk`).
    pub largest: u64,
    /// Live areas.
    pub areas: u64,
    /// Freed pages that wait for a purge.
    pub lazy_pages: u64,
    /// Chunks.
    pub chunks: u64,
    /// Of these, the ones without areas.
    pub empty_chunks: u64,
    /// Blocks that could not be given back, because the books on frames said otherwise: lost until reboot.
    pub lost_blocks: u64,
    /// Purges that had something to flush, since the beginning.
    pub purges: u64,
}

impl<'a, K: Kernel, const CPUS: usize> Vmalloc<'a, K, CPUS> {
    /// The area that `address` lies in, or in whose guard page.
    #[must_use]
    pub fn find(&self, address: VirtAddr) -> Option<AreaInfo> {
        self.find_by(address, Self::find_large)
    }

    /// As [`find`](Self::find), without waiting for any lock: for who explains a fault, while a CPU that was stopped may hold one. `None` also
    /// when another CPU has the books of large areas just now.
    #[must_use]
    pub fn try_find(&self, address: VirtAddr) -> Option<AreaInfo> {
        self.find_by(address, Self::try_find_large)
    }

    fn find_by(
        &self,
        address: VirtAddr,
        large: impl FnOnce(&Self, VirtAddr) -> Option<AreaInfo>,
    ) -> Option<AreaInfo> {
        if !self.area().contains(address) {
            return None;
        }
        let off = self.off();
        let Some(books) = self.index.get(self, self.number_of(address)) else {
            drop(off);
            return large(self, address);
        };
        let page = address.as_u64() / FRAME_SIZE % CHUNK_PAGES;
        self.around(self.chunk(books), page)
    }

    /// The first area that begins at or after `from`.
    #[must_use]
    pub fn next(&self, from: VirtAddr) -> Option<AreaInfo> {
        let from = from.max(self.area().start());
        if from > self.area().last() {
            return None;
        }
        let small = self.next_small(from);
        let large = self.next_large(from);
        match (small, large) {
            (Some(small), Some(large)) if large.range.start() < small.range.start() => Some(large),
            (None, large) => large,
            (small, _) => small,
        }
    }

    /// All areas in the order of their addresses. Those that are made or freed meanwhile may be missing, or there.
    pub fn areas(&self) -> impl Iterator<Item = AreaInfo> + '_ {
        let mut from = Some(self.area().start());
        core::iter::from_fn(move || {
            let info = self.next(from?)?;
            // Behind an area is its guard, at least.
            from = info.range.last().checked_add(1).ok();
            Some(info)
        })
    }

    /// Notes of the area in use that begins at `start` whether pages of it are changed; while they are, nobody can free it. False: there is no
    /// such area.
    pub(crate) fn mark_changed(&self, start: VirtAddr, changed: bool) -> bool {
        let off = self.off();
        match self.chunk_numbered(&off, self.number_of(start)) {
            Some(known) => {
                let page = start.as_u64() / FRAME_SIZE % CHUNK_PAGES;
                AreaWord::mark(known.chunk.area(page), page, changed)
            }
            None => {
                drop(off);
                self.mark_large(start, changed)
            }
        }
    }

    /// How much there is.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let arenas = self.arenas();
        let sum = |count: fn(&super::arena::Arena) -> u64| {
            arenas.iter().map(count).fold(0, u64::wrapping_add)
        };
        let lazy = self
            .lazy
            .load(Ordering::Relaxed)
            .wrapping_add(sum(super::arena::Arena::lazy));
        let off = self.off();
        let largest = self.with_space(&off, |space| space.largest_free());
        let (chunks, empty_chunks) = self.with_pool(&off, |pool| (pool.chunks(), pool.empty()));
        drop(off);
        let small = Totals {
            bytes: self.area().size(),
            used: not_below_zero(sum(super::arena::Arena::used)) * FRAME_SIZE,
            largest: largest * FRAME_SIZE,
            areas: not_below_zero(sum(super::arena::Arena::areas)),
            lazy_pages: not_below_zero(lazy),
            chunks,
            empty_chunks,
            lost_blocks: self.lost.load(Ordering::Relaxed),
            purges: self.purges.load(Ordering::Relaxed),
        };
        self.add_large(small)
    }

    fn next_small(&self, from: VirtAddr) -> Option<AreaInfo> {
        let mut number = self.number_of(from);
        let mut slot = (from.as_u64().div_ceil(FRAME_SIZE) % CHUNK_PAGES) / 2;
        if from.as_u64() % CHUNK_BYTES > CHUNK_BYTES - FRAME_SIZE {
            // Behind the start of its last page: nothing begins in this chunk any more.
            (number, slot) = (number + 1, 0);
        }
        loop {
            let off = self.off();
            let (found, books) = self.index.next(self, number)?;
            let chunk = self.chunk(books);
            let first = if found == number { slot } else { 0 };
            let info = (first..SLOTS as u64).find_map(|slot| {
                let word = AreaWord::load(chunk.area(2 * slot));
                let info = word.is_known().then(|| self.info(chunk, slot, word))?;
                (info.range.start() >= from).then_some(info)
            });
            drop(off);
            if info.is_some() {
                return info;
            }
            (number, slot) = (found + 1, 0);
        }
    }

    pub(super) fn info(&self, chunk: Chunk<'a>, slot: u64, word: AreaWord) -> AreaInfo {
        let node = word.node().checked_sub(1);
        AreaInfo {
            range: self.range_of(chunk.number(), word.first(slot), word.pages()),
            pages: word.pages(),
            kind: Kind::from_raw(word.kind()),
            node: node.and_then(|node| NodeId::try_new(node as u32)),
            state: if word.is_live() || word.is_mapped() {
                State::Live
            } else {
                State::Freed
            },
            user: false,
            changed: word.is_changed(),
            // SAFETY: the words of areas have callers from `Caller::raw` only.
            caller: unsafe { Caller::place(word.caller()) },
        }
    }
}

/// A sum of counts that were not read at one moment.
fn not_below_zero(sum: u64) -> u64 {
    if (sum as i64) < 0 { 0 } else { sum }
}
