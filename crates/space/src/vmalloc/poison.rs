//! The pattern in freed frames: written when an area is freed, looked for when it is purged.
//!
//! ```text
//!   free                                    purge: flush ... look ... give back
//!    |  frames filled with the pattern        |
//!    |<--- a write here is somebody's who --->|
//!          freed too early: a CPU's stale translation, another mapping of the frame
//! ```
//!
//! Only frames that areas own: given ones are their givers'.

use core::sync::atomic::Ordering;

use kspace_layout::{FRAME_SIZE, Pfn, VirtAddr, VirtRange};
use kspace_paging::{LeafSlot, PhysMemory};

use super::caller::Caller;
use super::chunk::{Chunk, FRAME_WORDS};
use super::settings::Debug;
use super::slot::AreaWord;
use super::state::Vmalloc;
use super::{Kernel, Kind};
use crate::platform::{Complaint, Cpu, WrittenAfterFree};

impl<'a, K: Kernel, const CPUS: usize> Vmalloc<'a, K, CPUS> {
    /// Fills the frames of the area at `first` in a chunk, whose entries are there still, and takes down who made it.
    #[cold]
    pub(super) fn poison_area(&self, chunk: Chunk<'a>, first: u64, word: AreaWord, maker: u32) {
        if !Kind::from_raw(word.kind()).owns_frames() {
            return;
        }
        chunk.set_maker(first / 2, maker);
        let (table, base) = (self.leaf_table(chunk), self.slot_of(chunk, first));
        for slot in base..base + word.pages() as usize {
            if let LeafSlot::Page(frame) = table.load(slot) {
                self.poison_frames(frame, 1);
            }
        }
    }

    /// Fills the frames of a large area, whose entries are there still.
    #[cold]
    pub(super) fn poison_range(&self, range: VirtRange) {
        for run in self.walker().runs(range).flatten() {
            self.poison_frames(run.phys.pfn(), run.virt.size() / FRAME_SIZE);
        }
    }

    /// Fills frames that belong to nobody else.
    pub(super) fn poison_frames(&self, first: Pfn, count: u64) {
        for frame in first.as_u64()..first.as_u64() + count {
            // A frame out of reach has no pattern, and is not looked at either.
            for word in self.content(Pfn::new(frame)).into_iter().flatten() {
                word.store(Debug::POISON, Ordering::Relaxed);
            }
        }
    }

    fn content(&self, frame: Pfn) -> Option<&'a [core::sync::atomic::AtomicU64]> {
        self.memory().entries::<u64>(frame.start(), FRAME_WORDS)
    }

    /// Looks at the frames of an area in a chunk that is purged. Reports the first word that is not the pattern.
    pub(super) fn check_area(&self, chunk: Chunk<'a>, slot: u64, word: AreaWord) {
        if !Kind::from_raw(word.kind()).owns_frames() {
            return;
        }
        let (table, first) = (self.leaf_table(chunk), word.first(slot));
        let base = self.slot_of(chunk, first);
        let found = (0..word.pages()).find_map(|page| {
            let LeafSlot::Parked(frame) = table.load(base + page as usize) else {
                return None;
            };
            let at = self.address_of(chunk.number(), first + page);
            self.find_written(frame, at)
        });
        if let Some((address, value)) = found {
            self.platform()
                .report(&Complaint::WrittenAfterFree(WrittenAfterFree {
                    area: self.range_of(chunk.number(), first, word.pages()),
                    address,
                    value,
                    // SAFETY: chunks have makers, and words callers, from `Caller::raw` only.
                    made_by: unsafe { Caller::place(chunk.maker(slot)) },
                    // SAFETY: as above.
                    freed_by: unsafe { Caller::place(word.caller()) },
                }));
        }
    }

    /// The first word of a frame that is not the pattern: where it is in an area that has the frame at `at`, and what it is.
    pub(super) fn find_written(&self, frame: Pfn, at: VirtAddr) -> Option<(VirtAddr, u64)> {
        let words = self.content(frame)?.iter().zip(0..);
        let mut wrong = words
            .map(|(word, index)| (word.load(Ordering::Relaxed), index))
            .filter(|(value, _)| *value != Debug::POISON);
        let (value, index): (u64, u64) = wrong.next()?;
        let address = VirtAddr::new(at.as_u64() + 8 * index);
        Some((address, value))
    }
}
