//! What ACPI's static tables say of processors and timers: MADT and HPET.
//!
//! The `acpi` crate knows the tables; it also trusts them. Between it and the firmware stands [`Tables`], which lets the crate see
//! only memory that can be reached, bounds every length, and checks the chain of MADT entries before the crate follows it: an
//! entry of length zero would hold it forever. What cannot be trusted counts as absent.

use core::cell::Cell;
use core::fmt;
use core::ptr::NonNull;

use acpi::hpet::HpetTable;
use acpi::madt::{Madt, MadtEntry};
use acpi::sdt::SdtHeader;
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use kspace_layout::PhysAddr;

/// Most processors that are kept: as many as xAPIC identifiers and some. A fixed number, because there is no heap yet.
pub const MAX_CPUS: usize = 256;

/// Longest table that is believed. Real ones have a few KiB.
const MAX_TABLE: usize = 1 << 20;

/// What an address that cannot be reached reads as. No table has a signature of zeros.
static NOTHING: [u64; 16] = [0; 16];

/// Memory as ACPI tables see it.
pub trait Reach {
    /// Where `size` bytes from `phys` on can be read; `None` when they cannot.
    ///
    /// A pointer that is returned must stay readable for as long as the value lives.
    fn reach(&self, phys: PhysAddr, size: u64) -> Option<NonNull<u8>>;
}

/// What the tables say. A plain value.
#[derive(Clone, Copy, Debug)]
pub struct Processors {
    apic_ids: [u32; MAX_CPUS],
    count: usize,
    /// Processors that could be started but are beyond [`MAX_CPUS`].
    pub left_out: usize,
    /// Processors that the firmware lists as disabled.
    pub disabled: usize,
    /// The registers of the high-precision event timer, where there is one.
    pub hpet: Option<PhysAddr>,
}

impl Processors {
    /// Nothing known: only the boot CPU, no timer.
    pub const NONE: Self = Self {
        apic_ids: [0; MAX_CPUS],
        count: 0,
        left_out: 0,
        disabled: 0,
        hpet: None,
    };

    /// The local APIC identifiers of all processors that can be used, in the firmware's order.
    #[must_use]
    pub fn apic_ids(&self) -> &[u32] {
        &self.apic_ids[..self.count]
    }

    fn add(&mut self, apic_id: u32, flags: u32) {
        // ACPI 6.5, table 5.22: bit 0 enabled, bit 1 online capable. One that is neither may not be started.
        if flags & 0b01 == 0 {
            self.disabled += 1;
        } else if self.apic_ids().contains(&apic_id) {
            // Listed both as a local APIC and as a local x2APIC.
        } else if let Some(place) = self.apic_ids.get_mut(self.count) {
            *place = apic_id;
            self.count += 1;
        } else {
            self.left_out += 1;
        }
    }
}

/// Why there is nothing to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiProblem {
    /// The loader gave no RSDP.
    NoRsdp,
    /// What the loader calls the RSDP is none.
    NotAnRsdp(PhysAddr),
    /// The RSDP, or the table of tables it leads to, has a wrong signature or checksum.
    BadRoot(PhysAddr),
    /// A table lies where nothing can be read, or has an unbelievable length.
    BadTable {
        /// Where.
        at: u64,
        /// Its length in bytes.
        size: usize,
    },
    /// There is no MADT with a true checksum.
    NoMadt,
    /// The MADT's entries do not form a chain; the one at this offset is broken.
    BadMadtEntry {
        /// Bytes from the start of the table.
        offset: usize,
        /// The length that the entry claims.
        length: usize,
    },
}

impl fmt::Display for AcpiProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ACPI: ")?;
        match self {
            Self::NoRsdp => f.write_str("the loader passed no RSDP"),
            Self::NotAnRsdp(at) => write!(f, "{at} holds no RSDP"),
            Self::BadRoot(at) => {
                write!(
                    f,
                    "the RSDP at {at}, or its RSDT or XSDT, has a wrong signature or checksum"
                )
            }
            Self::BadTable { at, size } => {
                write!(f, "a table of {size} bytes at {at:016x} cannot be read")
            }
            Self::NoMadt => f.write_str("there is no MADT"),
            Self::BadMadtEntry { offset, length } => {
                write!(
                    f,
                    "the MADT's entry at offset {offset} has {length} bytes, which cannot be"
                )
            }
        }?;
        f.write_str("; only the boot CPU is used")
    }
}

/// Reads the tables that start at `rsdp`.
///
/// # Errors
///
/// [`AcpiProblem`]; the machine then has the boot CPU and no HPET as far as anybody knows.
pub fn processors(memory: &impl Reach, rsdp: Option<PhysAddr>) -> Result<Processors, AcpiProblem> {
    let rsdp = rsdp.ok_or(AcpiProblem::NoRsdp)?;
    check_rsdp(memory, rsdp)?;
    let problem = Cell::new(None);
    let handler = Tables {
        memory,
        problem: &problem,
    };
    let address = usize::try_from(rsdp.as_u64()).map_err(|_| AcpiProblem::NotAnRsdp(rsdp))?;
    // SAFETY: the handler answers for every address: what cannot be read reads as zeros.
    let tables = unsafe { AcpiTables::from_rsdp(handler, address) };
    let tables = tables.map_err(|_| problem.get().unwrap_or(AcpiProblem::BadRoot(rsdp)))?;
    let mut processors = Processors::NONE;
    let madt = tables.find_table::<Madt>();
    if let Some(problem) = problem.get() {
        return Err(problem);
    }
    let madt = madt.map_err(|_| AcpiProblem::NoMadt)?;
    check_madt(&madt)?;
    for entry in madt.get().entries() {
        match entry {
            MadtEntry::LocalApic(cpu) => processors.add(u32::from(cpu.apic_id), cpu.flags),
            MadtEntry::LocalX2Apic(cpu) => processors.add(cpu.x2apic_id, cpu.flags),
            _ => {}
        }
    }
    processors.hpet = tables
        .find_table::<HpetTable>()
        .ok()
        .and_then(|hpet| hpet_registers(&hpet));
    Ok(processors)
}

