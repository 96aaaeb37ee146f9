//! All slots of one address space: [`Slots`], set and cleared.

use core::fmt;
use core::sync::atomic::AtomicU8;

use kspace_frames::MemoryMap;
use kspace_layout::{
    FRAME_SIZE, Fixmap, FixmapSlot, KernelImage, PageSize, PhysAddr, PhysRange, SectionKind,
    VirtAddr, VirtRange,
};
use kspace_paging::{
    Access, CacheType, EditError, Editor, EntryFormat, FrameSource, Invalidation, LeafBits,
    LeafTable, Limits, PhysMemory, Protection, Stale, Tlb,
};

use super::notes::{FixedPages, Note, Shown, SlotSpot};
use super::{SlotError, Temporary};
use crate::verify::FixedPage;

/// The slots, and the unused page below them.
const PERMANENT: usize = (Fixmap::PERMANENT.size() / FRAME_SIZE) as usize;
const EARLY: usize = (Fixmap::EARLY.size() / FRAME_SIZE) as usize;

/// Makes the fixmap's page tables, as part of building a kernel's. They are never taken out again.
///
/// # Errors
///
/// [`EditError`] when there are no frames for them, or something else is mapped there.
pub fn build<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
) -> Result<(), EditError> {
    tables(editor).map(drop)
}

/// The table of the permanent slots, and that of the temporary ones.
fn tables<'a, F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'a, F, M, S>,
) -> Result<[LeafTable<'a, F>; 2], EditError> {
    Ok([
        editor.leaf_table(Fixmap::PERMANENT.start())?,
        editor.leaf_table(Fixmap::EARLY.start())?,
    ])
}

/// The slots of the x86-64 fixmap. See the [module](super).
pub struct Slots<'a, F: EntryFormat> {
    map: &'a MemoryMap,
    /// The kernel's code and constants, which no slot shows writable.
    read_only: [Option<PhysRange>; 2],
    limits: Limits,
    permanent: LeafTable<'a, F>,
    pub(super) early: LeafTable<'a, F>,
    permanent_notes: [Note; PERMANENT],
    early_notes: [Note; EARLY],
    /// Temporary mappings in use, a bit for each.
    pub(super) mapped: AtomicU8,
}

impl<'a, F: EntryFormat> Slots<'a, F> {
    /// The slots in `editor`'s tables, all empty, on a machine whose RAM is in `map`.
    ///
    /// # Errors
    ///
    /// As [`build`], unless that has been called.
    ///
    /// # Safety
    ///
    /// All address spaces have these tables; nobody else maps or edits anything there, and nothing is mapped there now.
    pub unsafe fn new<M: PhysMemory, S: FrameSource>(
        editor: &Editor<'a, F, M, S>,
        map: &'a MemoryMap,
    ) -> Result<Self, EditError> {
        let [permanent, early] = tables(editor)?;
        Ok(Self {
            map,
            read_only: [None; 2],
            limits: editor.limits(),
            permanent,
            early,
            permanent_notes: [const { Note::empty() }; PERMANENT],
            early_notes: [const { Note::empty() }; EARLY],
            mapped: AtomicU8::new(0),
        })
    }

    /// The same slots, of a kernel with this image: its code and constants are shown read-only, or not at all.
    #[must_use]
    pub fn with_image(mut self, image: &KernelImage) -> Self {
        let kinds = [SectionKind::Text, SectionKind::Rodata];
        self.read_only = kinds.map(|kind| {
            let section = image.section(kind)?;
            PhysRange::try_new(image.virt_to_phys(section.start())?, section.size()).ok()
        });
        self
    }

    /// Makes a permanent slot show the page at `phys`, to the kernel only. Works in any context; nothing has to be flushed, since CPUs
    /// keep nothing of an empty slot.
    ///
    /// Returns where it is seen.
    ///
    /// # Errors
    ///
    /// [`SlotError`].
    pub fn set(
        &self,
        slot: FixmapSlot,
        phys: PhysAddr,
        access: Access,
        cache: CacheType,
    ) -> Result<VirtAddr, SlotError> {
        let (page, note) = self.permanent(slot)?;
        if !phys.is_aligned(FRAME_SIZE) {
            return Err(SlotError::Unaligned { slot, phys });
        }
        let shown = self.showing(phys, 1, access, cache)?;
        note.begin_set().map_err(|shown| SlotError::Taken {
            slot,
            phys: shown.map(|shown| shown.phys),
        })?;
        let bits = LeafBits::new(shown.protection, self.limits);
        self.permanent.fill(index::<F>(page), 1, phys.pfn(), bits);
        note.end(Some(shown));
        Ok(page)
    }

    /// Empties a permanent slot: when this returns, no CPU can reach its page any more.
    ///
    /// # Errors
    ///
    /// [`SlotError::Empty`], also when another CPU is setting or clearing it.
    ///
    /// # Panics
    ///
    /// As [`Shootdown::invalidate`](crate::shootdown::Shootdown::invalidate), which this waits for.
    pub fn clear(&self, slot: FixmapSlot, tlb: &impl Tlb) -> Result<(), SlotError> {
        let (page, note) = self.permanent(slot)?;
        if !note.begin_clear() {
            return Err(SlotError::Empty(slot));
        }
        // SAFETY: these slots are never parked, and the note keeps this one from being filled before the flush.
        unsafe { self.permanent.clear(index::<F>(page), 1) };
        tlb.invalidate(&Invalidation::Range(Stale {
            range: VirtRange::new(page, FRAME_SIZE),
            page: PageSize::Size4K,
            global: true,
            tables: false,
            root: false,
        }));
        note.end(None);
        Ok(())
    }

