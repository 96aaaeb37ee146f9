//! What waits for a flush: [`Quarantine`], so that one flush does for many edits.
//!
//! Tokens are put into bays; a purge takes all that are there, flushes once, and hands back what they owned. Nothing leaves
//! a bay but that way: what is in quarantine cannot be reused.
//!
//! ```text
//!   bay:   empty --put--> filling --> full --purge--> taken --flush--> empty, payload and tables handed back
//! ```
//!
//! The promise: room is fixed, and what is in it is bounded. At a number of frames [`put`](Quarantine::put) says that a purge is due; with
//! no bay left it refuses, and the token stays the caller's.
//!
//! Putting never waits, so it may be done in atomic context, where purging may not.

use core::fmt;
use core::mem::MaybeUninit;

use kspace_paging::{Flush, FrameSource, Invalidation, PhysMemory};

use super::sync::{AtomicU32, AtomicU64, Ordering, UnsafeCell};
use super::{Probe, Shootdown};
use crate::platform::{Cpu, Tlb};

/// Frames in 32 MiB, Linux's unit of what may wait for a purge (mm/vmalloc.c, `lazy_max_pages`).
const FRAMES_PER_DOUBLING: u64 = (32 << 20) / kspace_layout::FRAME_SIZE;
/// Of the machine's memory, at most one part in so many waits.
const SHARE_OF_RAM: u64 = 32;

/// How many frames may wait: 32 MiB for each bit of the number of CPUs (a flush costs more the more there are), but never more
/// than 1/32 of the machine's memory.
#[must_use]
pub const fn quarantine_bound(cpus: usize, ram_frames: u64) -> u64 {
    let doublings = (usize::BITS - cpus.leading_zeros()) as u64;
    let by_cpus = FRAMES_PER_DOUBLING * doublings;
    let by_ram = ram_frames / SHARE_OF_RAM;
    if by_cpus < by_ram { by_cpus } else { by_ram }
}

/// Tokens that wait for a flush, `BAYS` at most. Putting one in never waits, so it may be done in atomic context, where
/// flushing may not; [`purge`](Self::purge) flushes them all at once.
pub struct Quarantine<T, const BAYS: usize> {
    bound: u64,
    frames: AtomicU64,
    /// Purges so far; numbers them.
    purges: AtomicU32,
    bays: [Bay<T>; BAYS],
}

/// Whether a purge should be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Due {
    /// Not yet.
    Later,
    /// As soon as the caller can.
    Now,
}

/// Every bay is taken: the token, back again. Purge, then put it in, or flush it by itself.
#[must_use = "the token in it still owns what waits for a flush"]
pub struct Refused<T>(pub Flush<T>);

impl<T> fmt::Debug for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Refused").field(&self.0).finish()
    }
}

impl<T> fmt::Display for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("quarantine: every bay is taken; purge it")
    }
}

impl<T, const BAYS: usize> Quarantine<T, BAYS> {
    constructor! {
        /// An empty quarantine for `bound` frames; see [`quarantine_bound`].
        #[must_use]
        pub fn new(bound: u64) -> Self {
            Self {
                bound,
                frames: AtomicU64::new(0),
                purges: AtomicU32::new(0),
                bays: array_of![Bay::new(); BAYS],
            }
        }
    }

    /// Puts a token in, whose payload stands for so many `frames`; its tables are counted besides.
    ///
    /// # Errors
    ///
    /// [`Refused`], with the token in it, when every bay is taken.
    pub fn put(&self, token: Flush<T>, frames: u64) -> Result<Due, Refused<T>> {
        let frames = frames + token.tables() as u64;
        let Some(bay) = self.bays.iter().find(|bay| bay.change(EMPTY, FILLING)) else {
            return Err(Refused(token));
        };
        // Counted before anybody can take it out again, so that the count never falls below zero.
        let waiting = self.frames.fetch_add(frames, Ordering::Relaxed) + frames;
        bay.fill(Waiting { token, frames });
        Ok(if waiting >= self.bound {
            Due::Now
        } else {
            Due::Later
        })
    }

    /// How many frames wait.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Flushes all that is in, with one flush, and hands every payload to `release`. Tokens that are put in meanwhile may stay.
    /// Several CPUs may purge at once; each hands back what it took. Returns how many tokens that was.
    ///
    /// `memory` and `frames` are those of the editor that made the tokens.
    ///
    /// # Panics
    ///
    /// As [`Shootdown::invalidate`].
    pub fn purge<P, const CPUS: usize, const SLOTS: usize, W>(
        &self,
        shootdown: &Shootdown<P, CPUS, SLOTS, W>,
        memory: &impl PhysMemory,
        frames: &impl FrameSource,
        mut release: impl FnMut(T),
    ) -> usize
    where
        P: Cpu + Tlb,
        W: Probe,
    {
        self.purge_by(
            |purge| shootdown.invalidate_all(purge.invalidations()),
            |token| {
                // SAFETY: what it names has just been forgotten everywhere.
                release(unsafe { token.discharged(memory, frames) });
            },
        )
    }

