//! Empty page tables of any mode on the simulated machine, and one way to call an editor of any format.

#![allow(dead_code, reason = "each test file uses its own part of the rig")]

use kspace_layout::{PageSize, PagingMode, Pfn, PhysAddr, PhysRange, VirtAddr, VirtRange};
use kspace_paging::{
    Adjustment, EditError, Editor, EntryFormat, Flush, FrameSource, Limits, LongMode, Pae,
    Protection, TwoLevel, Unmapped, Walker,
};
use kspace_sim::{SimFrames, SimMemory};

/// 256 MiB for tables, from 16 MiB on.
pub const TABLES: PhysRange = PhysRange::new(PhysAddr::new(16 << 20), 256 << 20);

/// The tables under test.
pub struct Rig<'m> {
    pub mode: PagingMode,
    pub limits: Limits,
    pub memory: &'m SimMemory,
    pub frames: &'m SimFrames<'m>,
    pub root: PhysAddr,
}

/// Calls `$call` on an editor of the format that the mode has.
macro_rules! editor {
    ($rig:expr, $editor:ident => $call:expr) => {
        match $rig.mode {
            PagingMode::TwoLevel => {
                let $editor = $rig.editor::<TwoLevel>();
                $call
            }
            PagingMode::Pae => {
                let $editor = $rig.editor::<Pae>();
                $call
            }
            PagingMode::FourLevel | PagingMode::FiveLevel => {
                let $editor = $rig.editor::<LongMode>();
                $call
            }
        }
    };
}

/// Runs `test` on fresh tables; in PAE their four root entries are filled.
pub fn with_rig(mode: PagingMode, limits: Limits, test: impl FnOnce(&Rig<'_>)) {
    let memory = SimMemory::sparse();
    let frames = SimFrames::new(&memory, TABLES);
    let root = frames.allocate().expect("the range has frames");
    let rig = Rig {
        mode,
        limits,
        memory: &memory,
        frames: &frames,
        root,
    };
    if mode == PagingMode::Pae {
        let all = VirtRange::new(VirtAddr::ZERO, 1 << 32);
        rig.discharge(rig.populate(all).expect("there are frames"));
    }
    test(&rig);
}

impl<'m> Rig<'m> {
    pub fn editor<F: EntryFormat>(&self) -> Editor<'m, F, SimMemory, SimFrames<'m>> {
        // SAFETY: nothing but the test uses these tables.
        unsafe { Editor::new(self.mode, self.root, self.limits, self.memory, self.frames) }
            .expect("the root suits the mode")
    }

    pub fn walker(&self) -> Walker<'m, SimMemory> {
        Walker::new(self.mode, self.root, self.memory).with_limits(self.limits)
    }

    pub fn map(
        &self,
        range: VirtRange,
        phys: PhysAddr,
        protection: Protection,
        largest: PageSize,
    ) -> Result<(), EditError> {
        editor!(self, editor => editor.map(range, phys, protection, largest))
    }

    pub fn unmap(&self, range: VirtRange) -> Result<Flush, EditError> {
        editor!(self, editor => editor.unmap(range))
    }

    pub fn unmap_present(&self, range: VirtRange) -> Result<Flush, EditError> {
        editor!(self, editor => editor.unmap_present(range))
    }

    pub fn unmap_each(
        &self,
        range: VirtRange,
        each: impl FnMut(Unmapped),
    ) -> Result<Flush, EditError> {
        editor!(self, editor => editor.unmap_each(range, each))
    }

    pub fn protect(&self, range: VirtRange, protection: Protection) -> Result<Flush, EditError> {
        editor!(self, editor => editor.protect(range, protection))
    }

    pub fn adjust(&self, range: VirtRange, adjustment: Adjustment) -> Result<Flush, EditError> {
        editor!(self, editor => editor.adjust(range, adjustment))
    }

    pub fn tables_to_adjust(
        &self,
        range: VirtRange,
        adjustment: Adjustment,
    ) -> Result<usize, EditError> {
        editor!(self, editor => editor.tables_to_adjust(range, adjustment))
    }

    pub fn merge(&self, range: VirtRange, largest: PageSize) -> Result<Flush, EditError> {
        editor!(self, editor => editor.merge(range, largest))
    }

    pub fn purge(&self, range: VirtRange) -> Result<Flush, EditError> {
        editor!(self, editor => editor.purge(range))
    }

    pub fn park(&self, range: VirtRange) -> Result<Flush, EditError> {
        editor!(self, editor => editor.park(range))
    }

    /// Collects parked entries where no CPU has used the tables, or all have flushed: the caller's business.
    pub fn collect(
        &self,
        range: VirtRange,
        each: impl FnMut(PhysAddr, PageSize, usize),
    ) -> Result<(), EditError> {
        // SAFETY: what the frames are used for is simulated too, so a mistake breaks nothing but the test.
        unsafe { editor!(self, editor => editor.collect(range, each)) }
    }

    pub fn populate(&self, range: VirtRange) -> Result<Flush, EditError> {
        editor!(self, editor => editor.populate(range))
    }

    /// Ends a token where no CPU has used the tables.
    pub fn discharge(&self, flush: Flush) {
        // SAFETY: no CPU, not even a simulated one, has walked these tables.
        unsafe { flush.discharged(self.memory, self.frames) };
    }

    /// The content of every frame in use.
    pub fn snapshot(&self) -> Vec<(Pfn, Vec<u64>)> {
        let used = self.frames.used();
        used.into_iter()
            .map(|frame| (frame, self.memory.snapshot(frame)))
            .collect()
    }
}

/// The range from `start` up to `end`, not included.
pub fn range(start: u64, end: u64) -> VirtRange {
    VirtRange::new(VirtAddr::new(start), end - start)
}

/// Shorthand for a physical address.
pub const fn phys(address: u64) -> PhysAddr {
    PhysAddr::new(address)
}
