//! Memory as the `acpi` crate is let to see it.

use core::cell::Cell;
use core::ptr::NonNull;

use acpi::sdt::SdtHeader;
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use kspace_layout::PhysAddr;

use super::AcpiProblem;

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

/// The tables that start at `rsdp`; what is wrong with one that is looked for later goes to `problem`.
pub(super) fn open<'a, M: Reach>(
    memory: &'a M,
    rsdp: Option<PhysAddr>,
    problem: &'a Cell<Option<AcpiProblem>>,
) -> Result<AcpiTables<Tables<'a, M>>, AcpiProblem> {
    let rsdp = rsdp.ok_or(AcpiProblem::NoRsdp)?;
    check_rsdp(memory, rsdp)?;
    let handler = Tables { memory, problem };
    let address = usize::try_from(rsdp.as_u64()).map_err(|_| AcpiProblem::NotAnRsdp(rsdp))?;
    // SAFETY: the handler answers for every address: what cannot be read reads as zeros.
    let tables = unsafe { AcpiTables::from_rsdp(handler, address) };
    tables.map_err(|_| problem.get().unwrap_or(AcpiProblem::BadRoot(rsdp)))
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

/// The crate's view of memory.
pub(super) struct Tables<'a, M> {
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
