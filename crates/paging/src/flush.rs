//! Flush tokens: what an edit leaves behind in the TLBs, and what must not be reused until that is gone.
//!
//! An edit that takes something away cannot take it out of the CPUs' caches. It returns a [`Flush`] instead, which *owns*
//! what was taken: the range, the tables that were freed, and (once the caller adds them) the frames that were mapped. The token of
//! [`park`](crate::Editor::park) owns what the parked entries remember: [`collect`](crate::Editor::collect) tells it after the flush.
//!
//! ```text
//!   unmap, protect, merge, purge        with(payload)            flush(tlb, ..)
//!  ----------------------------> Flush -------------> Flush<P> ----------------> payload, tables back to their source
//!                                  |
//!                                  `-- dropped: reported and leaked, never reused
//! ```
//!
//! The promise: a table that a token owns goes back to its source only from [`Flush::flush`] or [`Flush::discharged`], after
//! the stale translations are gone from all CPUs; and so does the payload.

use core::fmt;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use kspace_layout::{PageSize, VirtAddr, VirtRange};

use crate::frame_list::FrameList;
use crate::{FrameSource, PhysMemory};

/// Which cached translations an edit has made wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The addresses concerned.
    pub range: VirtRange,
    /// The smallest page that was changed: the stride of a page-by-page flush.
    pub page: PageSize,
    /// Some of the pages were global, so a CR3 write does not flush them.
    pub global: bool,
    /// Tables were taken out: the paging-structure caches (PML5E to PDE) may point into them, under every PCID.
    pub tables: bool,
    /// An entry of the root changed that the CPU reads only when CR3 is loaded: PAE's four.
    pub root: bool,
}

impl Stale {
    /// How many pages a page-by-page flush takes.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.range.size().div_ceil(self.page.bytes())
    }

    /// What covers both. Ranges in different halves become the whole upper half and the whole lower half, that is, everything:
    /// then `None`.
    fn union(self, other: Self) -> Option<Self> {
        let start = self.range.start().min(other.range.start());
        let last = self.range.last().max(other.range.last());
        Some(Self {
            range: VirtRange::try_from_bounds(start, last).ok()?,
            page: self.page.min(other.page),
            global: self.global || other.global,
            tables: self.tables || other.tables,
            root: self.root || other.root,
        })
    }
}

/// What a token asks the CPUs to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// These translations.
    Range(Stale),
    /// Everything: global translations, every PCID, the paging-structure caches.
    Everything,
}

/// The CPUs' caches of translations.
///
/// # Safety
///
/// Tables and frames are given to others on the word of this call: when `invalidate` returns, no CPU uses a translation that it
/// names, or walks a table through an upper-level entry that it names.
pub unsafe trait Tlb {
    /// Makes every CPU forget what `invalidation` says, and returns when all of them have.
    fn invalidate(&self, invalidation: &Invalidation);
}

/// The obligation to flush, and what may be reused after it. See the [module](self).
///
/// `P` is what the caller wants back then, usually the frames that were mapped.
#[must_use = "a token that is not flushed leaks what it owns"]
pub struct Flush<P = ()> {
    invalidation: Option<Invalidation>,
    tables: FrameList,
    payload: ManuallyDrop<P>,
}

impl Flush {
    /// A token that owes nothing: the edit changed nothing that a CPU could have cached. Dropping it is fine.
    pub const fn nothing() -> Self {
        Self {
            invalidation: None,
            tables: FrameList::EMPTY,
            payload: ManuallyDrop::new(()),
        }
    }

    /// A token for `stale`, which owns `tables`.
    pub(crate) fn new(stale: Stale, tables: FrameList) -> Self {
        Self {
            invalidation: Some(Invalidation::Range(stale)),
            tables,
            payload: ManuallyDrop::new(()),
        }
    }

    /// Adds what must stay untouched until the flush, to be handed back by it.
    pub fn with<P>(self, payload: P) -> Flush<P> {
        let (invalidation, tables, ()) = self.into_parts();
        Flush {
            invalidation,
            tables,
            payload: ManuallyDrop::new(payload),
        }
    }
}

impl<P> Flush<P> {
    /// What the CPUs must forget; `None` when nothing.
    #[must_use]
    pub const fn invalidation(&self) -> Option<&Invalidation> {
        self.invalidation.as_ref()
    }

