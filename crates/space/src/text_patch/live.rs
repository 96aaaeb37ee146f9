//! The breakpoints that are in the code now, for whoever runs into one.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kspace_layout::VirtAddr;

use super::instruction::Effect;

/// How many edits are made in the same three steps.
pub const BATCH: usize = 32;

/// How a CPU goes on that has run into a breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At this address.
    At(VirtAddr),
    /// At `target`, with `back` pushed on the stack of what was interrupted.
    Call {
        /// What is called.
        target: VirtAddr,
        /// Where it returns to.
        back: VirtAddr,
    },
}

/// One breakpoint. Written only while no CPU can run into it.
struct Breakpoint {
    at: AtomicU64,
    target: AtomicU64,
    /// Where a call returns to; 0 for what is none.
    back: AtomicU64,
}

impl Breakpoint {
    const fn new() -> Self {
        Self {
            at: AtomicU64::new(0),
            target: AtomicU64::new(0),
            back: AtomicU64::new(0),
        }
    }
}

/// All of them.
pub(super) struct Live {
    count: AtomicUsize,
    breakpoints: [Breakpoint; BATCH],
}

impl Live {
    pub(super) const fn new() -> Self {
        Self {
            count: AtomicUsize::new(0),
            breakpoints: [const { Breakpoint::new() }; BATCH],
        }
    }

    /// Publishes them, before the first is written: where each is, the length of the instruction, and what it does.
    pub(super) fn publish(&self, sites: impl Iterator<Item = (VirtAddr, u64, Effect)>) {
        let mut count = 0;
        for (breakpoint, (at, length, effect)) in self.breakpoints.iter().zip(sites) {
            let (target, back) = match effect {
                Effect::Jump(target) => (target, 0),
                Effect::Call(target) => (target, at.as_u64() + length),
            };
            breakpoint.at.store(at.as_u64(), Ordering::Relaxed);
            breakpoint.target.store(target.as_u64(), Ordering::Relaxed);
            breakpoint.back.store(back, Ordering::Relaxed);
            count += 1;
        }
        // Whoever sees the breakpoint in the code sees this: x86 keeps stores in order, and the handler reads after the trap.
        self.count.store(count, Ordering::Release);
    }

    /// Forgets them, when no CPU can be in a handler for one.
    pub(super) fn retire(&self) {
        self.count.store(0, Ordering::Release);
    }

    /// How to go on after the breakpoint at `at`, if it is one of these.
    pub(super) fn find(&self, at: VirtAddr) -> Option<Resume> {
        let count = self.count.load(Ordering::Acquire);
        let mut live = self.breakpoints.iter().take(count);
        let found = live.find(|one| one.at.load(Ordering::Relaxed) == at.as_u64())?;
        let target = VirtAddr::new(found.target.load(Ordering::Relaxed));
        Some(match found.back.load(Ordering::Relaxed) {
            0 => Resume::At(target),
            back => Resume::Call {
                target,
                back: VirtAddr::new(back),
            },
        })
    }
}
