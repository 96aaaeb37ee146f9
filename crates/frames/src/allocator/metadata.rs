//! The memory that the allocator keeps its books in: handed over by the caller, because there is no heap yet.
//!
//! ```text
//!   CpuSlot x CPUs | Tree x trees | HugePair x 16 a tree | BitWord x 256 a tree | Record x frames
//!                    8 bytes each   4 bytes each           8 bytes each           4 bytes each
//! ```
//!
//! That is 4.13 bytes a frame, 1.03 MiB for each GiB of memory. All zero is a valid state and means *no memory yet*: pages
//! of it that are never looked at need not exist.

use core::fmt;
#[cfg(not(feature = "loom"))]
use core::ptr::NonNull;

use super::bits::{BitWord, WORDS};
use super::cache::CpuSlot;
use super::huge::HugePair;
use super::index::{Order, TREE_FRAMES, TREE_HUGES};
use super::record::Record;
use super::tree::Tree;
use crate::allocator::FrameAllocator;
use kspace_layout::Pfn;

/// How much of each kind of record an allocator needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataSize {
    /// [`CpuSlot`]s.
    pub cpus: usize,
    /// [`Tree`]s.
    pub trees: usize,
    /// [`HugePair`]s.
    pub huges: usize,
    /// [`BitWord`]s.
    pub bits: usize,
    /// [`Record`]s.
    pub records: usize,
}

impl MetadataSize {
    /// What an allocator of the `frames` frames from `start`, used by `cpus` CPUs, needs.
    #[must_use]
    pub fn new(start: Pfn, frames: usize, cpus: usize) -> Self {
        let below = start.as_u64() as usize % Order::MAX.frames();
        let records = frames.saturating_add(below);
        let trees = records.div_ceil(TREE_FRAMES);
        Self {
            cpus,
            trees,
            huges: trees * (TREE_HUGES / 2),
            bits: trees * TREE_HUGES * WORDS,
            records,
        }
    }

    /// Bytes, from an address aligned to [`ALIGN`](Self::ALIGN); [`usize::MAX`] when that is more than there are addresses.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.offsets()[5]
    }

    /// The alignment of the memory: a cache line.
    pub const ALIGN: usize = align_of::<CpuSlot>();

    /// Where each array begins, in the order of the fields, and the end of the last. Bit words begin at a cache line, so
    /// that each huge frame's are one.
    fn offsets(&self) -> [usize; 6] {
        let parts = [
            self.cpus.saturating_mul(size_of::<CpuSlot>()),
            self.trees * size_of::<Tree>(),
            self.huges * size_of::<HugePair>(),
            self.bits * size_of::<BitWord>(),
            self.records.saturating_mul(size_of::<Record>()),
        ];
        let mut offsets = [0_usize; 6];
        for (index, part) in parts.into_iter().enumerate() {
            let end = offsets[index].saturating_add(part);
            offsets[index + 1] = end
                .checked_next_multiple_of(Self::ALIGN)
                .unwrap_or(usize::MAX);
        }
        offsets
    }
}

/// The arrays, each all zero (or all default) when an allocator is made of them.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'m> {
    /// One for each CPU.
    pub cpus: &'m [CpuSlot],
    /// One for each 64 MiB.
    pub trees: &'m [Tree],
    /// One for each 4 MiB.
    pub huges: &'m [HugePair],
    /// One for each 256 KiB.
    pub bits: &'m [BitWord],
    /// One for each frame.
    pub records: &'m [Record],
}

impl<'m> Metadata<'m> {
    /// Takes zeroed memory in use. Nothing is read or written: not one page of it is touched.
    ///
    /// # Safety
    ///
    /// `memory` is aligned to [`MetadataSize::ALIGN`]; its `size.bytes()` bytes are all zero, and only this value and what
    /// is made of it use them as long as `'m` lasts.
    #[cfg(not(feature = "loom"))]
    #[must_use]
    #[allow(unsafe_code)] // A promise passed on.
    pub unsafe fn from_zeroed(memory: NonNull<u8>, size: MetadataSize) -> Self {
        let [cpus, trees, huges, bits, records, _] = size.offsets();
        // SAFETY: the offsets come from the same size, each a multiple of 64, and the contract is that of `at`.
        unsafe { Self::at(memory, [cpus, trees, huges, bits, records], size) }
    }

