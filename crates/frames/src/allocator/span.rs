//! The allocator itself: one span of frame numbers and the books on it.

use core::ops::Range;

use kspace_layout::Pfn;

use super::bits::{HugeBits, WORDS};
use super::cache::{CpuSlot, HUGE, PinnedCpu, SMALL};
use super::huge::{Counter, Fill};
use super::index::{FrameId, HUGE_FRAMES, HugeId, Order, TREE_HUGES, TreeId};
use super::metadata::Metadata;
use super::record::{History, Owner, Record};
use super::sync::{AtomicBool, AtomicUsize, Relaxed};
use super::tree::Tree;

/// How much of a change one CPU keeps to itself before it goes to the common count of free frames.
const FREE_SLACK: isize = 1024;

/// An allocator of the physical frames of one span. Any number of CPUs use it at once through `&self`.
#[derive(Debug)]
pub struct FrameAllocator<'m> {
    /// Frame number 0: the span's start, aligned down to [`Order::MAX`].
    pub(super) base: u64,
    start: Pfn,
    frames: usize,
    pub(super) meta: Metadata<'m>,
    written: Written,
    pub(super) small_limit: usize,
    pub(super) huge_limit: usize,
}

/// What changes while the allocator is in use: not in the cache line that every call reads.
#[derive(Debug)]
#[repr(C, align(64))]
struct Written {
    /// Free frames, without those that CPUs keep; modulo 2^bits, and wrong by what is in [`CpuSlot`]s.
    free: AtomicUsize,
    managed: AtomicUsize,
    refused: AtomicUsize,
    adding: AtomicBool,
}

impl<'m> FrameAllocator<'m> {
    /// From checked parts.
    pub(super) fn from_parts(start: Pfn, frames: usize, meta: Metadata<'m>) -> Self {
        let cpus = meta.cpus.len();
        Self {
            base: start.as_u64() & !(Order::MAX.frames() as u64 - 1),
            start,
            frames,
            meta,
            written: Written {
                free: AtomicUsize::new(0),
                managed: AtomicUsize::new(0),
                refused: AtomicUsize::new(0),
                adding: AtomicBool::new(false),
            },
            // All CPUs together keep at most an eighth of the memory in each kind of stack.
            small_limit: (frames / (8 * cpus)).clamp(2, SMALL),
            huge_limit: (frames / Order::HUGE.frames() / (8 * cpus)).min(HUGE),
        }
    }

    /// The first frame of the span.
    #[must_use]
    pub fn start(&self) -> Pfn {
        self.start
    }

    /// How many frames the span has, usable or not.
    #[must_use]
    pub fn spanned_frames(&self) -> usize {
        self.frames
    }

    /// The frames that have a number here: those of the span, and a few below it, up to a multiple of [`Order::MAX`].
    pub(crate) fn numbered(&self) -> Range<u64> {
        self.base..self.base + self.meta.records.len() as u64
    }

    /// How many frames from this one on lie in the span; none when it does not.
    #[must_use]
    pub fn frames_from(&self, first: Pfn) -> u64 {
        let before = first.as_u64().wrapping_sub(self.base);
        (self.meta.records.len() as u64).saturating_sub(before)
    }

    /// How many frames were [added](Self::add).
    #[must_use]
    pub fn managed_frames(&self) -> usize {
        self.written.managed.load(Relaxed)
    }

