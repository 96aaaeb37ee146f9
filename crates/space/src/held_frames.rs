//! Frames set aside for one build, so that it cannot run out of them half-way: of page tables, or pages of any size.

use core::cell::Cell;

use kspace_layout::PhysAddr;
use kspace_paging::{Editor, EntryFormat, FrameSource, PhysMemory, RawEntry};

/// A frame source that has taken its frames from another beforehand. Each frame it holds is zero but for its first eight
/// bytes, which hold the address of the frame taken before it. What is left when it is dropped goes back, the newest first.
pub(crate) struct HeldFrames<'a, M: PhysMemory, S: FrameSource> {
    memory: &'a M,
    source: &'a S,
    newest: Cell<Option<PhysAddr>>,
    count: Cell<u64>,
}

impl<'a, M: PhysMemory, S: FrameSource> HeldFrames<'a, M, S> {
    /// Takes `needed` frames, or none.
    ///
    /// # Errors
    ///
    /// How many there were.
    pub(crate) fn take(memory: &'a M, source: &'a S, needed: u64) -> Result<Self, u64> {
        let held = Self {
            memory,
            source,
            newest: Cell::new(None),
            count: Cell::new(0),
        };
        while held.count.get() < needed {
            let had = held.count.get();
            let frame = source.allocate().ok_or(had)?;
            if !held.hold(frame) {
                source.release(frame);
                return Err(had);
            }
        }
        Ok(held)
    }

    /// `editor`, taking its tables from here.
    pub(crate) fn editor<'h, F: EntryFormat>(
        &'h self,
        editor: &Editor<'a, F, M, S>,
    ) -> Editor<'h, F, M, Self> {
        // SAFETY: this is the same address space, over which the caller's editor is the authority. What this one frees goes on to the
        // caller's source, where the frames came from.
        let held = unsafe {
            Editor::new(
                editor.mode(),
                editor.root(),
                editor.limits(),
                self.memory,
                self,
            )
        };
        match held {
            Ok(held) => held,
            Err(error) => unreachable!("the caller's editor has the same mode and root: {error}"),
        }
    }

    /// Adds a frame; `false` when the memory cannot reach it.
    fn hold(&self, frame: PhysAddr) -> bool {
        let Some(link) = self.memory.entries::<u64>(frame, 1) else {
            return false;
        };
        // The oldest frame's link is never followed: the count says where the list ends.
        let older = self.newest.get().unwrap_or(PhysAddr::ZERO);
        <u64 as RawEntry>::store(&link[0], older.as_u64());
        self.newest.set(Some(frame));
        self.count.set(self.count.get() + 1);
        true
    }
}

// SAFETY: each frame came from `source`, so it is one that nothing else uses, and it is handed out once. It was zero then, and the
// link, the only thing stored in it since, is cleared here.
unsafe impl<M: PhysMemory, S: FrameSource> FrameSource for HeldFrames<'_, M, S> {
    fn allocate(&self) -> Option<PhysAddr> {
        let frame = self.newest.get()?;
        let link = &self.memory.entries::<u64>(frame, 1)?[0];
        let older = PhysAddr::try_new(<u64 as RawEntry>::load(link)).ok();
        <u64 as RawEntry>::store(link, 0);
        let left = self.count.get() - 1;
        self.count.set(left);
        self.newest.set(older.filter(|_| left > 0));
        Some(frame)
    }

    fn release(&self, frame: PhysAddr) {
        self.source.release(frame);
    }
}

impl<M: PhysMemory, S: FrameSource> Drop for HeldFrames<'_, M, S> {
    fn drop(&mut self) {
        while let Some(frame) = self.allocate() {
            self.source.release(frame);
        }
    }
}
