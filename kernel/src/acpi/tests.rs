//! Tables written byte by byte from the ACPI specification, sound and hostile.

use std::ptr::NonNull;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

use super::*;

/// Memory from address zero on.
struct Memory(Vec<u8>);

impl Reach for Memory {
    fn reach(&self, phys: PhysAddr, size: u64) -> Option<NonNull<u8>> {
        let start = usize::try_from(phys.as_u64()).ok()?;
        let bytes = self
            .0
            .get(start..start.checked_add(usize::try_from(size).ok()?)?)?;
        NonNull::new(bytes.as_ptr().cast_mut())
    }
}

const RSDP: usize = 0x100;
const RSDT: usize = 0x200;
const MADT: usize = 0x400;
const HPET: usize = 0x2000;

fn put(memory: &mut [u8], at: usize, bytes: &[u8]) {
    memory[at..at + bytes.len()].copy_from_slice(bytes);
}

fn finish_sum(memory: &mut [u8], at: usize, length: usize, sum: usize) {
    let total = memory[at..at + length]
        .iter()
        .fold(0u8, |a, b| a.wrapping_add(*b));
    memory[at + sum] = memory[at + sum].wrapping_sub(total);
}

fn header(memory: &mut [u8], at: usize, signature: &[u8; 4], length: usize) {
    put(memory, at, signature);
    put(memory, at + 4, &(length as u32).to_le_bytes());
    put(memory, at + 10, b"KSPACE");
    finish_sum(memory, at, length, 9);
}

/// A machine with these MADT entries.
fn machine(entries: &[&[u8]]) -> Memory {
    let mut memory = vec![0; 0x2100];
    put(&mut memory, RSDP, b"RSD PTR ");
    put(&mut memory, RSDP + 9, b"KSPACE");
    put(&mut memory, RSDP + 16, &(RSDT as u32).to_le_bytes());
    finish_sum(&mut memory, RSDP, 20, 8);

    put(&mut memory, RSDT + 36, &(MADT as u32).to_le_bytes());
    put(&mut memory, RSDT + 40, &(HPET as u32).to_le_bytes());
    header(&mut memory, RSDT, b"RSDT", 44);

    put(&mut memory, MADT + 36, &0xfee0_0000u32.to_le_bytes());
    let entries = entries.concat();
    put(&mut memory, MADT + 44, &entries);
    header(&mut memory, MADT, b"APIC", 44 + entries.len());

    put(&mut memory, HPET + 44, &0xfed0_0000u64.to_le_bytes());
    header(&mut memory, HPET, b"HPET", 56);
    Memory(memory)
}

fn local_apic(id: u8, flags: u32) -> Vec<u8> {
    let mut entry = vec![0, 8, id, id];
    entry.extend(flags.to_le_bytes());
    entry
}

fn local_x2apic(id: u32, flags: u32) -> Vec<u8> {
    let mut entry = vec![9, 16, 0, 0];
    entry.extend(id.to_le_bytes());
    entry.extend(flags.to_le_bytes());
    entry.extend([0; 4]);
    entry
}

fn read(memory: &Memory) -> Result<Processors, AcpiProblem> {
    processors(memory, Some(PhysAddr::new(RSDP as u64)))
}

#[test]
fn processors_come_in_the_firmwares_order_each_once() {
    let memory = machine(&[
        &local_apic(0, 1),
        &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
        &local_apic(2, 1),
        &local_apic(7, 0),
        &local_x2apic(2, 1),
        &local_x2apic(300, 1),
    ]);
    let found = read(&memory).unwrap();
    assert_eq!(found.apic_ids(), [0, 2, 300]);
    assert_eq!((found.disabled, found.left_out), (1, 0));
    assert_eq!(found.hpet, Some(PhysAddr::new(0xfed0_0000)));
}

#[test]
fn io_apics_come_in_the_firmwares_order_and_more_than_fit_are_counted() {
    let entry = |id: u8| [1, 12, id, 0, 0, 0x10 * id, 0xc0, 0xfe, 24 * id, 0, 0, 0];
    let found = read(&machine(&[&local_apic(0, 1), &entry(3), &entry(2)])).unwrap();
    let expected = [3, 2].map(|id: u8| IoApic {
        id,
        registers: 0xfec0_0000 + 0x1000 * u32::from(id),
        first_input: 24 * u32::from(id),
    });
    assert_eq!(found.io_apics(), expected);
    assert_eq!(found.io_apics_left_out, 0);
    let many: Vec<_> = (0..20).map(|id| entry(id % 10)).collect();
    let many: Vec<&[u8]> = many.iter().map(|entry| &entry[..]).collect();
    let found = read(&machine(&many)).unwrap();
    assert_eq!((found.io_apics().len(), found.io_apics_left_out), (16, 4));
}

#[test]
fn more_processors_than_fit_are_counted() {
    let entries: Vec<Vec<u8>> = (0..300).map(|id| local_x2apic(id, 1)).collect();
    let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
    let found = read(&machine(&entries)).unwrap();
    assert_eq!((found.apic_ids().len(), found.left_out), (256, 44));
}

#[test]
fn entries_that_would_hold_a_reader_forever_are_refused() {
    for (entry, length) in [
        (&[0x20, 0][..], 0),
        (&[0, 0], 0),
        (&[0x20, 1], 1),
        (&[0, 7], 7),
        (&[0x20, 3], 3),
        (&[0x20], 0),
    ] {
        assert_eq!(
            read(&machine(&[&local_apic(0, 1), entry])).unwrap_err(),
            AcpiProblem::BadMadtEntry { offset: 52, length }
        );
    }
    let problem = AcpiProblem::BadMadtEntry {
        offset: 52,
        length: 0,
    };
    assert_eq!(
        problem.to_string(),
        "ACPI: the MADT's entry at offset 52 has 0 bytes, which cannot be; only the boot CPU is used"
    );
}

