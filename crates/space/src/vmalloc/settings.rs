//! How areas are kept: chosen once, when they are made.

use core::sync::atomic::{AtomicU64, Ordering};

/// How areas are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    bound: u64,
    debug: Debug,
}

/// What makes mistakes show sooner, at a price. Nothing of it costs anything where it is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Debug {
    /// A freed area's frames are filled with [`POISON`](Self::POISON) when it is freed, and looked at when it is purged: what was written
    /// meanwhile, through a translation that a CPU still had or through another mapping, is reported
    /// ([`Complaint::WrittenAfterFree`](crate::platform::Complaint::WrittenAfterFree)). The frames go back with the pattern in them, so
    /// who reads memory that was never written finds it.
    pub poison: bool,
    /// Every free flushes, and waits for it, where its context allows; nothing waits for a batch. What was freed in atomic context waits for
    /// the next free outside it.
    pub flush: bool,
    /// Areas lie at random places, drawn by a generator that starts with this number: code that relies on where its area is, or on
    /// neighbours, breaks sooner. On one CPU the same number makes the same places. When no place is left that suits the draw, any will do.
    pub random: Option<u64>,
}

impl Debug {
    /// Nothing.
    pub const OFF: Self = Self {
        poison: false,
        flush: false,
        random: None,
    };

    /// Every word of a freed page: bytes of 0x6b, as Linux's `POISON_FREE` (include/linux/poison.h). As an address it is not canonical, so a
    /// pointer that is read from a freed area faults when it is followed.
    pub const POISON: u64 = 0x6b6b_6b6b_6b6b_6b6b;
}

impl Settings {
    /// A purge is due when `bound` freed pages wait for one; see [`quarantine_bound`](crate::shootdown::quarantine_bound). Who frees while
    /// twice as many wait, outside atomic context, waits for the purge under way and purges. With 0 nearly every free purges;
    /// [`Debug::flush`] is without exception.
    #[must_use]
    pub const fn new(bound: u64) -> Self {
        Self {
            bound,
            debug: Debug::OFF,
        }
    }

    /// With these debug modes.
    #[must_use]
    pub const fn debug(self, debug: Debug) -> Self {
        Self { debug, ..self }
    }

    /// Freed pages that wait at most.
    pub(super) const fn bound(self) -> u64 {
        if self.debug.flush { 0 } else { self.bound }
    }

    pub(super) fn modes(self) -> Modes {
        Modes {
            poison: self.debug.poison,
            flush: self.debug.flush,
            random: self.debug.random.map(Draws::new),
        }
    }
}

impl From<u64> for Settings {
    fn from(bound: u64) -> Self {
        Self::new(bound)
    }
}

/// The debug modes at work.
#[derive(Debug)]
pub(super) struct Modes {
    pub(super) poison: bool,
    pub(super) flush: bool,
    pub(super) random: Option<Draws>,
}

/// A generator of numbers: each is the next one's place in a sequence that its seed decides (Steele, Lea and Flood, "Fast splittable
/// pseudorandom number generators", OOPSLA 2014: SplitMix64).
#[derive(Debug)]
pub(super) struct Draws(AtomicU64);

impl Draws {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub(super) fn draw(&self) -> u64 {
        let place = self.0.fetch_add(Self::STEP, Ordering::Relaxed);
        let mut bits = place.wrapping_add(Self::STEP);
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    /// A number below `count`, which is not 0.
    pub(super) fn below(&self, count: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(count)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_the_published_generator() {
        // The first numbers for seed 1234567, as other implementations print them.
        let draws = Draws::new(1_234_567);
        let first = [(); 3].map(|()| draws.draw());
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn with_flush_nothing_waits() {
        let debug = Debug {
            flush: true,
            ..Debug::OFF
        };
        assert_eq!(Settings::new(100).debug(debug).bound(), 0);
        assert_eq!(Settings::new(100).bound(), 100);
    }
}
