//! The System Resource Affinity Table (ACPI 6.5, section 5.2.16): the firmware's list of who is near to what.
//!
//! ```text
//!   0         36          48
//!   | header  | reserved  | kind 1 | length 1 | … | kind | length | … |
//! ```

use super::topology::TopologyNote;

/// Bytes before the first entry: the header and 12 reserved ones.
const ENTRIES: usize = 48;

/// Of the fields `Flags` of all kinds: bit 0, the entry is in use.
const ENABLED: u32 = 1 << 0;

/// Of the flags of memory (table 5.59): bit 1.
const HOT_PLUGGABLE: u32 = 1 << 1;

/// An entry that is in use. Its domain is any number that the firmware likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A processor.
    Cpu {
        /// Its proximity domain.
        domain: u32,
        /// Its local APIC's identifier.
        apic_id: u32,
    },
    /// A range of addresses.
    Memory {
        /// Its proximity domain.
        domain: u32,
        /// The first address.
        base: u64,
        /// Bytes.
        length: u64,
        /// Memory can be plugged in and out.
        hot_pluggable: bool,
    },
}

/// The entries of processors and memory that are in use.
///
/// # Errors
///
/// [`TopologyNote::BadEntry`] when the entries do not form a chain that ends with the table.
pub(super) fn entries(table: &[u8]) -> Result<Entries<'_>, TopologyNote> {
    // Byte 8 of the header is the table's revision. Up to 1, domains had 8 bits and the other bytes were reserved.
    let wide = table.get(8).is_some_and(|revision| *revision >= 2);
    let all = Entries {
        rest: table.get(ENTRIES..).unwrap_or_default(),
        wide,
    };
    let mut rest = all.rest;
    while let [kind, ..] = *rest {
        let length = rest.get(1).copied().map_or(0, usize::from);
        if length < least(kind) || length > rest.len() {
            let offset = table.len() - rest.len();
            return Err(TopologyNote::BadEntry { offset, length });
        }
        rest = &rest[length..];
    }
    Ok(all)
}

/// How long an entry of a kind is at least (sections 5.2.16.1 to 5.2.16.3).
const fn least(kind: u8) -> usize {
    match kind {
        0 => 16,
        1 => 40,
        2 => 24,
        _ => 2,
    }
}

/// See [`entries`], which has checked the chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entries<'a> {
    rest: &'a [u8],
    wide: bool,
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        while let [_, length, ..] = *self.rest {
            let (entry, rest) = self.rest.split_at_checked(usize::from(length))?;
            self.rest = rest;
            if let Some(entry) = parse(entry, self.wide) {
                return Some(entry);
            }
        }
        None
    }
}

/// One entry; `None` when it is not in use, or of a kind that is of no interest.
fn parse(entry: &[u8], wide: bool) -> Option<Entry> {
    let narrowed = |domain: u32| if wide { domain } else { domain & 0xff };
    match entry.first()? {
        // Processor Local APIC/SAPIC Affinity: the domain's low byte at 2, the others at 9.
        0 if u32_at(entry, 4)? & ENABLED != 0 => {
            let upper = [0, *entry.get(9)?, *entry.get(10)?, *entry.get(11)?];
            let domain = u32::from_le_bytes(upper) | u32::from(*entry.get(2)?);
            Some(Entry::Cpu {
                domain: narrowed(domain),
                apic_id: u32::from(*entry.get(3)?),
            })
        }
        // Memory Affinity.
        1 => {
            let flags = u32_at(entry, 28)?;
            (flags & ENABLED != 0).then_some(Entry::Memory {
                domain: narrowed(u32_at(entry, 2)?),
                base: u64_at(entry, 8)?,
                length: u64_at(entry, 16)?,
                hot_pluggable: flags & HOT_PLUGGABLE != 0,
            })
        }
        // Processor Local x2APIC Affinity.
        2 if u32_at(entry, 12)? & ENABLED != 0 => Some(Entry::Cpu {
            domain: u32_at(entry, 4)?,
            apic_id: u32_at(entry, 8)?,
        }),
        _ => None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
