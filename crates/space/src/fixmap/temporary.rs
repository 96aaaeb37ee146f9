//! A few pages of physical memory, seen by one CPU for a moment: [`Temporary`].

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use kspace_layout::{FRAME_SIZE, Fixmap, FixmapSlot, PhysRange, VirtAddr, VirtRange};
use kspace_paging::{Access, CacheType, EntryFormat};

use super::notes::Shown;
use super::slots::index;
use super::{SlotError, Slots};
use crate::platform::{Cpu, Tlb};
use crate::shootdown::forget_pages_here;

/// Physical memory that this CPU sees at [`range`](Self::range) until this is dropped, on the same CPU: it keeps the caller there.
#[must_use = "a mapping that is dropped is gone"]
pub struct Temporary<'s, 'a, F: EntryFormat, P: Cpu + Tlb> {
    slots: &'s Slots<'a, F>,
    platform: &'s P,
    mapping: u8,
    /// The pages.
    pages: VirtRange,
    /// The bytes that were asked for.
    range: VirtRange,
    _pin: P::Pin,
    /// It belongs to the CPU that made it.
    here: PhantomData<*const ()>,
}

impl<'s, 'a, F: EntryFormat, P: Cpu + Tlb> Temporary<'s, 'a, F, P> {
    pub(super) fn map(
        slots: &'s Slots<'a, F>,
        platform: &'s P,
        phys: PhysRange,
        access: Access,
        cache: CacheType,
    ) -> Result<Self, SlotError> {
        let first = phys.start().align_down(FRAME_SIZE);
        let offset = phys.start().as_u64() - first.as_u64();
        let pages = (phys.last().as_u64() - first.as_u64()) / FRAME_SIZE + 1;
        let most = u64::from(Fixmap::EARLY_PAGES);
        if pages > most {
            return Err(SlotError::TooLong { pages, most });
        }
        let shown = slots.showing(first, pages, access, cache)?;
        let pin = platform.pin();
        let mapping = slots.take_mapping().ok_or(SlotError::NoneFree)?;
        let start = Fixmap
            .address(FixmapSlot::Early { mapping, page: 0 })
            .expect("a mapping that was taken is one of the fixmap's");
        let this = Self {
            slots,
            platform,
            mapping,
            pages: VirtRange::new(start, pages * FRAME_SIZE),
            range: VirtRange::new(VirtAddr::new(start.as_u64() + offset), phys.size()),
            _pin: pin,
            here: PhantomData,
        };
        let bits = slots.bits(shown);
        slots
            .early
            .fill(index::<F>(start), pages as usize, first.pfn(), bits);
        // What was here when others had the mapping, this CPU may know.
        forget_pages_here(platform, this.pages);
        this.note(Some(shown));
        Ok(this)
    }

    /// Where the memory is seen.
    #[must_use]
    pub const fn range(&self) -> VirtRange {
        self.range
    }

    /// Notes what the pages show.
    fn note(&self, first: Option<Shown>) {
        for page in 0..self.pages.size() / FRAME_SIZE {
            let shown = first.and_then(|shown| {
                let phys = shown.phys.checked_add(page * FRAME_SIZE).ok()?;
                Some(Shown { phys, ..shown })
            });
            let address = VirtAddr::new(self.pages.start().as_u64() + page * FRAME_SIZE);
            if let Some(note) = self.slots.note_at(address) {
                note.end(shown);
            }
        }
    }
}

impl<F: EntryFormat, P: Cpu + Tlb> Drop for Temporary<'_, '_, F, P> {
    fn drop(&mut self) {
        self.note(None);
        let count = (self.pages.size() / FRAME_SIZE) as usize;
        // SAFETY: these slots are never parked; whoever fills them next forgets what it has of them before it uses them.
        unsafe {
            self.slots
                .early
                .clear(index::<F>(self.pages.start()), count);
        };
        forget_pages_here(self.platform, self.pages);
        self.slots.give_mapping(self.mapping);
    }
}

impl<F: EntryFormat, P: Cpu + Tlb> fmt::Debug for Temporary<'_, '_, F, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Temporary({})", self.range)
    }
}

impl<F: EntryFormat> Slots<'_, F> {
    /// Takes a mapping that is free.
    fn take_mapping(&self) -> Option<u8> {
        let taken = self
            .mapped
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |mapped| {
                let free = mapped.trailing_ones();
                (free < u32::from(Fixmap::EARLY_MAPPINGS)).then(|| mapped | 1 << free)
            });
        taken.ok().map(|before| before.trailing_ones() as u8)
    }

    fn give_mapping(&self, mapping: u8) {
        self.mapped.fetch_and(!(1 << mapping), Ordering::Release);
    }
}
