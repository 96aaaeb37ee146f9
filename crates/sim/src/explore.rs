//! Which schedules are tried: one by a seed, many by many seeds, or all there are.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use crate::schedule::Outcome;

/// Decides what happens next in a run.
pub trait Decide {
    /// One of `options` possibilities; `None` to end the run here. `fingerprint` is the same in the same state, and takes a while.
    fn decide(&mut self, options: usize, fingerprint: &dyn Fn() -> u64) -> Option<usize>;
}

/// A schedule that broke something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed, when it came from one.
    pub seed: Option<u64>,
    /// Every decision up to there.
    pub decisions: Vec<usize>,
    /// What broke.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.seed {
            Some(seed) => write!(f, "; seed {seed}"),
            None => write!(f, "; decisions {:?}", self.decisions),
        }
    }
}

impl std::error::Error for Failure {}

/// How much was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explored {
    /// Runs, to their end or until they met a state known already.
    pub runs: u64,
    /// Different states in which there was something to decide; of an exhaustive search only.
    pub states: u64,
}

/// Random numbers that repeat: SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub const fn below(&mut self, bound: usize) -> usize {
        // The remainder is smaller than `bound`, so nothing is cut off.
        (self.next() % bound as u64) as usize
    }
}

/// Decides at random, and in some runs goes on with the same choice for long, so that one CPU gets far ahead of the others.
struct AtRandom {
    random: Random,
    /// In so many of 8 decisions, the first possibility at or after the last one is taken again.
    stubborn: usize,
    last: usize,
    decisions: Vec<usize>,
}

impl Decide for AtRandom {
    fn decide(&mut self, options: usize, _: &dyn Fn() -> u64) -> Option<usize> {
        if self.random.below(8) >= self.stubborn {
            self.last = self.random.below(options);
        }
        self.last = self.last.min(options - 1);
        self.decisions.push(self.last);
        Some(self.last)
    }
}

/// Runs `scenario` once for each seed. It gets the seed's further random numbers, to choose what the programs do.
///
/// # Errors
///
/// The first [`Failure`].
pub fn random(
    seeds: Range<u64>,
    mut scenario: impl FnMut(Random, &mut dyn Decide) -> Outcome,
) -> Result<Explored, Failure> {
    let mut explored = Explored::default();
    for seed in seeds {
        let mut numbers = Random::new(seed);
        let mut decide = AtRandom {
            random: Random::new(numbers.next()),
            stubborn: numbers.below(8),
            last: 0,
            decisions: Vec::new(),
        };
        if let Outcome::Failed(message) = scenario(numbers, &mut decide) {
            return Err(Failure {
                seed: Some(seed),
                decisions: decide.decisions,
                message,
            });
        }
        explored.runs += 1;
    }
    Ok(explored)
}

/// Decides as before up to a point, and then the first possibility each time, as long as the states are new.
struct InOrder<'s> {
    /// What was decided, of how many possibilities.
    path: Vec<(usize, usize)>,
    at: usize,
    seen: &'s mut HashSet<u64>,
}

impl Decide for InOrder<'_> {
    fn decide(&mut self, options: usize, fingerprint: &dyn Fn() -> u64) -> Option<usize> {
        if options == 1 {
            return Some(0);
        }
        if self.at == self.path.len() {
            if !self.seen.insert(fingerprint()) {
                return None;
            }
            self.path.push((0, options));
        }
        let (decision, of) = self.path[self.at];
        assert_eq!(of, options, "the run is not the same as before");
        self.at += 1;
        Some(decision)
    }
}

/// Runs `scenario` with every possible schedule. Schedules that lead to the same state are followed further only once.
///
/// # Errors
///
/// The first [`Failure`].
pub fn exhaustive(
    mut scenario: impl FnMut(&mut dyn Decide) -> Outcome,
) -> Result<Explored, Failure> {
    let mut seen = HashSet::new();
    let mut path = Vec::new();
    let mut runs = 0;
    loop {
        let mut decide = InOrder {
            path: std::mem::take(&mut path),
            at: 0,
            seen: &mut seen,
        };
        let outcome = scenario(&mut decide);
        path = decide.path;
        runs += 1;
        if let Outcome::Failed(message) = outcome {
            return Err(Failure {
                seed: None,
                decisions: path.iter().map(|&(decision, _)| decision).collect(),
                message,
            });
        }
        // The deepest decision that has a possibility left.
        while let Some((decision, options)) = path.pop() {
            if decision + 1 < options {
                path.push((decision + 1, options));
                break;
            }
        }
        if path.is_empty() {
            return Ok(Explored {
                runs,
                states: seen.len() as u64,
            });
        }
    }
}
