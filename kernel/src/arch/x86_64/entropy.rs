//! Random numbers for KASLR, before anything that could collect entropy runs.

use core::fmt;

use super::{clock, cpu};

/// A source of random numbers, and which one it is.
#[derive(Clone, Copy, Debug)]
pub struct Entropy {
    source: Source,
    state: u64,
}

/// Where the numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The CPU's generator.
    Rdrand,
    /// The time-stamp counter and the memory map, stirred. An attacker who knows the machine and the time of boot well can
    /// guess these; the log says so.
    TimeAndMap,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rdrand => "RDRAND",
            Self::TimeAndMap => "the time-stamp counter and the memory map (no RDRAND; guessable)",
        })
    }
}

impl Entropy {
    /// RDRAND where it works, else the counter stirred with `seed`, a digest of what this boot found.
    pub fn new(features: &cpu::Features, seed: u64) -> Self {
        if features.rdrand
            && let Some(state) = cpu::rdrand()
        {
            return Self {
                source: Source::Rdrand,
                state,
            };
        }
        Self {
            source: Source::TimeAndMap,
            state: seed ^ clock::ticks(),
        }
    }

    /// Where the numbers come from.
    pub const fn source(&self) -> Source {
        self.source
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        match self.source {
            // A generator that fails now and then still stirs the counter into what it gave before.
            Source::Rdrand => self.state = cpu::rdrand().unwrap_or(self.state ^ clock::ticks()),
            Source::TimeAndMap => self.state ^= clock::ticks(),
        }
        let drawn = mix(self.state);
        self.state = self.state.wrapping_add(STEP);
        drawn
    }
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// One number of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), whose state was `state`: a weak input still spreads over all 64
/// bits.
pub const fn mix(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(STEP);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
