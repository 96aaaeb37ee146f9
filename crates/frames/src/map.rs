//! The memory map: what every physical address is, and which RAM is taken.
//!
//! ```text
//!   entries    | usable   |  hole | reserved | ACPI |   usable             |
//!   reserved      [###]                            [####]   [#]              kernel image, start info, ...
//!   free       [--]   [---]                        ....[----][..]            RAM that nobody reserved
//! ```
//!
//! Two lists, because they answer two questions: an address range keeps its kind while it is reserved (the direct map
//! covers the kernel image, which is RAM), and a reservation does not care what it covers.

use core::fmt;

use kspace_layout::{PhysAddr, PhysRange};

use crate::pieces::{above, below};
use crate::reserved::Reserved;
use crate::{MapError, MemoryEntry, MemoryKind};

/// How many ranges a map can hold: what Linux's boot protocol passes (`E820_MAX_ENTRIES_ZEROPAGE`).
pub const MAX_ENTRIES: usize = 128;

/// The first address that 32 bits cannot name.
pub(crate) const FOUR_GIB: PhysAddr = PhysAddr::new(1 << 32);

/// What every physical address is, and which of it is in use.
///
/// # Invariants
///
/// Entries are sorted, disjoint, and no two neighbours that touch are of the same kind. RAM entries are whole 4 KiB
/// pages, and at least one lies below 4 GiB.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMap {
    pub(crate) entries: Entries,
    reserved: Reserved,
}

impl MemoryMap {
    /// A map of checked entries; see [`from_firmware`](Self::from_firmware).
    pub(crate) fn from_entries(entries: Entries) -> Self {
        Self {
            entries,
            reserved: Reserved::new(),
        }
    }

    /// Every entry, in order of address.
    pub fn entries(
        &self,
    ) -> impl DoubleEndedIterator<Item = MemoryEntry> + ExactSizeIterator + Clone + '_ {
        self.entries.as_slice().iter().copied()
    }

    /// The RAM, in order of address: whole pages, and no two ranges touch.
    pub fn ram(&self) -> impl DoubleEndedIterator<Item = PhysRange> + Clone + '_ {
        self.entries
            .as_slice()
            .iter()
            .filter(|entry| entry.kind == MemoryKind::Ram)
            .map(|entry| entry.range)
    }

    /// What `address` is; `None` in a hole, of which the firmware says nothing.
    #[must_use]
    pub fn kind_at(&self, address: PhysAddr) -> Option<MemoryKind> {
        self.entry_at(address).map(|entry| entry.kind)
    }

    /// The entry that holds `address`; `None` in a hole.
    #[must_use]
    pub fn entry_at(&self, address: PhysAddr) -> Option<MemoryEntry> {
        let entries = self.entries.as_slice();
        let after = entries.partition_point(|entry| entry.range.start() <= address);
        let entry = *entries.get(after.checked_sub(1)?)?;
        entry.range.contains(address).then_some(entry)
    }

    /// Whether every byte of `range` is RAM.
    #[must_use]
    pub fn is_ram(&self, range: PhysRange) -> bool {
        self.entry_at(range.start())
            .is_some_and(|entry| entry.kind == MemoryKind::Ram && entry.range.contains_range(range))
    }

    /// How much RAM there is, in bytes.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        self.ram().map(PhysRange::size).sum()
    }

    /// The first byte of RAM.
    #[must_use]
    pub fn ram_start(&self) -> PhysAddr {
        self.ram().next().map_or(PhysAddr::ZERO, PhysRange::start)
    }

    /// The last byte of RAM.
    #[must_use]
    pub fn ram_last(&self) -> PhysAddr {
        self.ram()
            .next_back()
            .map_or(PhysAddr::ZERO, PhysRange::last)
    }

    /// The first address after all RAM, as a number because it may be 2^52.
    #[must_use]
    pub fn ram_end_u64(&self) -> u64 {
        self.ram_last().as_u64() + 1
    }

    /// Linux's `max_pfn`: the number of the frame after the last one of RAM.
    #[must_use]
    pub fn max_pfn(&self) -> u64 {
        self.ram_last().pfn().as_u64() + 1
    }

    /// Takes all RAM at and above `limit` bytes out of the map, as Linux's `mem=` does: it limits the address, not the
    /// amount. A limit inside a page is rounded down. Returns how many bytes of RAM were taken out.
    ///
    /// Reserve first what is in use: a limit that would cut it off is then refused.
    ///
    /// # Errors
    ///
    /// [`MapError::LimitLeavesNothing`] and [`MapError::LimitCutsReserved`]; the map is unchanged.
    pub fn limit(&mut self, limit: u64) -> Result<u64, MapError> {
        let page = limit & !(kspace_layout::FRAME_SIZE - 1);
        let Ok(end) = PhysAddr::try_new(page) else {
            return Ok(0);
        };
        if self.ram_start() >= end {
            return Err(MapError::LimitLeavesNothing {
                limit,
                first: self.ram_start(),
            });
        }
        // The last byte must stay, so the range that holds it is looked for at its end.
        let cut = |reserved: &PhysRange| {
            self.ram().any(|ram| {
                ram.intersection(*reserved)
                    .is_some_and(|used| used.last() >= end)
            })
        };
        if let Some(reserved) = self.reserved.as_slice().iter().rev().copied().find(cut) {
            return Err(MapError::LimitCutsReserved { limit, reserved });
        }
        let before = self.ram_bytes();
        self.entries.retain_map(|entry| match entry.kind {
            MemoryKind::Ram => below(entry.range, end).map(|range| entry.part(range)),
            _ => Some(entry),
        });
        Ok(before - self.ram_bytes())
    }

    /// Marks every page that `range` touches as in use, whatever kind of memory it is. Reserving twice is harmless.
    ///
    /// # Errors
    ///
    /// [`MapError::TooManyReservations`]; the map is unchanged.
    pub fn reserve(&mut self, range: PhysRange) -> Result<(), MapError> {
        self.reserved.add(range)
    }

    /// The reserved ranges, in order of address: whole pages, and no two touch.
    pub fn reserved(&self) -> impl DoubleEndedIterator<Item = PhysRange> + ExactSizeIterator + '_ {
        self.reserved.as_slice().iter().copied()
    }

    /// The RAM that nobody reserved, from the highest address down.
    #[must_use]
    pub fn free_from_top(&self) -> Free<'_> {
        Free {
            map: self,
            below: None,
        }
    }
}

