//! Tables written byte by byte from the ACPI specification, those of a real machine, and any bytes at all.

use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

/// A table with this signature and revision, and what comes after its header. The header's sum is nobody's business here.
fn table(signature: &[u8; 4], revision: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = signature.to_vec();
    bytes.extend((36 + rest.len() as u32).to_le_bytes());
    bytes.push(revision);
    bytes.resize(36, 0);
    bytes.extend(rest);
    bytes
}

/// A table of revision 3, as QEMU's and every firmware's of today.
fn srat(entries: &[Vec<u8>]) -> Vec<u8> {
    table(b"SRAT", 3, &[vec![0; 12], entries.concat()].concat())
}

fn slit(localities: u64, distances: &[u8]) -> Vec<u8> {
    table(
        b"SLIT",
        1,
        &[&localities.to_le_bytes()[..], distances].concat(),
    )
}

/// A Processor Local APIC Affinity Structure (section 5.2.16.1).
fn apic(domain: u32, id: u8, flags: u32) -> Vec<u8> {
    let [low, upper @ ..] = domain.to_le_bytes();
    let mut entry = vec![0, 16, low, id];
    entry.extend(flags.to_le_bytes());
    entry.push(0);
    entry.extend(upper);
    entry.extend([0; 4]);
    entry
}

/// A Processor Local x2APIC Affinity Structure (section 5.2.16.3).
fn x2apic(domain: u32, id: u32, flags: u32) -> Vec<u8> {
    let mut entry = vec![2, 24, 0, 0];
    entry.extend(domain.to_le_bytes());
    entry.extend(id.to_le_bytes());
    entry.extend(flags.to_le_bytes());
    entry.extend([0; 8]);
    entry
}

/// A Memory Affinity Structure (section 5.2.16.2).
fn memory(domain: u32, base: u64, length: u64, flags: u32) -> Vec<u8> {
    let mut entry = vec![1, 40];
    entry.extend(domain.to_le_bytes());
    entry.extend([0; 2]);
    entry.extend(base.to_le_bytes());
    entry.extend(length.to_le_bytes());
    entry.extend([0; 4]);
    entry.extend(flags.to_le_bytes());
    entry.extend([0; 8]);
    entry
}

/// The topology, and what was said.
fn read(srat: &[u8], slit: Option<&[u8]>) -> (Topology, Vec<String>) {
    let mut notes = Vec::new();
    let topology = Topology::read(srat, slit, &mut |note| notes.push(note.to_string()));
    (topology, notes)
}

/// All affinities as text.
fn near(topology: &Topology) -> Vec<String> {
    let affinities = topology.affinities().iter();
    affinities.map(ToString::to_string).collect()
}

fn node(number: u32) -> NodeId {
    NodeId::try_new(number).unwrap()
}

#[test]
fn domains_become_nodes_in_order_of_appearance_processors_first() {
    let (topology, notes) = read(
        &srat(&[
            memory(9, 0, 16 * MIB, 1),
            x2apic(0x7000_0001, 300, 1),
            apic(0x0102_0304, 1, 1),
            apic(9, 2, 0),
            memory(0x0102_0304, 16 * MIB, 16 * MIB, 0b11),
            memory(77, 0, 1, 0),
        ]),
        None,
    );
    assert_eq!(
        notes,
        [
            "ACPI: SRAT: Node 2 PXM 9 [mem 0x00000000-0x00ffffff]",
            "ACPI: SRAT: Node 1 PXM 16909060 [mem 0x01000000-0x01ffffff] hotplug",
        ]
    );
    assert_eq!(
        near(&topology),
        [
            "node 2 [mem 0x0000000000000000-0x0000000000ffffff]",
            "node 1 [mem 0x0000000001000000-0x0000000001ffffff] hotplug",
        ]
    );
    let nodes = [300, 1, 2, 4].map(|apic_id| topology.node_of_apic(apic_id).get());
    assert_eq!(nodes, [0, 1, 0, 0], "two that it does not say of");
    assert_eq!(topology.nodes().count(), 3);
    let with_cpus: Vec<u8> = topology
        .nodes()
        .filter(|node| topology.has_cpus(*node))
        .map(NodeId::get)
        .collect();
    assert_eq!(with_cpus, [0, 1]);
}

/// The first revision had domains of 8 bits, and anything in the other bytes.
#[test]
fn old_tables_have_small_domains() {
    let entries = [apic(0x5500_0003, 0, 1), memory(0x66_0003, 0, MIB, 1)].concat();
    let old = table(b"SRAT", 1, &[vec![0; 12], entries].concat());
    let (topology, notes) = read(&old, None);
    assert_eq!(
        notes,
        ["ACPI: SRAT: Node 0 PXM 3 [mem 0x00000000-0x000fffff]"]
    );
    assert_eq!(topology.nodes().count(), 1);
}

