//! Tables that a firmware should not have: bytes for `-acpitable`, which puts a sound header before them.

/// One boot on such tables.
pub(super) struct Hostile {
    /// What is wrong.
    pub(super) name: &'static str,
    /// Signatures, and what comes behind each header.
    pub(super) tables: fn() -> Vec<(&'static str, Vec<u8>)>,
    /// Lines that the kernel must say.
    pub(super) says: &'static [&'static str],
    /// How many nodes there are in the end.
    pub(super) nodes: usize,
}

const NO_NODES: [&str; 2] = [
    "No NUMA configuration found",
    "Faking a node at [mem 0x0000000000000000-0x000000000ffdffff]",
];

/// The boots. The machine has 256 MiB.
pub(super) const HOSTILE: &[Hostile] = &[
    Hostile {
        name: "an affinity of no bytes",
        tables: || srat(&[memory(0, 0, 16 << 20), vec![1, 0]]),
        says: &[
            "ACPI: SRAT: the entry at offset 88 has 0 bytes, which cannot be; the table is not used, all is node 0",
            NO_NODES[0],
            NO_NODES[1],
        ],
        nodes: 1,
    },
    Hostile {
        name: "affinities of noise",
        tables: || vec![("SRAT", noise(4000)), ("SLIT", noise(1000))],
        says: &NO_NODES,
        nodes: 1,
    },
    Hostile {
        name: "an affinity that wraps",
        tables: || srat(&[memory(0, u64::MAX - 0xfff, 0x2000)]),
        says: &[
            "ACPI: SRAT: 0x2000 bytes at 0xfffffffffffff000 in domain 0 are no addresses; the entry is ignored",
            NO_NODES[0],
            NO_NODES[1],
        ],
        nodes: 1,
    },
    Hostile {
        name: "affinities that overlap",
        tables: || srat(&[memory(0, 0, 256 << 20), memory(1, 128 << 20, 128 << 20)]),
        says: &[
            "ACPI: SRAT: Node 1 PXM 1 [mem 0x08000000-0x0fffffff]",
            "nodes: affinity 1 says 0000000008000000-000000000fffffff is near node 1, an earlier one node 0; taken as node 0",
        ],
        nodes: 1,
    },
    Hostile {
        name: "affinities that leave memory out",
        tables: || srat(&[memory(5, 0, 64 << 20), memory(4, 64 << 20, 64 << 20)]),
        says: &[
            "nodes: RAM at 0000000008000000-000000000ffdffff is near no node by the firmware; taken as node 1",
            "  node   1: [mem 0x0000000004000000-0x000000000ffdffff]",
        ],
        nodes: 2,
    },
    Hostile {
        name: "more domains than nodes",
        tables: || {
            let domain = |number: u32| memory(number, u64::from(number) << 21, 2 << 20);
            srat(&(0..128).map(domain).collect::<Vec<_>>())
        },
        says: &[
            "ACPI: SRAT: Node 63 PXM 63 [mem 0x07e00000-0x07ffffff]",
            "ACPI: SRAT: proximity domain 64 would be one more than 64; the entry is ignored",
            "ACPI: SRAT: proximity domain 127 would be one more than 64; the entry is ignored",
        ],
        nodes: 64,
    },
    Hostile {
        name: "distances that cannot be",
        tables: || {
            let mut tables = srat(&[memory(0, 0, 64 << 20), memory(1, 64 << 20, 192 << 20)]);
            let matrix = [&2_u64.to_le_bytes()[..], &[10, 0, 255, 10]].concat();
            tables.push(("SLIT", matrix));
            tables
        },
        says: &[
            "ACPI: SLIT: a distance of 0 from domain 0 to 1 cannot be; the table is not used, all other nodes are equally far",
            "Fallback order for Node 0: 0 1 ",
        ],
        nodes: 2,
    },
];

/// SRAT behind its header: 12 bytes that are reserved, and the entries (ACPI 6.5, section 5.2.16).
fn srat(entries: &[Vec<u8>]) -> Vec<(&'static str, Vec<u8>)> {
    vec![("SRAT", [vec![0; 12], entries.concat()].concat())]
}

/// A Memory Affinity Structure that is enabled (section 5.2.16.2).
fn memory(domain: u32, base: u64, length: u64) -> Vec<u8> {
    let mut entry = vec![1, 40];
    entry.extend(domain.to_le_bytes());
    entry.extend([0; 2]);
    entry.extend(base.to_le_bytes());
    entry.extend(length.to_le_bytes());
    entry.extend([0; 4]);
    entry.extend(1_u32.to_le_bytes());
    entry.extend([0; 8]);
    entry
}

/// Bytes without a meaning, the same every time (xorshift).
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}
