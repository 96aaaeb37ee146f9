//! What each slot was asked to show: one word for each, apart from the tables.
//!
//! ```text
//!   63          52 51                        12 11     7  6..4   3..2    1      0
//!  |      0       | frame's physical address   |    0   | cache |access|change| set |
//! ```

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use kspace_layout::{FRAME_SIZE, FixmapSlot, PhysAddr, VirtAddr};
use kspace_paging::{Access, CacheType, Protection};

use crate::verify::FixedPage;

const SET: u64 = 1 << 0;
/// Somebody sets or clears the slot just now.
const CHANGING: u64 = 1 << 1;
const ACCESS_SHIFT: u32 = 2;
const CACHE_SHIFT: u32 = 4;
const FRAME: u64 = !(FRAME_SIZE - 1);

const CACHES: [CacheType; 6] = [
    CacheType::WriteBack,
    CacheType::WriteThrough,
    CacheType::UncachedMinus,
    CacheType::Uncached,
    CacheType::WriteCombining,
    CacheType::WriteProtected,
];

/// What a slot shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) phys: PhysAddr,
    pub(super) protection: Protection,
}

impl Shown {
    fn encode(self) -> u64 {
        let access = match self.protection.access {
            Access::ReadOnly => 0,
            Access::ReadWrite => 1,
            Access::ReadExecute => 2,
        };
        let cache = CACHES
            .iter()
            .position(|cache| *cache == self.protection.cache);
        self.phys.as_u64() & FRAME
            | (cache.unwrap_or(0) as u64) << CACHE_SHIFT
            | access << ACCESS_SHIFT
            | SET
    }

    fn decode(word: u64) -> Option<Self> {
        if word & SET == 0 {
            return None;
        }
        let access = match word >> ACCESS_SHIFT & 0b11 {
            0 => Access::ReadOnly,
            1 => Access::ReadWrite,
            _ => Access::ReadExecute,
        };
        let cache = CACHES.get((word >> CACHE_SHIFT & 0b111) as usize)?;
        Some(Self {
            phys: PhysAddr::new(word & FRAME),
            protection: Protection::kernel(access).with_cache(*cache),
        })
    }
}

/// A slot's word.
pub(super) struct Note(AtomicU64);

impl Note {
    pub(super) const fn empty() -> Self {
        Self(AtomicU64::new(0))
    }

    /// What the slot shows.
    pub(super) fn shown(&self) -> Option<Shown> {
        Shown::decode(self.0.load(Ordering::Acquire))
    }

    /// Begins to set an empty slot; or tells what it shows, if it is not being changed.
    pub(super) fn begin_set(&self) -> Result<(), Option<Shown>> {
        self.0
            .compare_exchange(0, CHANGING, Ordering::Acquire, Ordering::Acquire)
            .map(drop)
            .map_err(Shown::decode)
    }

    /// Begins to clear a slot that shows something; false when it does not.
    pub(super) fn begin_clear(&self) -> bool {
        let word = self.0.load(Ordering::Acquire);
        word & SET != 0
            && self
                .0
                .compare_exchange(word, CHANGING, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
    }

    /// Ends what was begun.
    pub(super) fn end(&self, shown: Option<Shown>) {
        let word = shown.map_or(0, Shown::encode);
        self.0.store(word, Ordering::Release);
    }
}

/// Whoever knows which pages of the fixmap are set.
pub trait FixedPages: fmt::Debug {
    /// What the page at `page`, a multiple of 4 KiB, shows.
    fn at(&self, page: VirtAddr) -> Option<FixedPage>;
}

impl<const N: usize> FixedPages for [FixedPage; N] {
    fn at(&self, page: VirtAddr) -> Option<FixedPage> {
        self.iter().find(|fixed| fixed.page == page).copied()
    }
}

/// What a slot says about an address in it. Its `Display` is a part of a sentence: `slot 514 (local APIC) of the fixmap, empty`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotSpot {
    pub(super) slot: FixmapSlot,
    pub(super) shown: Option<Shown>,
}

impl SlotSpot {
    /// The slot.
    #[must_use]
    pub const fn slot(&self) -> FixmapSlot {
        self.slot
    }

    /// The physical page that it shows.
    #[must_use]
    pub fn phys(&self) -> Option<PhysAddr> {
        self.shown.map(|shown| shown.phys)
    }
}

impl fmt::Display for SlotSpot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::fault::write_slot(f, self.slot)?;
        match self.shown {
            None => f.write_str(", empty"),
            Some(Shown { phys, protection }) => write!(
                f,
                ", set to physical {phys}, {}, {}",
                protection.access, protection.cache
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_what_was_noted() {
        for access in [Access::ReadOnly, Access::ReadWrite, Access::ReadExecute] {
            for cache in CACHES {
                for phys in [0, 0xfee0_0000, 0x000f_ffff_ffff_f000] {
                    let shown = Shown {
                        phys: PhysAddr::new(phys),
                        protection: Protection::kernel(access).with_cache(cache),
                    };
                    let note = Note::empty();
                    assert_eq!(note.begin_set(), Ok(()));
                    assert_eq!(note.shown(), None);
                    assert_eq!(note.begin_set(), Err(None), "it is being set");
                    note.end(Some(shown));
                    assert_eq!(note.shown(), Some(shown));
                    assert_eq!(note.begin_set(), Err(Some(shown)));
                    assert!(note.begin_clear());
                    assert!(!note.begin_clear(), "it is being cleared");
                    note.end(None);
                    assert!(!note.begin_clear());
                }
            }
        }
    }
}