#[test]
fn tables_out_of_reach_are_refused() {
    let mut memory = machine(&[&local_apic(0, 1)]);
    put(&mut memory.0, RSDT + 36, &0xdead_0000u32.to_le_bytes());
    finish_sum(&mut memory.0, RSDT, 44, 9);
    let problem = read(&memory).unwrap_err();
    assert_eq!(
        problem,
        AcpiProblem::BadTable {
            at: 0xdead_0000,
            size: 36
        }
    );

    let mut memory = machine(&[&local_apic(0, 1)]);
    put(&mut memory.0, MADT + 4, &u32::MAX.to_le_bytes());
    assert_eq!(
        read(&memory).unwrap_err(),
        AcpiProblem::BadTable {
            at: MADT as u64,
            size: 36
        }
    );

    // Shorter than its own header: the crate would subtract past zero.
    let mut memory = machine(&[&local_apic(0, 1)]);
    put(&mut memory.0, RSDT + 4, &8u32.to_le_bytes());
    assert_eq!(
        read(&memory).unwrap_err(),
        AcpiProblem::BadTable {
            at: RSDT as u64,
            size: 36
        }
    );
    let mut memory = machine(&[&local_apic(0, 1)]);
    put(&mut memory.0, MADT + 4, &40u32.to_le_bytes());
    assert_eq!(
        read(&memory).unwrap_err(),
        AcpiProblem::BadTable {
            at: MADT as u64,
            size: 40
        }
    );
}

#[test]
fn what_is_no_rsdp_is_refused() {
    let memory = machine(&[]);
    let at = |address: u64| processors(&memory, Some(PhysAddr::new(address))).unwrap_err();
    assert_eq!(processors(&memory, None).unwrap_err(), AcpiProblem::NoRsdp);
    assert_eq!(
        at(0x300),
        AcpiProblem::BadTable {
            at: 0x300,
            size: 36
        }
    );
    assert_eq!(at(0x20f0), AcpiProblem::NotAnRsdp(PhysAddr::new(0x20f0)));
    assert_eq!(at(1 << 50), AcpiProblem::NotAnRsdp(PhysAddr::new(1 << 50)));
    // A revision 2 RSDP that claims 4 GiB of itself.
    let mut memory = machine(&[]);
    memory.0[RSDP + 15] = 2;
    put(&mut memory.0, RSDP + 20, &u32::MAX.to_le_bytes());
    assert_eq!(
        read(&memory).unwrap_err(),
        AcpiProblem::NotAnRsdp(PhysAddr::new(RSDP as u64))
    );
}

#[test]
fn a_machine_without_a_madt_says_so() {
    let mut memory = machine(&[]);
    put(&mut memory.0, MADT, b"XXXX");
    assert_eq!(
        read(&memory).unwrap_err().to_string(),
        "ACPI: there is no MADT; only the boot CPU is used"
    );
}

const SRAT: usize = 0x2080;

/// A machine whose SRAT says that CPU 5 and the first MiB are near to each other.
fn machine_with_srat() -> Memory {
    let mut memory = machine(&[&local_apic(0, 1)]);
    memory.0.resize(0x2200, 0);
    put(&mut memory.0, RSDT + 44, &(SRAT as u32).to_le_bytes());
    header(&mut memory.0, RSDT, b"RSDT", 48);
    put(&mut memory.0, SRAT + 48, &[0, 16, 7, 5, 1]);
    put(&mut memory.0, SRAT + 64, &[1, 40, 7]);
    put(&mut memory.0, SRAT + 64 + 18, &[0x10]);
    put(&mut memory.0, SRAT + 64 + 28, &[1]);
    header(&mut memory.0, SRAT, b"SRAT", 104);
    memory
}

fn read_topology(memory: &Memory) -> (usize, Vec<std::string::String>) {
    let mut notes = Vec::new();
    let rsdp = Some(PhysAddr::new(RSDP as u64));
    let topology = topology(memory, rsdp, |note| notes.push(note.to_string()));
    (topology.affinities().len(), notes)
}

#[test]
fn the_affinities_are_found_by_way_of_the_rsdp() {
    let said = "ACPI: SRAT: Node 0 PXM 7 [mem 0x00000000-0x000fffff]".to_string();
    assert_eq!(read_topology(&machine_with_srat()), (1, vec![said]));
    assert_eq!(read_topology(&machine(&[])), (0, vec![]));
}

#[test]
fn affinities_that_were_changed_on_the_way_are_not_used() {
    let mut memory = machine_with_srat();
    memory.0[SRAT + 64 + 18] ^= 1;
    let said = "ACPI: SRAT: its bytes do not add up to zero; it is not used".to_string();
    assert_eq!(read_topology(&memory), (0, vec![said]));
    // Cut off in memory, and longer than any table.
    let mut memory = machine_with_srat();
    memory.0.truncate(SRAT + 103);
    let unread = |size: usize| {
        let said =
            "bytes at 0000000000002080 cannot be read; if it is SRAT or SLIT, it is not used";
        vec![std::format!("ACPI: a table of {size} {said}")]
    };
    assert_eq!(read_topology(&memory), (0, unread(104)));
    let mut memory = machine_with_srat();
    put(&mut memory.0, SRAT + 4, &u32::MAX.to_le_bytes());
    assert_eq!(read_topology(&memory), (0, unread(36)));
    // No table of tables at all: that was said when processors were looked for.
    let mut memory = machine_with_srat();
    memory.0[RSDT] = 0;
    assert_eq!(read_topology(&memory), (0, vec![]));
}