    /// Takes what is in, flushes it by `flush`, and gives each token to `discharge`.
    pub(super) fn purge_by(
        &self,
        flush: impl FnOnce(&Purge<'_, T, BAYS>),
        mut discharge: impl FnMut(Flush<T>),
    ) -> usize {
        let number = self.purges.fetch_add(1, Ordering::Relaxed);
        let purge = Purge {
            quarantine: self,
            // Two purges have the same number only if four thousand million began between them.
            mark: TAKEN + number % (u32::MAX - TAKEN),
        };
        let taken = self.bays.iter().filter(|bay| bay.change(FULL, purge.mark));
        if taken.count() == 0 {
            return 0;
        }
        flush(&purge);
        let mut count = 0;
        for bay in purge.bays() {
            // SAFETY: this purge has taken the bay.
            let Waiting { token, frames } = unsafe { bay.empty() };
            self.frames.fetch_sub(frames, Ordering::Relaxed);
            discharge(token);
            count += 1;
        }
        count
    }
}

/// A purge under way: the bays that it has taken.
#[derive(Debug)]
pub(super) struct Purge<'q, T, const BAYS: usize> {
    quarantine: &'q Quarantine<T, BAYS>,
    mark: u32,
}

impl<T, const BAYS: usize> Clone for Purge<'_, T, BAYS> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, const BAYS: usize> Copy for Purge<'_, T, BAYS> {}

impl<'q, T, const BAYS: usize> Purge<'q, T, BAYS> {
    fn bays(self) -> impl Iterator<Item = &'q Bay<T>> + Clone {
        let bays = self.quarantine.bays.iter();
        bays.filter(move |bay| bay.state.load(Ordering::Relaxed) == self.mark)
    }

    /// What the CPUs must forget.
    pub(super) fn invalidations(self) -> impl Iterator<Item = Invalidation> + Clone {
        // SAFETY: the purge has taken these bays, and has not emptied them yet.
        self.bays().filter_map(|bay| unsafe { bay.invalidation() })
    }
}

impl<T, const BAYS: usize> fmt::Debug for Quarantine<T, BAYS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quarantine")
            .field("bound", &self.bound)
            .field("frames", &self.frames())
            .finish_non_exhaustive()
    }
}

const EMPTY: u32 = 0;
const FILLING: u32 = 1;
const FULL: u32 = 2;
/// This, and all above: taken by the purge of that number.
const TAKEN: u32 = 3;

/// Room for one token. Whoever changed the state to `FILLING` or `TAKEN` has the content to itself.
struct Bay<T> {
    state: AtomicU32,
    content: UnsafeCell<MaybeUninit<Waiting<T>>>,
}

struct Waiting<T> {
    token: Flush<T>,
    frames: u64,
}

// SAFETY: the state gives the content to one CPU at a time, as the type says; tokens move between CPUs that way.
unsafe impl<T: Send> Sync for Bay<T> {}

impl<T> Bay<T> {
    constructor! {
        fn new() -> Self {
            Self {
                state: AtomicU32::new(EMPTY),
                content: UnsafeCell::new(MaybeUninit::uninit()),
            }
        }
    }

    /// Changes the state if it is `from`, and tells.
    fn change(&self, from: u32, to: u32) -> bool {
        self.state
            .compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Fills a bay that the caller has changed to `FILLING`.
    fn fill(&self, waiting: Waiting<T>) {
        with_cell!(self.content, content => {
            // SAFETY: the content is the caller's alone until the state says `FULL`.
            unsafe { (*content).write(waiting) };
        });
        self.state.store(FULL, Ordering::Release);
    }

    /// What the token in it asks for.
    ///
    /// # Safety
    ///
    /// The caller has taken the bay.
    unsafe fn invalidation(&self) -> Option<Invalidation> {
        with_cell!(self.content, content => {
            // SAFETY: the bay was full, and its content is the caller's.
            unsafe { (*content).assume_init_ref().token.invalidation().copied() }
        })
    }

    /// Takes the content out.
    ///
    /// # Safety
    ///
    /// The caller has taken the bay.
    unsafe fn empty(&self) -> Waiting<T> {
        let waiting = with_cell!(self.content, content => {
            // SAFETY: the bay was full, and is empty from here on.
            unsafe { (*content).assume_init_read() }
        });
        self.state.store(EMPTY, Ordering::Release);
        waiting
    }
}

impl<T> Drop for Bay<T> {
    /// A token that is still in is dropped like any other that was not flushed: it is reported, and what it owns is lost.
    fn drop(&mut self) {
        if self.change(FULL, TAKEN) {
            // SAFETY: just taken.
            drop(unsafe { self.empty() });
        }
    }
}
