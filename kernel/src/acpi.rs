//! What ACPI's static tables say: processors, interrupt controllers and timers (MADT, HPET), and which memory is near to which of them ([`topology()`]).
//!
//! The `acpi` crate knows the tables; it also trusts them. Between it and the firmware stands [`memory`], which lets the crate see
//! only memory that can be reached and bounds every length. The chain of MADT entries is checked before the crate follows it: an
//! entry of length zero would hold it forever. What cannot be trusted counts as absent.

mod distances;
mod memory;
mod srat;
mod topology;

use core::cell::Cell;
use core::fmt;

use acpi::hpet::HpetTable;
use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiHandler, PhysicalMapping};
use kspace_layout::PhysAddr;

pub use distances::Distances;
pub use memory::Reach;
pub use topology::{Topology, TopologyNote, topology};

/// Most processors that are kept: as many as xAPIC identifiers and some. A fixed number, because there is no heap yet.
pub const MAX_CPUS: usize = 256;

/// Most I/O APICs that are kept: a machine with more than one has one for each of its few I/O hubs.
pub const MAX_IO_APICS: usize = 16;

/// An interrupt controller for devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoApic {
    /// Its identifier.
    pub id: u8,
    /// Where its registers are.
    pub registers: u32,
    /// The number of its first input among all of them.
    pub first_input: u32,
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
    io_apics: [IoApic; MAX_IO_APICS],
    io_apic_count: usize,
    /// I/O APICs beyond [`MAX_IO_APICS`].
    pub io_apics_left_out: usize,
}

impl Processors {
    /// Nothing known: only the boot CPU, no timer.
    pub const NONE: Self = Self {
        apic_ids: [0; MAX_CPUS],
        count: 0,
        left_out: 0,
        disabled: 0,
        hpet: None,
        io_apics: [IoApic {
            id: 0,
            registers: 0,
            first_input: 0,
        }; MAX_IO_APICS],
        io_apic_count: 0,
        io_apics_left_out: 0,
    };

    /// The local APIC identifiers of all processors that can be used, in the firmware's order.
    #[must_use]
    pub fn apic_ids(&self) -> &[u32] {
        &self.apic_ids[..self.count]
    }

    /// The I/O APICs, in the firmware's order.
    #[must_use]
    pub fn io_apics(&self) -> &[IoApic] {
        &self.io_apics[..self.io_apic_count]
    }

    fn add_io_apic(&mut self, io_apic: IoApic) {
        match self.io_apics.get_mut(self.io_apic_count) {
            Some(place) => {
                *place = io_apic;
                self.io_apic_count += 1;
            }
            None => self.io_apics_left_out += 1,
        }
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
    let problem = Cell::new(None);
    let tables = memory::open(memory, rsdp, &problem)?;
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
            MadtEntry::IoApic(entry) => processors.add_io_apic(IoApic {
                id: entry.io_apic_id,
                registers: entry.io_apic_address,
                first_input: entry.global_system_interrupt_base,
            }),
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
        // The crate reads whole structures of these kinds: 8, 12 and 16 bytes (ACPI 6.5, sections 5.2.12.2, 5.2.12.3 and 5.2.12.12).
        let least = match kind {
            0 => 8,
            1 => 12,
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

#[cfg(test)]
mod tests;
