//! Memory that becomes the allocator's: at boot, range by range of the memory map, and later when some is plugged in.
//!
//! All-zero books mean *no memory yet* for a tree and *all free* below it. So a tree that is added whole is one write, and
//! what lies below is first looked at when it is used: 64 TiB are a million writes. Only trees that have holes get their
//! counters and bits written: first everything as reserved, then the range opened.
//!
//! **Protocol.** One `add` at a time (a flag; whoever finds it set gets an error). Nobody looks below a tree that is not
//! present; `present` is set last, with release. Nobody looks at the bits and records of a reserved huge frame. So what is not
//! looked at need not exist, and memory for it may be mapped just before its frames are added. In a tree that is present,
//! reserved huge frames and frames that were never handed out but have their bit set belong to `add` alone; it opens them the
//! way frames are given back, bits first.

use core::fmt;

use kspace_layout::{FRAME_SIZE, Pfn};

use super::FrameAllocator;
use super::contiguous::parts;
use super::huge::{Change, Fill};
use super::index::{FrameId, HUGE_FRAMES, HugeId, TREE_FRAMES, TREE_HUGES, TreeId};
use super::record::{History, Record};
use super::sync::{Acquire, Relaxed, Release};

/// Why memory was not added. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddError {
    /// No frames.
    Empty,
    /// Not in the allocator's span.
    Outside {
        /// The range's first frame.
        start: Pfn,
        /// How many.
        frames: usize,
        /// The span's first frame.
        first: Pfn,
        /// How many the span has.
        spanned: usize,
    },
    /// Part of it has been added already.
    Known {
        /// The first such frame.
        frame: Pfn,
    },
    /// Another CPU is adding memory.
    Busy,
}

impl fmt::Display for AddError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => f.write_str("frames: add: no frames; nothing was changed"),
            Self::Outside {
                start,
                frames,
                first,
                spanned,
            } => write!(
                f,
                "frames: add of {}, {} KiB: not in the span of {} KiB from {}; nothing was changed",
                start.start(),
                (frames as u64).saturating_mul(FRAME_SIZE / 1024),
                spanned as u64 * (FRAME_SIZE / 1024),
                first.start()
            ),
            Self::Known { frame } => write!(
                f,
                "frames: add: {} is the allocator's already; nothing was changed",
                frame.start()
            ),
            Self::Busy => f.write_str(
                "frames: add: another CPU is adding memory; nothing was changed, try again",
            ),
        }
    }
}

impl core::error::Error for AddError {}

impl FrameAllocator<'_> {
    /// Makes the `frames` frames from `start` free. They were reserved until now.
    ///
    /// # Errors
    ///
    /// [`AddError`].
    pub fn add(&self, start: Pfn, frames: usize) -> Result<(), AddError> {
        let first = self.within_span(start, frames)?;
        if self
            .adding()
            .compare_exchange(false, true, Acquire, Relaxed)
            .is_err()
        {
            return Err(AddError::Busy);
        }
        let added = self.check_reserved(first, frames).map(|()| {
            self.open(first, frames);
            self.count_free(None, frames as isize);
            self.count_managed(frames);
        });
        self.adding().store(false, Release);
        added
    }

    /// Whether [`add`](Self::add) will take these frames, as long as nobody else adds them.
    ///
    /// # Errors
    ///
    /// What `add` would refuse them for; never [`AddError::Busy`].
    pub fn check_add(&self, start: Pfn, frames: usize) -> Result<(), AddError> {
        self.check_reserved(self.within_span(start, frames)?, frames)
    }

    fn within_span(&self, start: Pfn, frames: usize) -> Result<FrameId, AddError> {
        if frames == 0 {
            return Err(AddError::Empty);
        }
        let outside = AddError::Outside {
            start,
            frames,
            first: self.start(),
            spanned: self.spanned_frames(),
        };
        self.frame(start)
            .filter(|first| {
                start >= self.start() && frames <= self.meta.records.len() - first.get()
            })
            .ok_or(outside)
    }

    fn check_reserved(&self, first: FrameId, frames: usize) -> Result<(), AddError> {
        for (tree, start, len) in trees(first, frames) {
            if !self.tree(tree).is_present() {
                continue;
            }
            for (part, len) in parts(start, len) {
                if let Some(frame) = self.known_in(part, len) {
                    return Err(AddError::Known {
                        frame: self.pfn(frame),
                    });
                }
            }
        }
        Ok(())
    }

    /// A frame of a part of one huge frame that is the allocator's already.
    fn known_in(&self, part: FrameId, len: usize) -> Option<FrameId> {
        match self.counter(part.huge()).fill() {
            Fill::Reserved => None,
            Fill::Free | Fill::Whole => Some(part),
            // A block that has no first frame in the part begins before it and holds its first frame.
            Fill::Partial(_) | Fill::Full if self.block_around(part).is_some() => Some(part),
            Fill::Partial(_) | Fill::Full => (0..len).map(|at| part.plus(at)).find(|frame| {
                let used = self.bits(part.huge()).all_used(frame.in_huge(), 1);
                let touched = self.record(*frame).map(Record::history) != Some(History::Untouched);
                !used || touched || self.is_kept(*frame)
            }),
        }
    }

    fn open(&self, first: FrameId, frames: usize) {
        for (tree, start, len) in trees(first, frames) {
            let present = self.tree(tree).is_present();
            if len == TREE_FRAMES {
                self.tree(tree).note(Change {
                    whole: TREE_HUGES as i16,
                    partial: 0,
                });
            } else {
                if !present {
                    for at in 0..TREE_HUGES {
                        self.counter(HugeId::new(tree.first_huge().get() + at))
                            .set_reserved();
                    }
                }
                for (part, len) in parts(start, len) {
                    self.open_part(part, len);
                }
            }
            if !present {
                self.tree(tree).set_present();
            }
        }
    }

    fn open_part(&self, part: FrameId, len: usize) {
        let huge = part.huge();
        let counter = self.counter(huge);
        if counter.fill() == Fill::Reserved {
            if len < HUGE_FRAMES {
                // Its bits are nobody's while the counter says reserved.
                self.bits(huge).set_all();
                self.bits(huge).release_range(part.in_huge(), len);
            }
            self.tree(huge.tree()).note(counter.open(HUGE_FRAMES - len));
        } else {
            self.give_part(part, len);
        }
    }
}

/// The parts of a range that lie in one tree each.
fn trees(first: FrameId, frames: usize) -> impl Iterator<Item = (TreeId, FrameId, usize)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let start = first.plus(done);
        let in_tree = start.get() - start.tree().first_frame().get();
        let len = (TREE_FRAMES - in_tree).min(frames - done);
        done += len;
        (len > 0).then_some((start.tree(), start, len))
    })
}