    /// Where a slot is seen, if it shows something.
    #[must_use]
    pub fn address(&self, slot: FixmapSlot) -> Option<VirtAddr> {
        let page = Fixmap.address(slot)?;
        self.at(page).map(|fixed| fixed.page)
    }

    /// What is to be said about an address in a slot; `None` where no slot is.
    #[must_use]
    pub fn spot(&self, address: VirtAddr) -> Option<SlotSpot> {
        let slot = Fixmap.slot_at(address)?;
        let shown = self.note_at(address)?.shown();
        Some(SlotSpot { slot, shown })
    }

    /// A permanent slot's page and note.
    fn permanent(&self, slot: FixmapSlot) -> Result<(VirtAddr, &Note), SlotError> {
        match slot {
            FixmapSlot::Vsyscall => Err(SlotError::Vsyscall),
            FixmapSlot::Early { .. } => Err(SlotError::Temporary(slot)),
            _ => {
                let page = Fixmap.address(slot).ok_or(SlotError::NoSuchSlot(slot))?;
                let note = self.note_at(page).ok_or(SlotError::NoSuchSlot(slot))?;
                Ok((page, note))
            }
        }
    }

    /// The note of the page that holds `address`.
    pub(super) fn note_at(&self, address: VirtAddr) -> Option<&Note> {
        let within = |range: VirtRange| {
            let distance = address.offset_from(range.start())?;
            range
                .contains(address)
                .then_some((distance / FRAME_SIZE) as usize)
        };
        match within(Fixmap::PERMANENT) {
            Some(page) => self.permanent_notes.get(page),
            None => self.early_notes.get(within(Fixmap::EARLY)?),
        }
    }

    /// What a slot shows that shows the first of `pages` pages from `phys`, unless they must not be shown so.
    pub(super) fn showing(
        &self,
        phys: PhysAddr,
        pages: u64,
        access: Access,
        cache: CacheType,
    ) -> Result<Shown, SlotError> {
        let bits = self.limits.phys_bits();
        let too_wide = SlotError::TooWide { phys, bits };
        let range = PhysRange::try_new(phys, pages * FRAME_SIZE).map_err(|_| too_wide)?;
        if range.last().as_u64() >> bits != 0 {
            return Err(too_wide);
        }
        if access == Access::ReadExecute {
            return Err(SlotError::Executable(phys));
        }
        let mut read_only = self.read_only.iter().flatten();
        if access == Access::ReadWrite
            && let Some(part) = read_only.find_map(|section| section.intersection(range))
        {
            return Err(SlotError::ReadOnly(part.start()));
        }
        let mut frames = (0..pages).map(|page| PhysAddr::new(phys.as_u64() + page * FRAME_SIZE));
        let ram = frames.find(|frame| self.map.is_ram(PhysRange::new(*frame, FRAME_SIZE)));
        if let Some(phys) = ram.filter(|_| cache != CacheType::WriteBack) {
            return Err(SlotError::Ram { phys, cache });
        }
        Ok(Shown {
            phys,
            protection: Protection::kernel(access).with_cache(cache),
        })
    }

    /// What entries say that show such a page.
    pub(super) fn bits(&self, shown: Shown) -> LeafBits<F> {
        LeafBits::new(shown.protection, self.limits)
    }

    /// Shows `phys` on this CPU, which `platform` keeps the caller on, for as long as the guard lives. At most
    /// [`Fixmap::EARLY_PAGES`] pages; it need neither begin nor end at one.
    ///
    /// Works in any context.
    ///
    /// # Errors
    ///
    /// [`SlotError`].
    pub fn map_here<'s, P: crate::platform::Cpu + crate::platform::Tlb>(
        &'s self,
        platform: &'s P,
        phys: PhysRange,
        access: Access,
        cache: CacheType,
    ) -> Result<Temporary<'s, 'a, F, P>, SlotError> {
        Temporary::map(self, platform, phys, access, cache)
    }
}

/// Which slot of its page table maps `page`.
pub(super) const fn index<F: EntryFormat>(page: VirtAddr) -> usize {
    (page.as_u64() / FRAME_SIZE) as usize % LeafTable::<F>::SLOTS
}

impl<F: EntryFormat> FixedPages for Slots<'_, F> {
    fn at(&self, page: VirtAddr) -> Option<FixedPage> {
        let Shown { phys, protection } = self.note_at(page)?.shown()?;
        Some(FixedPage {
            page,
            phys,
            protection,
        })
    }
}

impl<F: EntryFormat> fmt::Debug for Slots<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let notes = self.permanent_notes.iter().chain(&self.early_notes);
        let set = notes.filter(|note| note.shown().is_some()).count();
        write!(f, "Slots({set} set)")
    }
}
