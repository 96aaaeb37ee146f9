//! One edit after the other: [`Patcher`], its checks and its three steps.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kspace_layout::{PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Editor, EntryFormat, FrameSource, PhysMemory, Walker};

use super::alias::Alias;
use super::instruction::{BREAKPOINT, LONGEST};
use super::live::Live;
use super::place::Place;
use super::{BATCH, Edit, PatchError, PatcherError, Resume};
use crate::platform::TextAccess;
use crate::shootdown::{Probe, Shootdown, Unprobed};

/// Changes code. See the [module](super). A kernel has one, for as long as it runs: its four tables or so are not given back.
pub struct Patcher<'a, F, M, P, const CPUS: usize, W = Unprobed>
where
    F: EntryFormat,
{
    walker: Walker<'a, M>,
    shootdown: &'a Shootdown<P, CPUS, 64, W>,
    alias: Alias<'a, F, M>,
    /// Whether the first bytes are stored a second time.
    stores_again: bool,
    /// Somebody patches.
    patching: AtomicBool,
    live: Live,
    /// How many breakpoints CPUs have run into.
    hits: AtomicU64,
}

impl<'a, F, M, P, const CPUS: usize, W> Patcher<'a, F, M, P, CPUS, W>
where
    F: EntryFormat,
    M: PhysMemory,
    P: TextAccess,
    W: Probe,
{
    /// A patcher of the code in the tables of `kernel`. `shared` is what is the same in all address spaces, the kernel's half; `window`
    /// is where the alias comes: two pages somewhere else.
    ///
    /// # Errors
    ///
    /// [`PatcherError`]; all frames are given back. PAE is not supported yet: its root entries are read only when CR3 is written.
    ///
    /// # Safety
    ///
    /// Every CPU that executes the code takes part in `shootdown`, and its breakpoint handler asks [`breakpoint`](Self::breakpoint), with
    /// interrupts off from the trap on.
    pub unsafe fn new<S: FrameSource>(
        kernel: &Editor<'a, F, M, S>,
        shared: VirtRange,
        window: VirtAddr,
        shootdown: &'a Shootdown<P, CPUS, 64, W>,
    ) -> Result<Self, PatcherError> {
        let walker = Walker::new(kernel.mode(), kernel.root(), kernel.memory());
        Ok(Self {
            walker: walker.with_limits(kernel.limits()),
            shootdown,
            alias: Alias::new(kernel, shared, window)?,
            stores_again: false,
            patching: AtomicBool::new(false),
            live: Live::new(),
            hits: AtomicU64::new(0),
        })
    }

    /// The same for CPUs that are emulated by translating blocks of code, where a block may be noted as depending on its code only after
    /// a store to that code, and then stays as it was before: QEMU 7.2's TCG does so with a thread for each CPU. When
    /// every CPU has serialized, none is in the middle of a translation, so the same bytes stored once more reach every such block.
    #[must_use]
    pub fn storing_again(mut self) -> Self {
        self.stores_again = true;
        self
    }

    /// The root that has the alias, for who wants to look at its tables.
    #[must_use]
    pub const fn alias_root(&self) -> PhysAddr {
        self.alias.root()
    }

    /// How many times CPUs have run into a breakpoint of an edit.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Makes `edits`, in ascending order. When it returns, every CPU executes the new instructions; until then each executes, any time that it
    /// comes by, the old one or the new one. When somebody else patches, waits until that is done.
    ///
    /// # Errors
    ///
    /// [`PatchError`]: not one byte was changed.
    ///
    /// # Safety
    ///
    /// Of each edit: `old` is one whole instruction, and nothing jumps into it; to execute `new` in its place is sound; neither the
    /// handler of the breakpoint nor a handler of NMIs executes it (see the [module](super)); and nobody unmaps, frees or otherwise changes
    /// the code meanwhile.
    pub unsafe fn patch(&self, edits: &[Edit<'_>]) -> Result<(), PatchError> {
        check_order(edits)?;
        if self.shootdown.platform().is_atomic() {
            return Err(PatchError::Atomic);
        }
        while self.patching.swap(true, Ordering::Acquire) {
            self.wait_for_patcher();
        }
        let checked = edits.iter().try_for_each(|edit| self.check(edit));
        if checked.is_ok() {
            for batch in edits.chunks(BATCH) {
                // SAFETY: the caller's contract; they are code, and as expected.
                unsafe { self.apply(batch) };
            }
        }
        self.patching.store(false, Ordering::Release);
        checked
    }

    /// How to go on after the breakpoint instruction at `at`; `None` when it is not of an edit. Called by the breakpoint's handler, in any
    /// context, with interrupts off since the trap.
    pub fn breakpoint(&self, at: VirtAddr) -> Option<Resume> {
        let resume = self.live.find(at)?;
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(resume)
    }

    /// One turn of waiting. Who patches waits for this CPU, so it serves.
    fn wait_for_patcher(&self) {
        let platform = self.shootdown.platform();
        let _off = platform.interrupts_off();
        self.shootdown.serve();
        platform.serve_others();
        platform.relax();
    }

    /// Whether the bytes of an edit are code, and those that are expected.
    fn check(&self, edit: &Edit<'_>) -> Result<(), PatchError> {
        Place::of(&self.walker, edit.range()?)?;
        let mut buffer = [0; LONGEST];
        let found = &mut buffer[..edit.old.len()];
        // SAFETY: all of it is mapped code.
        unsafe { self.shootdown.platform().read_text(edit.at, found) };
        let mut bytes = (0..).zip(edit.old.iter().zip(found));
        match bytes.find(|(_, (expected, found))| **expected != **found) {
            None => Ok(()),
            Some((offset, (expected, found))) => Err(PatchError::Unexpected {
                at: VirtAddr::new(edit.at.as_u64() + offset),
                expected: *expected,
                found: *found,
            }),
        }
    }

    /// The three steps.
    ///
    /// # Safety
    ///
    /// As [`patch`](Self::patch); the edits have been checked, are no more than [`BATCH`], and this is the only patcher.
    unsafe fn apply(&self, edits: &[Edit<'_>]) {
        let sites = edits.iter().filter_map(|edit| {
            let effect = edit.meanwhile().ok()??;
            Some((edit.at, edit.new.len() as u64, effect))
        });
        self.live.publish(sites);
        let longer = || edits.iter().filter(|edit| edit.new.len() > 1);
        // SAFETY: the caller's contract, here and below.
        longer().for_each(|edit| unsafe { self.write(edit, 0, &[BREAKPOINT]) });
        if longer().next().is_some() {
            self.shootdown.serialize_everywhere();
        }
        // SAFETY: as above.
        longer().for_each(|edit| unsafe { self.write(edit, 1, &edit.new[1..]) });
        if longer().next().is_some() {
            self.shootdown.serialize_everywhere();
        }
        for _ in 0..1 + u32::from(self.stores_again) {
            for edit in edits {
                // SAFETY: as above.
                unsafe { self.write(edit, 0, &edit.new[..1]) };
            }
            self.shootdown.serialize_everywhere();
        }
        self.live.retire();
    }

    /// Stores `bytes` at `skip` bytes into an edit's instruction.
    ///
    /// # Safety
    ///
    /// As [`apply`](Self::apply).
    unsafe fn write(&self, edit: &Edit<'_>, skip: usize, bytes: &[u8]) {
        let place = edit
            .range()
            .and_then(|range| Place::of(&self.walker, range));
        match place {
            // SAFETY: the caller's contract.
            Ok(place) => unsafe {
                let platform = self.shootdown.platform();
                self.alias.write(platform, &place, skip, bytes);
            },
            Err(error) => panic!("code was taken away while it was changed: {error}"),
        }
    }
}

/// Whether each edit can be made at all, and follows the one before it.
fn check_order(edits: &[Edit<'_>]) -> Result<(), PatchError> {
    let mut before: Option<VirtRange> = None;
    for edit in edits {
        let range = edit.range()?;
        edit.meanwhile()?;
        if let Some(before) = before.filter(|before| before.last() >= range.start()) {
            return Err(PatchError::OutOfOrder {
                at: edit.at,
                before: before.start(),
            });
        }
        before = Some(range);
    }
    Ok(())
}

impl<F, M, P, const CPUS: usize, W> fmt::Debug for Patcher<'_, F, M, P, CPUS, W>
where
    F: EntryFormat,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patcher")
            .field("patching", &self.patching)
            .field("hits", &self.hits)
            .finish_non_exhaustive()
    }
}
