//! What the stress has done and found, summed up over all CPUs.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! tally {
    ($($(#[doc = $doc:literal])* $name:ident / $count:ident;)*) => {
        /// The sums.
        pub(super) struct Tally {
            rounds: AtomicU64,
            seed: AtomicU64,
            $($name: AtomicU64,)*
        }

        pub(super) static TALLY: Tally = Tally {
            rounds: AtomicU64::new(0),
            seed: AtomicU64::new(0),
            $($name: AtomicU64::new(0),)*
        };

        impl Tally {
            $(
                $(#[doc = $doc])*
                pub(super) fn $name(&self) -> u64 {
                    self.$name.load(Relaxed)
                }

                pub(super) fn $count(&self, more: u64) {
                    self.$name.fetch_add(more, Relaxed);
                }
            )*

            fn clear(&self) {
                $(self.$name.store(0, Relaxed);)*
            }
        }
    };
}

tally! {
    /// Blocks allocated.
    blocks / add_blocks;
    /// Their frames.
    frames / add_frames;
    /// Requests for runs of several orders.
    runs / add_runs;
    /// Contiguous ranges.
    ranges / add_ranges;
    /// Blocks that another CPU freed.
    handed / add_handed;
    /// Requests that found too little memory.
    refusals / add_refusals;
    /// Blocks freed twice.
    doubles / add_doubles;
    /// Of those, the ones whose second free was not refused.
    doubles_taken / add_doubles_taken;
    /// Numbers that were not as written.
    wrong / add_wrong;
    /// Vectors, boxes and entries of maps.
    pieces / add_pieces;
    /// Interrupts whose handler has allocated.
    interrupts / add_interrupts;
    /// Of the pieces, the ones whose content was not as written.
    wrong_pieces / add_wrong_pieces;
}

/// Begins anew.
pub(super) fn begin(rounds: u64, seed: u64) {
    TALLY.clear();
    TALLY.rounds.store(rounds, Relaxed);
    TALLY.seed.store(seed, Relaxed);
}

impl Tally {
    /// Rounds of each CPU.
    pub(super) fn rounds(&self) -> u64 {
        self.rounds.load(Relaxed)
    }

    /// What all choices follow from, together with the CPU and the round.
    pub(super) fn seed(&self) -> u64 {
        self.seed.load(Relaxed)
    }

    /// Whether nothing was wrong.
    pub(super) fn is_clean(&self) -> bool {
        self.doubles_taken() == 0 && self.wrong() == 0 && self.wrong_pieces() == 0
    }
}