#[test]
fn distances_are_by_domain_and_need_not_be_symmetric() {
    let srat = srat(&[memory(2, 0, MIB, 1), memory(0, MIB, MIB, 1)]);
    let matrix = [10, 21, 31, 41, 10, 51, 61, 71, 10];
    let (topology, notes) = read(&srat, Some(&slit(3, &matrix)));
    assert_eq!(notes.len(), 2);
    let distance = |from, to| topology.distance(node(from), node(to));
    assert_eq!([distance(0, 1), distance(1, 0)], [61, 31]);
    assert_eq!(
        [distance(0, 0), distance(0, 2), distance(5, 63)],
        [10, 20, 20]
    );
}

#[test]
fn distances_that_cannot_be_are_refused_whole() {
    let srat = srat(&[memory(0, 0, MIB, 1), memory(1, MIB, MIB, 1)]);
    for (slit, problem) in [
        (
            slit(2, &[10, 20, 20, 11]),
            "a distance of 11 from domain 1 to 1 cannot be",
        ),
        (
            slit(2, &[10, 10, 20, 10]),
            "a distance of 10 from domain 0 to 1 cannot be",
        ),
        (
            slit(2, &[10, 20, 0, 10]),
            "a distance of 0 from domain 1 to 0 cannot be",
        ),
        (slit(2, &[10, 20, 20]), "47 bytes are not 2 localities"),
        (slit(0, &[10]), "45 bytes are not 0 localities"),
        (
            slit(u64::MAX, &[10]),
            "45 bytes are not 18446744073709551615 localities",
        ),
        (
            slit(1 << 32, &[10]),
            "45 bytes are not 4294967296 localities",
        ),
        (slit(2, &[])[..40].to_vec(), "40 bytes are not 0 localities"),
        (Vec::new(), "0 bytes are not 0 localities"),
    ] {
        let (topology, notes) = read(&srat, Some(&slit));
        let expected = std::format!(
            "ACPI: SLIT: {problem}; the table is not used, all other nodes are equally far"
        );
        assert_eq!(notes.last(), Some(&expected));
        assert_eq!(topology.distance(node(0), node(1)), 20);
    }
}

#[test]
fn entries_that_form_no_chain_are_refused_whole() {
    let sound = memory(0, 0, MIB, 1);
    for (broken, length) in [
        (&[1, 0][..], 0),
        (&[1], 0),
        (&[1, 39], 39),
        (&[0, 15], 15),
        (&[2, 23], 23),
        (&[3, 1], 1),
        (&[0x20, 4, 0], 4),
        (&memory(0, 0, MIB, 1)[..39], 40),
    ] {
        let (topology, notes) = read(&srat(&[sound.clone(), broken.to_vec()]), None);
        let expected = std::format!(
            "ACPI: SRAT: the entry at offset 88 has {length} bytes, which cannot be; the table is not used, all is node 0"
        );
        assert_eq!(notes, [expected]);
        assert!(topology.affinities().is_empty());
    }
    for length in 0..48 {
        let (topology, notes) = read(&srat(&[])[..length], None);
        assert_eq!((notes.len(), topology.affinities().len()), (0, 0));
    }
}

#[test]
fn entries_that_cannot_be_are_ignored_one_by_one() {
    let (topology, notes) = read(
        &srat(&[
            apic(1, 0, 1),
            apic(2, 0, 1),
            apic(1, 0, 1),
            memory(1, MIB, 0, 1),
            memory(1, u64::MAX - 7, 8, 1),
            memory(1, 1 << 51, 1 << 51, 1),
            memory(1, (1 << 51) + 1, 1 << 51, 1),
            memory(1, 1 << 52, 1, 1),
        ]),
        None,
    );
    assert_eq!(
        notes,
        [
            "ACPI: SRAT: APIC 0 is near node 0 and near node 1; taken as near node 0",
            "ACPI: SRAT: 0x0 bytes at 0x100000 in domain 1 are no addresses; the entry is ignored",
            "ACPI: SRAT: 0x8 bytes at 0xfffffffffffffff8 in domain 1 are no addresses; the entry is ignored",
            "ACPI: SRAT: Node 0 PXM 1 [mem 0x8000000000000-0xfffffffffffff]",
            "ACPI: SRAT: 0x8000000000000 bytes at 0x8000000000001 in domain 1 are no addresses; the entry is ignored",
            "ACPI: SRAT: 0x1 bytes at 0x10000000000000 in domain 1 are no addresses; the entry is ignored",
        ]
    );
    assert_eq!(topology.affinities().len(), 1);
}