    /// How many freed tables the token owns.
    #[must_use]
    pub const fn tables(&self) -> usize {
        self.tables.count()
    }

    /// Takes over what `other` owes and owns, so that one flush does for both. Both come from editors of the same memory.
    pub fn absorb(&mut self, other: Flush, memory: &impl PhysMemory) {
        let (invalidation, tables, ()) = other.into_parts();
        self.tables.append(tables, memory);
        self.invalidation = match (self.invalidation, invalidation) {
            (None, one) | (one, None) => one,
            (Some(Invalidation::Range(ours)), Some(Invalidation::Range(theirs))) => Some(
                ours.union(theirs)
                    .map_or(Invalidation::Everything, Invalidation::Range),
            ),
            _ => Some(Invalidation::Everything),
        };
    }

    /// Flushes, then gives the tables back to `frames` and the payload to the caller.
    ///
    /// `memory` and `frames` are those of the editor that made the token.
    pub fn flush(self, tlb: &impl Tlb, memory: &impl PhysMemory, frames: &impl FrameSource) -> P {
        if let Some(invalidation) = &self.invalidation {
            tlb.invalidate(invalidation);
        }
        // SAFETY: no CPU holds the translations any more, by the contract of `invalidate`.
        unsafe { self.discharged(memory, frames) }
    }

    /// As [`flush`](Self::flush), when the flush has been done by other means: a shootdown that was acknowledged later, or
    /// tables that no CPU ever used.
    ///
    /// # Safety
    ///
    /// No CPU holds a translation, or a cached upper-level entry, that [`invalidation`](Self::invalidation) names.
    pub unsafe fn discharged(self, memory: &impl PhysMemory, frames: &impl FrameSource) -> P {
        let (_, tables, payload) = self.into_parts();
        tables.release(memory, frames);
        payload
    }

    /// Takes the token apart without the report that dropping it would make.
    fn into_parts(self) -> (Option<Invalidation>, FrameList, P) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped or read again, so the payload has one owner, the one returned.
        let payload = unsafe { ManuallyDrop::take(&mut this.payload) };
        (this.invalidation, this.tables, payload)
    }
}

impl<P> Drop for Flush<P> {
    /// Leaks what the token owns, and reports it: stale translations may still reach it.
    fn drop(&mut self) {
        if self.invalidation.is_some() {
            report(&Leak {
                invalidation: self.invalidation,
                tables: self.tables.count(),
            });
        } else {
            // SAFETY: this is the only place that drops the payload: whoever took it out forgot the token. Nothing is stale, so it
            // may be reused.
            unsafe { ManuallyDrop::drop(&mut self.payload) };
        }
    }
}

impl<P> fmt::Debug for Flush<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flush")
            .field("invalidation", &self.invalidation)
            .field("tables", &self.tables.count())
            .finish_non_exhaustive()
    }
}

/// A token that was dropped before it was flushed: what it owned is lost until reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leak {
    /// What the CPUs may still hold.
    pub invalidation: Option<Invalidation>,
    /// How many table frames are lost.
    pub tables: usize,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("flush: a token for ")?;
        match self.invalidation {
            Some(Invalidation::Range(stale)) => write!(f, "{}", stale.range)?,
            Some(Invalidation::Everything) => f.write_str("every address")?,
            None => write!(f, "{0}-{0}", VirtAddr::ZERO)?,
        }
        write!(
            f,
            " was dropped before its flush; {} table frames and its payload are leaked; flush every token",
            self.tables
        )
    }
}

static LEAKED: AtomicUsize = AtomicUsize::new(0);
/// The hook, as a data pointer; null until there is one.
static HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// How many tokens have been dropped before their flush, ever.
#[must_use]
pub fn leaked_tokens() -> usize {
    LEAKED.load(Ordering::Relaxed)
}

/// Has `hook` called for every token that is dropped before its flush. A kernel logs it, a test fails.
pub fn on_leak(hook: fn(&Leak)) {
    HOOK.store(hook as *mut (), Ordering::Release);
}

fn report(leak: &Leak) {
    LEAKED.fetch_add(1, Ordering::Relaxed);
    let hook = HOOK.load(Ordering::Acquire);
    if !hook.is_null() {
        // SAFETY: only `on_leak` stores a pointer that is not null, and it was made from this very type of function.
        let hook = unsafe { core::mem::transmute::<*mut (), fn(&Leak)>(hook) };
        hook(leak);
    }
}