/// Where the timer's registers are, from the generic address at offset 40 (IA-PC HPET specification 1.0a, section 3.2.4). The
/// crate's own reader asserts that they are in memory.
fn hpet_registers<H: AcpiHandler>(hpet: &PhysicalMapping<H, HpetTable>) -> Option<PhysAddr> {
    let start = hpet.virtual_start().as_ptr().cast::<u8>();
    // SAFETY: the mapping holds a whole table, of 56 bytes.
    let (space, address) = unsafe {
        (
            start.add(40).read(),
            start.add(44).cast::<u64>().read_unaligned(),
        )
    };
    PhysAddr::try_new(address)
        .ok()
        .filter(|at| space == 0 && at.as_u64() != 0)
}

/// The crate adds up as many bytes as the RSDP's own length says, so that length is read first.
fn check_rsdp(memory: &impl Reach, rsdp: PhysAddr) -> Result<(), AcpiProblem> {
    const LENGTH: usize = 20;
    let bytes = memory.reach(rsdp, 36).ok_or(AcpiProblem::NotAnRsdp(rsdp))?;
    // SAFETY: 36 bytes can be read there.
    let length = unsafe { bytes.add(LENGTH).cast::<u32>().read_unaligned() };
    // SAFETY: likewise.
    let revision = unsafe { bytes.add(15).read() };
    if revision == 0 || length == 36 {
        Ok(())
    } else {
        Err(AcpiProblem::NotAnRsdp(rsdp))
    }
}

/// Follows the MADT's entries by their lengths alone.
fn check_madt<H: AcpiHandler>(madt: &PhysicalMapping<H, Madt>) -> Result<(), AcpiProblem> {
    // SAFETY: the handler made the mapping, of this many bytes.
    let bytes: &[u8] = unsafe {
        core::slice::from_raw_parts(madt.virtual_start().as_ptr().cast(), madt.region_length())
    };
    let mut offset = size_of::<Madt>();
    while offset < bytes.len() {
        let kind = bytes[offset];
        let length = bytes.get(offset + 1).copied().map_or(0, usize::from);
        // The crate reads whole structures of these two kinds: 8 and 16 bytes (ACPI 6.5, sections 5.2.12.2 and 5.2.12.12).
        let least = match kind {
            0 => 8,
            9 => 16,
            _ => 2,
        };
        if length < least || length > bytes.len() - offset {
            return Err(AcpiProblem::BadMadtEntry { offset, length });
        }
        offset += length;
    }
    Ok(())
}

/// The crate's view of memory.
struct Tables<'a, M> {
    memory: &'a M,
    problem: &'a Cell<Option<AcpiProblem>>,
}

impl<M> Clone for Tables<'_, M> {
    fn clone(&self) -> Self {
        Self {
            memory: self.memory,
            problem: self.problem,
        }
    }
}

impl<M: Reach> Tables<'_, M> {
    fn reach(&self, address: usize, size: usize) -> Option<NonNull<u8>> {
        let phys = PhysAddr::try_new(address as u64).ok()?;
        (size <= MAX_TABLE).then(|| self.memory.reach(phys, size as u64))?
    }
}

/// Whether these 36 bytes, unless they are an RSDP, begin a table whose length can be true. The crate subtracts the header
/// from the length without looking.
fn is_believable(header: NonNull<u8>) -> bool {
    // SAFETY: the caller has reached 36 bytes there.
    let (signature, length) = unsafe {
        (
            header.cast::<[u8; 4]>().read(),
            header.add(4).cast::<u32>().read_unaligned() as usize,
        )
    };
    signature == *b"RSD " || (size_of::<SdtHeader>()..=MAX_TABLE).contains(&length)
}

impl<M: Reach> AcpiHandler for Tables<'_, M> {
    unsafe fn map_physical_region<T>(
        &self,
        physical_address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        const { assert!(size_of::<T>() <= size_of_val(&NOTHING)) };
        let reached = if size < size_of::<T>() {
            None
        } else {
            self.reach(physical_address, size)
        };
        let is_header = size == size_of::<SdtHeader>();
        let reached = reached.filter(|start| !is_header || is_believable(*start));
        if reached.is_none() {
            self.problem.set(Some(AcpiProblem::BadTable {
                at: physical_address as u64,
                size,
            }));
        }
        let (start, length) = match reached {
            Some(start) => (start, size),
            None => (NonNull::from(&NOTHING).cast(), size_of::<T>()),
        };
        // SAFETY: `length` bytes can be read at `start`, for as long as the memory lives.
        unsafe {
            PhysicalMapping::new(physical_address, start.cast(), length, length, self.clone())
        }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}

#[cfg(test)]
mod tests;
