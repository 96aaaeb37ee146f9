//! Any bytes as a machine's memory, any number as the loader's pointer: no panic, and what is read has the promised bounds.

#![no_main]

use std::fmt::Write;

use kspace_frames::MemoryMap;
use kspace_kernel::start_info::{
    MAGIC, MAX_COMMAND_LINE, MAX_MEMORY_MAP_ENTRIES, PhysBytes, StartInfo,
};
use kspace_layout::PhysAddr;
use libfuzzer_sys::fuzz_target;

/// Where the memory begins; address zero is not part of it.
const BASE: u64 = 0x1000;

struct Memory<'a>(&'a [u8]);

impl PhysBytes for Memory<'_> {
    fn read(&self, at: PhysAddr, buffer: &mut [u8]) -> bool {
        let found = at.as_u64().checked_sub(BASE).and_then(|offset| {
            let start = usize::try_from(offset).ok()?;
            self.0.get(start..start.checked_add(buffer.len())?)
        });
        found.map(|bytes| buffer.copy_from_slice(bytes)).is_some()
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((pointer, bytes)) = data.split_first_chunk::<2>() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    // Most inputs should get past the magic number; those whose pointer is odd need not.
    if pointer[0].is_multiple_of(2) && bytes.len() >= 4 {
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
    }
    let at = if pointer[0].is_multiple_of(2) {
        BASE
    } else {
        u64::from(u16::from_le_bytes(*pointer))
    };
    let memory = Memory(&bytes);
    let mut text = String::new();
    let info = match StartInfo::read(&memory, at) {
        Ok(info) => info,
        Err(error) => return write!(text, "{error}").expect("a string takes anything"),
    };
    let entries: Vec<_> = info.memory_map(&memory).collect();
    assert!(!entries.is_empty() && entries.len() <= MAX_MEMORY_MAP_ENTRIES as usize);
    if let Err(error) = MemoryMap::from_firmware(entries, 52, |_| ()) {
        write!(text, "{error}").expect("a string takes anything");
    }
    let mut buffer = [0; MAX_COMMAND_LINE];
    match info.command_line(&memory, &mut buffer) {
        Ok(line) => assert!(line.len() < MAX_COMMAND_LINE && !line.contains(&0)),
        Err(error) => write!(text, "{error}").expect("a string takes anything"),
    }
    let _ = (info.rsdp(), info.pages(), info.version());
});