    /// The arrays at these offsets from `memory`, in the order of the fields.
    ///
    /// # Safety
    ///
    /// Each array is aligned for its type, does not wrap around the end of memory, is all zero where it is ever looked at, and
    /// used by this value and what is made of it alone as long as `'m` lasts; but of records, each allocator uses those of
    /// frames that were added to it.
    #[cfg(not(feature = "loom"))]
    #[allow(unsafe_code)] // The one place where bytes become records; everything above it is safe.
    pub(crate) unsafe fn at(memory: NonNull<u8>, offsets: [usize; 5], size: MetadataSize) -> Self {
        /// # Safety
        ///
        /// As for `at`; `offset` is aligned for `T`, which is valid as zeros and only made of atomics.
        unsafe fn part<'m, T>(memory: NonNull<u8>, offset: usize, len: usize) -> &'m [T] {
            // SAFETY: by the contract, in bounds, aligned, zeroed, and ours for 'm.
            unsafe { NonNull::slice_from_raw_parts(memory.add(offset).cast::<T>(), len).as_ref() }
        }
        // SAFETY: by the contract; all five types consist of atomics alone, for which zeros are a value, and which may be changed
        // behind a shared reference. Parts that are never looked at are never accessed.
        unsafe {
            Self {
                cpus: part(memory, offsets[0], size.cpus),
                trees: part(memory, offsets[1], size.trees),
                huges: part(memory, offsets[2], size.huges),
                bits: part(memory, offsets[3], size.bits),
                records: part(memory, offsets[4], size.records),
            }
        }
    }

    /// How much there is.
    #[must_use]
    pub fn size(&self) -> MetadataSize {
        MetadataSize {
            cpus: self.cpus.len(),
            trees: self.trees.len(),
            huges: self.huges.len(),
            bits: self.bits.len(),
            records: self.records.len(),
        }
    }
}

/// Why no allocator can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewError {
    /// The span has no frames, or reaches past the 40 bits of frame numbers.
    Span {
        /// The first frame.
        start: Pfn,
        /// How many.
        frames: usize,
    },
    /// The arrays are not of the size that the span and the number of CPUs ask for.
    Metadata {
        /// What is needed.
        needed: MetadataSize,
        /// What was given.
        given: MetadataSize,
    },
}

impl fmt::Display for NewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Span { start, frames } => write!(
                f,
                "frames: span of {frames} frames from {}: it must have at least one and end below 2^52",
                start.start()
            ),
            Self::Metadata { needed, given } => write!(
                f,
                "frames: metadata of {} bytes is needed for {} frames and {} CPUs, {} were given for {} and {}",
                needed.bytes(),
                needed.records,
                needed.cpus,
                given.bytes(),
                given.records,
                given.cpus
            ),
        }
    }
}

impl core::error::Error for NewError {}

impl<'m> FrameAllocator<'m> {
    /// An allocator for the `frames` frames from `start`, of which none is usable yet: see [`add`](Self::add). Takes no
    /// time: nothing is written.
    ///
    /// # Errors
    ///
    /// [`NewError`].
    pub fn new(start: Pfn, frames: usize, metadata: Metadata<'m>) -> Result<Self, NewError> {
        let last = (frames as u64)
            .checked_sub(1)
            .and_then(|more| start.as_u64().checked_add(more))
            .and_then(|last| Pfn::try_new(last).ok());
        if last.is_none() {
            return Err(NewError::Span { start, frames });
        }
        let given = metadata.size();
        let needed = MetadataSize::new(start, frames, given.cpus.clamp(1, MAX_CPUS));
        if given != needed {
            return Err(NewError::Metadata { needed, given });
        }
        Ok(Self::from_parts(start, frames, metadata))
    }
}

/// CPU numbers that fit into a frame's record and a tree's holder.
const MAX_CPUS: usize = 1 << 15;
