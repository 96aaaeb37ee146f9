//! Trees of 32 huge frames: where to look for what, and whose tree it is.
//!
//! A tree's two counts say how many of its huge frames are wholly and partly free. They change only when a huge frame
//! becomes another kind, about twice in a thousand frames, after the change itself. So they lag: at any moment they may
//! be wrong by the changes under way (even below zero), and they are exact once everybody is done. They are where to look
//! first, never what may be taken.
//!
//! A CPU *reserves* a tree to be alone there. Nothing depends on it: who finds nothing elsewhere takes from reserved trees
//! as well (*steals*), because every bit and counter below is safe for all. So there is nothing to hand over when a CPU is
//! stopped or its thread moves on.

use super::huge::Change;
use super::sync::{AcqRel, Acquire, AtomicU32, Relaxed, Release};

const PRESENT: u32 = 1 << 31;
const HOLDER: u32 = PRESENT - 1;

/// What is known of one tree. All zero: no memory yet.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Tree {
    /// `(whole << 16) + partial`, as one sum modulo 2^32: a field that is below zero for a moment borrows from the other,
    /// and gives back later.
    counts: AtomicU32,
    /// Whether there is memory, and which CPU (plus one) has reserved it.
    state: AtomicU32,
}

impl Tree {
    /// How many huge frames are wholly, and how many partly free, as far as is known.
    #[inline]
    pub(super) fn counts(&self) -> (u32, u32) {
        let sum = self.counts.load(Relaxed);
        let partial = i32::from(sum as u16 as i16);
        let whole = i32::from((sum.wrapping_sub(partial as u32) >> 16) as u16 as i16);
        (whole.max(0) as u32, partial.max(0) as u32)
    }

    /// Takes note of a change that has happened.
    #[inline]
    pub(super) fn note(&self, change: Change) {
        if change != Change::NONE {
            self.add(change);
        }
    }

    #[cold]
    fn add(&self, change: Change) {
        let sum = ((i32::from(change.whole) << 16) + i32::from(change.partial)) as u32;
        self.counts.fetch_add(sum, Relaxed);
    }

    /// Whether it has memory: only then its counters and bits mean anything.
    #[inline]
    pub(super) fn is_present(&self) -> bool {
        self.state.load(Acquire) & PRESENT != 0
    }

    /// Says that counters and bits are in order now.
    pub(super) fn set_present(&self) {
        self.state.fetch_or(PRESENT, Release);
    }

    /// Whether nobody has reserved it.
    #[inline]
    pub(super) fn is_unreserved(&self) -> bool {
        self.state.load(Relaxed) & HOLDER == 0
    }

    /// Reserves it for `cpu`, if nobody has.
    pub(super) fn reserve(&self, cpu: u16) -> bool {
        self.state
            .compare_exchange(PRESENT, PRESENT | (u32::from(cpu) + 1), AcqRel, Relaxed)
            .is_ok()
    }

    /// Gives up the reservation of `cpu`, if it has it.
    pub(super) fn unreserve(&self, cpu: u16) {
        let _ =
            self.state
                .compare_exchange(PRESENT | (u32::from(cpu) + 1), PRESENT, AcqRel, Relaxed);
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::{Change, Tree};

    #[test]
    fn counts_survive_being_below_zero_for_a_moment() {
        let tree = Tree::default();
        let full = Change {
            whole: 0,
            partial: -1,
        };
        tree.note(full);
        assert_eq!(tree.counts(), (0, 0));
        tree.note(Change {
            whole: -1,
            partial: 1,
        });
        tree.note(Change {
            whole: 32,
            partial: 0,
        });
        assert_eq!(tree.counts(), (31, 0));
        tree.note(full);
        assert_eq!(tree.counts(), (31, 0));
        tree.note(Change {
            whole: 0,
            partial: 3,
        });
        assert_eq!(tree.counts(), (31, 2));
    }
}
