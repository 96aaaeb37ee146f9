//! Any bytes as SRAT and SLIT: no panic, every note can be printed, and what is read divides any memory into nodes.

#![no_main]

use std::fmt::Write;

use kspace_frames::zone::{NodeId, Nodes};
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_kernel::acpi::Topology;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else {
        return;
    };
    let (srat, slit) = bytes.split_at(bytes.len() * usize::from(cut) / 256);
    let mut text = String::new();
    let topology = Topology::read(srat, Some(slit), &mut |note| {
        write!(text, "{note}").expect("a string takes anything");
    });
    let count = topology.nodes().count();
    for from in NodeId::all() {
        for to in NodeId::all() {
            assert_eq!(topology.distance(from, to) == 10, from == to);
        }
    }
    let ram = [(0, 0x9_fc00), (1 << 20, 1 << 31), (1 << 32, 1 << 33)];
    let entries = ram.map(|(start, size)| FirmwareEntry {
        start,
        size,
        kind: 1,
    });
    let map = MemoryMap::from_firmware(entries, 52, |_| ()).expect("a sound map");
    match Nodes::new(&map, topology.affinities(), |repair| {
        write!(text, "{repair}").expect("a string takes anything");
    }) {
        Ok(nodes) => {
            let bytes: u64 = nodes.blocks().map(|block| block.range().size()).sum();
            assert_eq!(bytes, map.ram_bytes());
            assert!(nodes.nodes().all(|node| node.index() < count));
        }
        Err(error) => write!(text, "{error}").expect("a string takes anything"),
    }
});