/// Iterator over free RAM, highest first; see [`MemoryMap::free_from_top`].
#[derive(Clone, Debug)]
pub struct Free<'a> {
    map: &'a MemoryMap,
    /// Only addresses below this one are still to be reported.
    below: Option<PhysAddr>,
}

impl Iterator for Free<'_> {
    type Item = PhysRange;

    fn next(&mut self) -> Option<PhysRange> {
        loop {
            let limit = self.below;
            let candidate = self.map.ram().rev().find_map(|ram| match limit {
                Some(limit) => below(ram, limit),
                None => Some(ram),
            })?;
            let taken = self
                .map
                .reserved()
                .rev()
                .find(|taken| taken.overlaps(candidate));
            // A reservation ends at or inside the candidate, or covers its top: report what lies above it.
            let free = match taken {
                Some(taken) => above(candidate, taken.last()),
                None => Some(candidate),
            };
            self.below = Some(match taken {
                Some(taken) => taken.start(),
                None => candidate.start(),
            });
            if free.is_some() {
                return free;
            }
        }
    }
}

/// A sorted table of disjoint entries with a fixed capacity.
#[derive(Clone, Copy)]
pub(crate) struct Entries {
    slots: [MemoryEntry; MAX_ENTRIES],
    len: usize,
}

impl Entries {
    pub(crate) const fn new() -> Self {
        Self {
            slots: [MemoryEntry::UNUSED; MAX_ENTRIES],
            len: 0,
        }
    }

    pub(crate) fn as_slice(&self) -> &[MemoryEntry] {
        &self.slots[..self.len]
    }

    /// Appends an entry that lies above all others, merging it with the last one where they touch and are of one kind.
    /// `None` when the table is full.
    #[must_use]
    pub(crate) fn push(&mut self, entry: MemoryEntry) -> Option<()> {
        if let Some(last) = self.slots[..self.len].last_mut()
            && last.kind == entry.kind
            && last.range.end_u64() == entry.range.start().as_u64()
        {
            let size = last.range.size() + entry.range.size();
            last.range = PhysRange::try_new(last.range.start(), size).ok()?;
            return Some(());
        }
        *self.slots.get_mut(self.len)? = entry;
        self.len += 1;
        Some(())
    }

    /// Replaces every entry by what `change` makes of it; it may shrink or drop entries, not move them.
    pub(crate) fn retain_map(
        &mut self,
        mut change: impl FnMut(MemoryEntry) -> Option<MemoryEntry>,
    ) {
        let mut kept = 0;
        for index in 0..self.len {
            if let Some(entry) = change(self.slots[index]) {
                self.slots[kept] = entry;
                kept += 1;
            }
        }
        self.len = kept;
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}
