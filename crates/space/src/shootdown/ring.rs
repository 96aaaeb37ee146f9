//! The generations, and what the last few of them ask for.
//!
//! A generation is a number that is taken once, by whoever wants CPUs to forget something, *after* the entries were changed. Generation
//! `g` has slot `g % SLOTS`, whose tag says what is in it:
//!
//! ```text
//!   tag   2 * g        the request of generation g is here
//!         2 * g + 1    somebody writes the request of generation g
//! ```
//!
//! Nobody waits for a slot. Who finds it taken by another writer, or by a later generation, leaves it; who looks for a generation and
//! finds another one, or a writer, knows nothing about what it asks for. That is always an answer: *forget everything*, because
//! whatever it was, its entries were changed before its number was seen.

use super::request::Request;
use super::sync::{AtomicU64, Ordering, fence};

const BUSY: u64 = 1;

/// Generations, and the requests of the last `SLOTS` of them.
pub(super) struct Ring<const SLOTS: usize> {
    last: AtomicU64,
    slots: [Slot; SLOTS],
}

struct Slot {
    tag: AtomicU64,
    words: [AtomicU64; 2],
}

impl Slot {
    constructor! {
        fn new() -> Self {
            Self {
                tag: AtomicU64::new(0),
                words: array_of![AtomicU64::new(0); 2],
            }
        }
    }
}

impl<const SLOTS: usize> Ring<SLOTS> {
    constructor! {
        pub(super) fn new() -> Self {
            Self {
                last: AtomicU64::new(0),
                slots: array_of![Slot::new(); SLOTS],
            }
        }
    }

    /// The last generation taken. What its taker, and those of all before it, had stored is visible.
    #[inline]
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// Takes the next `count` generations, and returns the last of them. What the caller has stored is visible to whoever sees them.
    pub(super) fn take(&self, count: u64) -> u64 {
        self.last.fetch_add(count, Ordering::SeqCst) + count
    }

    /// Puts the request of a generation, which the caller has taken, where others find it; unless the slot is somebody else's.
    pub(super) fn publish(&self, generation: u64, request: Request) {
        let slot = self.slot(generation);
        let tag = slot.tag.load(Ordering::Relaxed);
        if tag & BUSY != 0 || tag > generation << 1 {
            return;
        }
        let busy = generation << 1 | BUSY;
        // Acquire: our words replace those of the slot's last writer, not the other way round.
        if slot
            .tag
            .compare_exchange(tag, busy, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            return;
        }
        // A reader that sees one of the words also sees that the slot is being written: pairs with the fence in `find`.
        fence(Ordering::Release);
        for (word, value) in slot.words.iter().zip(request.encode()) {
            word.store(value, Ordering::Relaxed);
        }
        slot.tag.store(generation << 1, Ordering::Release);
    }

    /// The request of a generation; `None` when it is not there: not yet, not any more, or never was.
    pub(super) fn find(&self, generation: u64) -> Option<Request> {
        let slot = self.slot(generation);
        if slot.tag.load(Ordering::Acquire) != generation << 1 {
            return None;
        }
        let words = [0, 1].map(|index| slot.words[index].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        (slot.tag.load(Ordering::Relaxed) == generation << 1).then(|| Request::decode(words))
    }

    fn slot(&self, generation: u64) -> &Slot {
        // Below SLOTS, so nothing is cut off.
        &self.slots[(generation % SLOTS as u64) as usize]
    }
}