#[test]
fn what_is_too_much_is_left_out_and_said() {
    let domains: Vec<_> = (0..65)
        .map(|domain| apic(domain, domain as u8, 1))
        .collect();
    let (topology, notes) = read(&srat(&domains), None);
    assert_eq!(
        notes,
        ["ACPI: SRAT: proximity domain 64 would be one more than 64; the entry is ignored"]
    );
    assert_eq!(topology.node_of_apic(63), node(63));
    assert_eq!(topology.node_of_apic(64), node(0));

    let cpus: Vec<_> = (0..257).map(|id| x2apic(id % 2, id, 1)).collect();
    let (topology, notes) = read(&srat(&cpus), None);
    assert_eq!(
        notes,
        ["ACPI: SRAT: APIC 256 is one more than 256; it is taken as near node 0"]
    );
    assert_eq!(topology.node_of_apic(255), node(1));

    let ranges: Vec<_> = (0..129)
        .map(|at| memory(at % 2, u64::from(at) * MIB, MIB, 1))
        .collect();
    let (topology, notes) = read(&srat(&ranges), None);
    assert_eq!(
        notes.last().map(String::as_str),
        Some(
            "ACPI: SRAT: 0000000008000000-00000000080fffff in domain 0 is one range more than 128; the entry is ignored"
        )
    );
    assert_eq!(topology.affinities().len(), 128);
}

/// A table as a firmware may send it: mostly sound entries, with any bytes between.
fn entries() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let number = prop_oneof![0..4_u32, any::<u32>()];
    let address = prop_oneof![(0..64_u64).prop_map(|at| at * MIB), any::<u64>()];
    let entry = prop_oneof![
        (number.clone(), any::<u8>(), 0..4_u32)
            .prop_map(|(domain, id, flags)| apic(domain, id, flags)),
        (number.clone(), number.clone(), 0..4_u32)
            .prop_map(|(domain, id, flags)| x2apic(domain, id, flags)),
        (number, address.clone(), address, 0..4_u32)
            .prop_map(|(domain, base, length, flags)| memory(domain, base, length, flags)),
        proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(entry, 0..200)
}

proptest! {
    /// No table is too bad to be read, and whatever comes out can be used: every node number is small, none is left out, and
    /// everything that was in use and is not there was reported.
    #[test]
    fn any_table_gives_something_that_can_be_used(
        entries in entries(),
        distances in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let (topology, notes) = read(&srat(&entries), Some(&table(b"SLIT", 1, &distances)));
        let count = topology.nodes().count();
        prop_assert!((1..=64).contains(&count));
        for affinity in topology.affinities() {
            prop_assert!((affinity.node as usize) < count);
        }
        for apic_id in 0..256 {
            prop_assert!(topology.node_of_apic(apic_id).index() < count);
        }
        let ranges = notes.iter().filter(|note| note.contains(" PXM ")).count();
        prop_assert_eq!(ranges, topology.affinities().len());
        for from in NodeId::all() {
            for to in NodeId::all() {
                let distance = topology.distance(from, to);
                prop_assert_eq!(distance == 10, from == to);
                prop_assert!(distance >= 10);
            }
        }
    }

    #[test]
    fn any_bytes_are_read(
        srat in proptest::collection::vec(any::<u8>(), 0..400),
        slit in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let (topology, _) = read(&srat, Some(&slit));
        prop_assert!(topology.nodes().count() <= 64);
    }
}

/// The tables of QEMU 7.2 with four nodes of two CPUs each, and what Linux 6.12 made of them
/// (crates/frames/tests/data/linux-6.12-numa-four.txt).
#[test]
fn a_real_machine_with_four_nodes() {
    let (topology, notes) = read(
        include_bytes!("data/qemu-four.srat"),
        Some(include_bytes!("data/qemu-four.slit")),
    );
    assert_eq!(
        notes,
        [
            "ACPI: SRAT: Node 0 PXM 0 [mem 0x00000000-0x0009ffff]",
            "ACPI: SRAT: Node 0 PXM 0 [mem 0x00100000-0x0fffffff]",
            "ACPI: SRAT: Node 1 PXM 1 [mem 0x10000000-0x1fffffff]",
            "ACPI: SRAT: Node 2 PXM 2 [mem 0x20000000-0x2fffffff]",
            "ACPI: SRAT: Node 3 PXM 3 [mem 0x30000000-0x3fffffff]",
        ]
    );
    let homes: Vec<u8> = (0..8)
        .map(|apic_id| topology.node_of_apic(apic_id).get())
        .collect();
    assert_eq!(homes, [0, 0, 1, 1, 2, 2, 3, 3]);
    let rows: Vec<Vec<u8>> = (0..4)
        .map(|from| {
            let distances = (0..4).map(|to| topology.distance(node(from), node(to)));
            distances.collect()
        })
        .collect();
    assert_eq!(
        rows,
        [
            [10, 20, 40, 30],
            [20, 10, 30, 40],
            [40, 30, 10, 20],
            [30, 40, 20, 10]
        ]
    );
}

/// The same with room for memory that is plugged in later (linux-6.12-numa-hotplug.txt).
#[test]
fn a_real_machine_that_takes_more_memory() {
    let (topology, notes) = read(include_bytes!("data/qemu-hotplug.srat"), None);
    assert_eq!(
        notes.last().map(String::as_str),
        Some("ACPI: SRAT: Node 1 PXM 1 [mem 0x100000000-0x23fffffff] hotplug")
    );
    assert_eq!(topology.affinities().len(), 4);
}
