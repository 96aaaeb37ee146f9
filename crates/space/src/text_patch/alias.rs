//! The second view of code, writable, under a root that is loaded for a few stores only.

use core::ops::Range;

use kspace_layout::{FRAME_SIZE, PagingMode, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{
    Access, Editor, EntryFormat, FrameSource, LeafBits, LeafTable, Limits, PhysMemory, Protection,
    RawEntry,
};

use super::PatcherError;
use super::place::Place;
use crate::platform::{LocalFlush, TextAccess};

/// Pages that the window has: an instruction may begin in one and end in the next.
const PAGES: u64 = 2;

/// A root table of its own, with the kernel's half and a window of two pages.
pub(super) struct Alias<'a, F, M>
where
    F: EntryFormat,
{
    memory: &'a M,
    mode: PagingMode,
    limits: Limits,
    /// The root that the kernel's half is copied from.
    kernel: PhysAddr,
    root: PhysAddr,
    /// The root entries that are the same in all address spaces.
    shared: Range<usize>,
    window: VirtAddr,
    leaf: LeafTable<'a, F>,
}

impl<'a, F: EntryFormat, M: PhysMemory> Alias<'a, F, M> {
    /// A root with a window at `window`, for the kernel whose tables `kernel` edits.
    pub(super) fn new<S: FrameSource>(
        kernel: &Editor<'a, F, M, S>,
        shared: VirtRange,
        window: VirtAddr,
    ) -> Result<Self, PatcherError> {
        let (mode, memory, limits) = (kernel.mode(), kernel.memory(), kernel.limits());
        let refused = PatcherError::Window { window, shared };
        let pages = VirtRange::try_new(window, PAGES * FRAME_SIZE).map_err(|_| refused)?;
        let top = mode.levels();
        let index = |address| mode.index(address, top) as usize;
        let shared = index(shared.start())..index(shared.last()) + 1;
        let table = |address: VirtAddr| address.as_u64() >> mode.level_shift(2);
        if !pages.is_aligned(FRAME_SIZE)
            || !mode.contains(pages.last())
            || table(pages.start()) != table(pages.last())
            || shared.contains(&index(window))
        {
            return Err(refused);
        }
        let frames = kernel.frames();
        let root = frames.allocate().ok_or(PatcherError::NoRoot)?;
        // SAFETY: a frame of zeros, which no CPU has loaded; from here on only this edits it.
        let editor = unsafe { Editor::<F, M, S>::new(mode, root, limits, memory, frames) };
        let leaf = editor.map_err(PatcherError::Root);
        let leaf = leaf.and_then(|editor| editor.leaf_table(window).map_err(PatcherError::Tables));
        let leaf = leaf.inspect_err(|_| frames.release(root))?;
        Ok(Self {
            memory,
            mode,
            limits,
            kernel: kernel.root(),
            root,
            shared,
            window,
            leaf,
        })
    }

    /// The root.
    pub(super) const fn root(&self) -> PhysAddr {
        self.root
    }

    /// Stores `bytes` at `skip` bytes into the instruction at `place`.
    ///
    /// # Safety
    ///
    /// One CPU at a time. The bytes are the instruction's, and may be changed.
    pub(super) unsafe fn write<P: TextAccess>(
        &self,
        platform: &P,
        place: &Place,
        skip: usize,
        bytes: &[u8],
    ) {
        let _off = platform.interrupts_off();
        self.copy_kernel_half();
        let index = (self.window.as_u64() / FRAME_SIZE) as usize % LeafTable::<F>::SLOTS;
        let protection = Protection {
            global: false,
            ..Protection::kernel(Access::ReadWrite).with_cache(place.cache)
        };
        let bits = LeafBits::new(protection, self.limits);
        for (page, frame) in place.frames.iter().take(place.pages).enumerate() {
            self.leaf.fill(index + page, 1, *frame, bits);
        }
        let inside = place.at.as_u64() % FRAME_SIZE + skip as u64;
        let to = VirtAddr::new(self.window.as_u64() + inside);
        let store = || {
            // SAFETY: the window shows these frames, writable; the rest is the caller's contract.
            unsafe { platform.write_text(to, bytes) };
            // SAFETY: nothing is parked here, and nothing is filled before the translations are forgotten, just below.
            unsafe { self.leaf.clear(index, place.pages) };
            for page in 0..place.pages as u64 {
                let page = VirtAddr::new(self.window.as_u64() + page * FRAME_SIZE);
                platform.perform(LocalFlush::Page(page));
            }
        };
        // SAFETY: the root has the whole of the kernel's half, copied just now, and interrupts are off.
        unsafe { platform.with_root(self.root, store) };
    }

    /// Makes the kernel's half that of the kernel's root: an entry may have been added since the last time.
    fn copy_kernel_half(&self) {
        let entries = self.mode.entries(self.mode.levels()) as usize;
        let from = self.memory.entries::<F::Raw>(self.kernel, entries);
        let to = self.memory.entries::<F::Raw>(self.root, entries);
        if let (Some(from), Some(to)) = (from, to) {
            for index in self.shared.clone() {
                let entry = F::Raw::load(&from[index]);
                if F::Raw::load(&to[index]) != entry {
                    F::Raw::store(&to[index], entry);
                }
            }
        }
    }
}
