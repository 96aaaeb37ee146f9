//! `/proc/iomem` (`r_show`, kernel/resource.c): what each range of physical addresses is, those inside others indented.

use core::fmt;

use kspace_layout::PhysRange;

use crate::{FirmwareEntry, MemoryEntry, MemoryKind};

/// A range of physical addresses with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource<'a> {
    range: PhysRange,
    name: &'a str,
}

impl<'a> Resource<'a> {
    /// `range`, called `name`: for example `Kernel code`.
    #[must_use]
    pub const fn new(range: PhysRange, name: &'a str) -> Self {
        Self { range, name }
    }

    /// An entry of the firmware's map under Linux's name for it (`e820_type_to_string`, arch/x86/kernel/e820.c); `None` when
    /// it names no addresses that there can be.
    #[must_use]
    pub fn firmware(entry: FirmwareEntry) -> Option<Self> {
        let start = kspace_layout::PhysAddr::try_new(entry.start).ok()?;
        let last = kspace_layout::PhysAddr::try_new(entry.last()?).ok()?;
        let range = PhysRange::try_from_bounds(start, last).ok()?;
        Some(Self::new(
            range,
            kind_name(MemoryKind::from_code(entry.kind)),
        ))
    }
}

impl From<MemoryEntry> for Resource<'_> {
    /// With the bounds that the firmware stated, as Linux shows them.
    fn from(entry: MemoryEntry) -> Self {
        Self::new(entry.stated(), kind_name(entry.kind()))
    }
}

const fn kind_name(kind: MemoryKind) -> &'static str {
    match kind {
        MemoryKind::Ram => "System RAM",
        MemoryKind::Reserved => "Reserved",
        MemoryKind::AcpiData => "ACPI Tables",
        MemoryKind::AcpiNvs => "ACPI Non-volatile Storage",
        MemoryKind::Unusable => "Unusable memory",
        MemoryKind::Persistent => "Persistent Memory",
        MemoryKind::Other(_) => "Unknown E820 type",
    }
}

/// How deep ranges inside ranges are indented (Linux: `MAX_IORES_LEVEL`).
const MAX_DEPTH: usize = 5;

/// The text of `/proc/iomem` for any sequence of resources, in whatever order. One that lies inside another is listed below
/// it; of two with the same range, the earlier is the outer one.
///
/// Sorting is done by looking again and again for the next one, because there is nowhere to put them: fine for a hundred.
#[derive(Clone, Debug)]
pub struct Iomem<I>(pub I);

impl<'a, I: Iterator<Item = Resource<'a>> + Clone> Iomem<I> {
    /// The resources with their places in the sequence, and a key that sorts outer ones before inner ones.
    fn keyed(&self) -> impl Iterator<Item = (Key, Resource<'a>)> {
        self.0.clone().enumerate().map(|(index, resource)| {
            let (start, last) = (resource.range.start(), resource.range.last());
            ((start.as_u64(), u64::MAX - last.as_u64(), index), resource)
        })
    }
}

/// Start, end from the highest down, place in the sequence.
type Key = (u64, u64, usize);

impl<'a, I: Iterator<Item = Resource<'a>> + Clone> fmt::Display for Iomem<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut previous = None;
        loop {
            let next = self
                .keyed()
                .filter(|(key, _)| previous.is_none_or(|previous| *key > previous))
                .min_by_key(|(key, _)| *key);
            let Some((key, resource)) = next else {
                return Ok(());
            };
            let outer = self.keyed().filter(|(other, around)| {
                *other < key && around.range.contains_range(resource.range)
            });
            let indent = 2 * outer.count().min(MAX_DEPTH - 1);
            let (start, last) = (resource.range.start(), resource.range.last());
            writeln!(
                f,
                "{:indent$}{start:08x}-{last:08x} : {}",
                "", resource.name
            )?;
            previous = Some(key);
        }
    }
}
