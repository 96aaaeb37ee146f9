//! Which areas wait for the purge, and which chunks have some.
//!
//! ```text
//!   freer                                   purger
//!     sets the area's bit                     takes the stack, whole
//!     looks whether its chunk is marked       for each chunk: takes the mark off, then all bits
//!     if not: marks it, puts it on the stack
//! ```
//!
//! No area is missed: bits change in one order for all. Either the purger takes the bit, or the freer sets it after the purger has
//! taken that word's, which was after the mark was off, and so puts the chunk on the stack again.
//!
//! A chunk may be on the stack without a bit: the purger took the bit between the freer's two steps. So a chunk may be given up only
//! when its mark is off and no freer can be between them: they have interrupts off, and so have ended when a shootdown that
//! began after the bit was taken has been answered.

use super::sync::{AtomicU64, Ordering};

/// Words that hold one bit for each of a chunk's areas.
pub(super) const LAZY_WORDS: usize = 4;

/// Chunks with areas to be purged, by the addresses of their descriptors; each has the address of the next one. Zero is none.
pub(super) struct DirtyStack {
    head: AtomicU64,
}

impl DirtyStack {
    constructor! {
        pub(super) fn new() -> Self {
            Self {
                head: AtomicU64::new(0),
            }
        }
    }

    /// Puts a chunk on it. It is on no stack.
    #[cold]
    pub(super) fn push(&self, chunk: u64, link: &AtomicU64) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            link.store(head, Ordering::Relaxed);
            // Release: who takes the chunk sees its link. Nothing is ever taken from the middle, so a head that was away and came back
            // is as good as one that stayed.
            match self
                .head
                .compare_exchange_weak(head, chunk, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(other) => head = other,
            }
        }
    }

    /// Takes all that is on it: the first one.
    pub(super) fn take(&self) -> u64 {
        self.head.swap(0, Ordering::Acquire)
    }
}

/// Sets the bit of an area whose entries are parked. Whether its chunk must be put on the stack, by the caller.
#[inline]
#[must_use]
pub(super) fn set_lazy(bits: &[AtomicU64; LAZY_WORDS], mark: &AtomicU64, slot: u64) -> bool {
    // Release: who takes the bit sees the entries. Acquire: who comes after the purger sees that the mark is off.
    bits[slot as usize / 64 % LAZY_WORDS].fetch_or(1 << (slot % 64), Ordering::AcqRel);
    mark.load(Ordering::Relaxed) == 0 && mark.swap(1, Ordering::AcqRel) == 0
}

/// Takes the mark off, and then all bits.
pub(super) fn take_lazy(bits: &[AtomicU64; LAZY_WORDS], mark: &AtomicU64) -> [u64; LAZY_WORDS] {
    // Acquire: who marks it again has read the link by then; see `push`.
    mark.swap(0, Ordering::AcqRel);
    bits.each_ref().map(|word| word.swap(0, Ordering::AcqRel))
}
