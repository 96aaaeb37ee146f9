//! From the firmware's entries to a map that can be relied on.
//!
//! Each entry in turn is laid over the table built so far, byte by byte: where they overlap the more restrictive kind
//! wins (Linux's `e820__update_table` decides the same). Only then is RAM trimmed to whole pages, so that two RAM
//! entries that meet in the middle of a page keep that page.
//!
//! The outcome does not depend on the order of the entries, with one exception: the table must have room at every step,
//! so an order that makes more than [`MAX_ENTRIES`](crate::MAX_ENTRIES) ranges on the way is refused even if later
//! entries would merge them.

use kspace_layout::{FRAME_SIZE, PHYS_ADDR_BITS, PhysAddr, PhysRange};

use crate::map::{Entries, FOUR_GIB};
use crate::pieces::{above, below};
use crate::{FirmwareEntry, MapError, MemoryEntry, MemoryKind, MemoryMap, Repair};

/// How many firmware entries are read at most. Real machines have tens; large ones a few hundred before merging.
pub const MAX_FIRMWARE_ENTRIES: usize = 1024;

impl MemoryMap {
    /// Makes a map from what the firmware says, on a CPU whose physical addresses have `phys_bits` bits (CPUID
    /// 80000008h; at most 52). Everything that had to be changed goes to `report`.
    ///
    /// Takes time proportional to the number of entries times the number of separate ranges.
    ///
    /// # Errors
    ///
    /// [`MapError::TooManyEntries`], [`MapError::TooManyRanges`], [`MapError::NoRam`], [`MapError::NoLowRam`].
    pub fn from_firmware(
        firmware: impl IntoIterator<Item = FirmwareEntry>,
        phys_bits: u32,
        mut report: impl FnMut(Repair),
    ) -> Result<Self, MapError> {
        let phys_bits = phys_bits.clamp(32, PHYS_ADDR_BITS);
        let mut entries = Entries::new();
        let mut count = 0;
        let mut previous_start = 0;
        for (index, raw) in firmware.into_iter().enumerate() {
            if index == MAX_FIRMWARE_ENTRIES {
                return Err(MapError::TooManyEntries);
            }
            count = index + 1;
            if raw.start < previous_start {
                report(Repair::OutOfOrder { index, entry: raw });
            }
            previous_start = raw.start;
            if let Some(entry) = check_entry(index, raw, phys_bits, &mut report) {
                entries = overlay(&entries, entry, index, &mut report)
                    .ok_or(MapError::TooManyRanges { index })?;
            }
        }
        entries.retain_map(|entry| trim_to_pages(entry, &mut report));
        let map = Self::from_entries(entries);
        let first = map
            .ram()
            .next()
            .ok_or(MapError::NoRam { entries: count })?
            .start();
        if first >= FOUR_GIB {
            return Err(MapError::NoLowRam { first });
        }
        Ok(map)
    }

    /// Takes RAM away, whatever the firmware says: the whole pages in `range` become reserved (Linux: `e820__range_update`).
    ///
    /// # Errors
    ///
    /// [`MapError::NotRam`], [`MapError::NoRoom`]; the map is unchanged.
    pub fn withdraw(&mut self, range: PhysRange) -> Result<(), MapError> {
        if !self.is_ram(range) {
            return Err(MapError::NotRam { range });
        }
        let Some(pages) = range.whole_pages() else {
            return Ok(());
        };
        let reserved = MemoryEntry::new(pages, MemoryKind::Reserved);
        self.entries =
            overlay(&self.entries, reserved, 0, &mut |_| {}).ok_or(MapError::NoRoom { range })?;
        Ok(())
    }
}

impl MemoryMap {
    /// Takes in RAM that was plugged in while the machine ran: whole pages, of which the map says nothing yet.
    ///
    /// # Errors
    ///
    /// [`MapError::Plugged`]; the map is unchanged.
    pub fn plug(&mut self, range: PhysRange) -> Result<(), MapError> {
        let overlaps = |entry: &MemoryEntry| entry.range().overlaps(range);
        let known = self.entries().find(overlaps);
        let ram = MemoryEntry::new(range, MemoryKind::Ram);
        let pages = range.is_aligned(FRAME_SIZE);
        match overlay(&self.entries, ram, 0, &mut |_| {}) {
            Some(entries) if known.is_none() && pages => self.entries = entries,
            _ => return Err(MapError::Plugged { range, known }),
        }
        Ok(())
    }
}

/// The addresses and kind that one raw entry really states; `None` when it states nothing usable.
fn check_entry(
    index: usize,
    raw: FirmwareEntry,
    phys_bits: u32,
    report: &mut impl FnMut(Repair),
) -> Option<MemoryEntry> {
    if raw.size == 0 {
        report(Repair::Empty { index, entry: raw });
        return None;
    }
    let mut kind = MemoryKind::from_code(raw.kind);
    if raw.kind == 0 {
        report(Repair::NoKind { index, entry: raw });
        kind = MemoryKind::Reserved;
    }
    let highest = (1_u64 << phys_bits) - 1;
    if raw.last().is_none() && kind == MemoryKind::Ram {
        report(Repair::RamWraps { index, entry: raw });
        return None;
    }
    if raw.start > highest {
        report(Repair::Unreachable {
            index,
            entry: raw,
            phys_bits,
        });
        return None;
    }
    let last = raw.last().unwrap_or(u64::MAX);
    if last > highest {
        report(Repair::TooHigh {
            index,
            entry: raw,
            phys_bits,
        });
    }
    let start = PhysAddr::try_new(raw.start).ok()?;
    let last = PhysAddr::try_new(last.min(highest)).ok()?;
    let range = PhysRange::try_from_bounds(start, last).ok()?;
    Some(MemoryEntry::new(range, kind))
}

/// `old` with `new` laid over it; `None` when the result has too many ranges.
fn overlay(
    old: &Entries,
    new: MemoryEntry,
    index: usize,
    report: &mut impl FnMut(Repair),
) -> Option<Entries> {
    let mut out = Entries::new();
    // What of `new` lies at or above the entries handled so far.
    let mut rest = Some(new.range);
    for &entry in old.as_slice() {
        let start = entry.range.start();
        if let Some(alone) = rest.and_then(|rest| below(rest, start)) {
            out.push(new.part(alone))?;
            rest = rest.and_then(|rest| above(rest, alone.last()));
        }
        let Some(both) = rest.and_then(|rest| rest.intersection(entry.range)) else {
            out.push(entry)?;
            continue;
        };
        report(Repair::Overlap {
            index,
            range: both,
            before: entry.kind,
            claimed: new.kind,
        });
        if let Some(range) = below(entry.range, both.start()) {
            out.push(entry.part(range))?;
        }
        out.push(MemoryEntry::new(both, entry.kind.max(new.kind)))?;
        if let Some(range) = above(entry.range, both.last()) {
            out.push(entry.part(range))?;
        }
        rest = rest.and_then(|rest| above(rest, both.last()));
    }
    if let Some(range) = rest {
        out.push(new.part(range))?;
    }
    Some(out)
}

/// RAM shrunk to whole pages; other kinds as they are.
fn trim_to_pages(entry: MemoryEntry, report: &mut impl FnMut(Repair)) -> Option<MemoryEntry> {
    if entry.kind != MemoryKind::Ram {
        return Some(entry);
    }
    let kept = entry.whole_pages();
    if kept != Some(entry) {
        let kept = kept.map(MemoryEntry::range);
        report(Repair::Trimmed { entry, kept });
    }
    kept
}