    /// How many CPUs it was made for.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.meta.cpus.len()
    }

    /// How many frames are free, without those that CPUs keep for themselves: wrong by at most [`drift`](Self::drift), and
    /// exact when every CPU has been [drained](Self::drain). One load, for watermarks.
    #[inline]
    #[must_use]
    pub fn free_frames(&self) -> usize {
        (self.written.free.load(Relaxed) as isize).max(0) as usize
    }

    /// By how many frames [`free_frames`](Self::free_frames) may be wrong: 1024 for each CPU.
    #[inline]
    #[must_use]
    pub fn drift(&self) -> usize {
        self.cpus() * FREE_SLACK as usize
    }

    /// As [`free_frames`](Self::free_frames), with every CPU's part: exact while nobody allocates or frees.
    #[must_use]
    pub fn free_frames_exact(&self) -> usize {
        let parts = self
            .meta
            .cpus
            .iter()
            .map(|slot| slot.homes.free.load(Relaxed));
        let sum = parts.fold(self.written.free.load(Relaxed), usize::wrapping_add);
        (sum as isize).max(0) as usize
    }

    /// How many huge frames are wholly free, without those that CPUs keep. Looks at every tree.
    #[must_use]
    pub fn free_huges(&self) -> usize {
        let whole = |tree: &Tree| tree.counts().0 as usize;
        self.meta.trees.iter().map(whole).sum()
    }

    /// What the record of a frame says; `None` outside the span and where no memory was added.
    #[must_use]
    pub fn history(&self, pfn: Pfn) -> Option<History> {
        let frame = self.frame(pfn).filter(|frame| self.has_books(*frame))?;
        self.record(frame).map(Record::history)
    }

    /// How many frames are in use for `owner`. Looks at every record of memory that is not free: some milliseconds for each GiB. While
    /// others allocate or free, what they do meanwhile may be missing.
    #[must_use]
    pub fn frames_of(&self, owner: Owner) -> usize {
        let huges = (0..self.meta.trees.len())
            .filter(|tree| self.meta.trees[*tree].is_present())
            .flat_map(|tree| tree * TREE_HUGES..(tree + 1) * TREE_HUGES)
            .map(HugeId::new);
        huges.map(|huge| self.frames_of_in(huge, owner)).sum()
    }

    fn frames_of_in(&self, huge: HugeId, owner: Owner) -> usize {
        match self.counter(huge).fill() {
            Fill::Free | Fill::Reserved => return 0,
            Fill::Partial(_) | Fill::Full | Fill::Whole => {}
        }
        let first = huge.first_frame().get();
        let end = (first + HUGE_FRAMES).min(self.meta.records.len());
        let records = self.meta.records.get(first..end).unwrap_or_default();
        let of = |record: &Record| match record.history() {
            History::InUse {
                owner: its, order, ..
            } if its == owner => order.frames(),
            _ => 0,
        };
        records.iter().map(of).sum()
    }

    /// Whether there is anything to look at for a frame that somebody names by number: books are backed only where memory was
    /// added (`add` has the protocol).
    #[inline]
    pub(super) fn has_books(&self, frame: FrameId) -> bool {
        self.tree(frame.tree()).is_present() && self.counter(frame.huge()).fill() != Fill::Reserved
    }

    /// The number of a frame of the span.
    #[inline]
    pub(super) fn frame(&self, pfn: Pfn) -> Option<FrameId> {
        let number = pfn.as_u64().wrapping_sub(self.base);
        let number = usize::try_from(number).ok()?;
        (number < self.meta.records.len()).then_some(FrameId::new(number))
    }

    /// The frame with a number that lies in the span.
    #[inline]
    pub(super) fn pfn(&self, frame: FrameId) -> Pfn {
        // The span ends below 2^40, as was checked when it was made.
        Pfn::try_new(self.base + frame.get() as u64).unwrap_or(self.start)
    }

    #[inline]
    pub(super) fn record(&self, frame: FrameId) -> Option<&Record> {
        self.meta.records.get(frame.get())
    }

    #[inline]
    pub(super) fn slot(&self, pin: &PinnedCpu) -> Option<&CpuSlot> {
        self.meta.cpus.get(usize::from(pin.cpu()))
    }

    #[inline]
    pub(super) fn counter(&self, huge: HugeId) -> Counter<'_> {
        self.meta.huges[huge.get() / 2].half(huge)
    }

    #[inline]
    pub(super) fn bits(&self, huge: HugeId) -> HugeBits<'_> {
        HugeBits(&self.meta.bits[huge.get() * WORDS..][..WORDS])
    }

    #[inline]
    pub(super) fn tree(&self, tree: TreeId) -> &Tree {
        &self.meta.trees[tree.get()]
    }

    /// The pairs of counters of one tree.
    #[inline]
    pub(super) fn pairs(&self, tree: TreeId) -> &[super::huge::HugePair] {
        &self.meta.huges[tree.get() * (TREE_HUGES / 2)..][..TREE_HUGES / 2]
    }

    /// Takes note that so many more (or fewer) frames are free.
    pub(super) fn count_free(&self, slot: Option<&CpuSlot>, change: isize) {
        let Some(slot) = slot else {
            self.written.free.fetch_add(change as usize, Relaxed);
            return;
        };
        let own = &slot.homes.free;
        let sum = own.load(Relaxed).wrapping_add(change as usize);
        own.store(sum, Relaxed);
        if (sum as isize).abs() >= FREE_SLACK {
            self.flush_free(slot);
        }
    }

    /// Moves a CPU's part of the count of free frames to the common count.
    pub(super) fn flush_free(&self, slot: &CpuSlot) {
        let own = slot.homes.free.load(Relaxed);
        slot.homes.free.store(0, Relaxed);
        self.written.free.fetch_add(own, Relaxed);
    }

    /// How many values could not free their frames when they were dropped, because somebody had freed them by number.
    #[must_use]
    pub fn refused_drops(&self) -> usize {
        self.written.refused.load(Relaxed)
    }

    pub(super) fn count_refused(&self) {
        self.written.refused.fetch_add(1, Relaxed);
    }

    /// Set while somebody adds memory.
    pub(super) fn adding(&self) -> &AtomicBool {
        &self.written.adding
    }

    pub(super) fn count_managed(&self, frames: usize) {
        self.written.managed.fetch_add(frames, Relaxed);
    }
}
