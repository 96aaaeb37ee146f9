//! Start infos written byte by byte from Xen's header, sound and broken.

use std::string::ToString;
use std::vec;
use std::vec::Vec;

use super::*;

/// Readable memory at one place; everywhere else nothing can be read.
struct Window {
    base: u64,
    bytes: Vec<u8>,
}

impl PhysBytes for Window {
    fn read(&self, at: PhysAddr, buffer: &mut [u8]) -> bool {
        let Some(offset) = at.as_u64().checked_sub(self.base) else {
            return false;
        };
        let Some(source) = usize::try_from(offset)
            .ok()
            .and_then(|start| self.bytes.get(start..))
        else {
            return false;
        };
        let Some(source) = source.get(..buffer.len()) else {
            return false;
        };
        buffer.copy_from_slice(source);
        true
    }
}

const BASE: u64 = 0x6000;

/// A sound start info at 6000, its command line at 6100, its map of two entries at 6200.
fn sound() -> Window {
    let mut bytes = vec![0; 0x1000];
    let mut put =
        |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
    put(0, &0x336e_c578u32.to_le_bytes());
    put(4, &1u32.to_le_bytes());
    put(24, &(BASE + 0x100).to_le_bytes());
    put(32, &0xf_5940u64.to_le_bytes());
    put(40, &(BASE + 0x200).to_le_bytes());
    put(48, &2u32.to_le_bytes());
    put(0x100, b"nokaslr mem=64M\0");
    put(0x200, &0u64.to_le_bytes());
    put(0x208, &0x9_fc00u64.to_le_bytes());
    put(0x210, &1u32.to_le_bytes());
    put(0x218, &0x10_0000u64.to_le_bytes());
    put(0x220, &0x3f00_0000u64.to_le_bytes());
    put(0x228, &1u32.to_le_bytes());
    Window { base: BASE, bytes }
}

fn with(offset: usize, value: &[u8]) -> Window {
    let mut window = sound();
    window.bytes[offset..offset + value.len()].copy_from_slice(value);
    window
}

fn message(window: &Window, at: u64) -> std::string::String {
    StartInfo::read(window, at)
        .expect_err("this start info is broken")
        .to_string()
}

#[test]
fn a_sound_start_info_is_read_whole() {
    let window = sound();
    let info = StartInfo::read(&window, BASE).unwrap();
    assert_eq!(info.version(), 1);
    assert_eq!(info.rsdp(), Some(PhysAddr::new(0xf_5940)));
    let map: Vec<_> = info
        .memory_map(&window)
        .map(|entry| (entry.start, entry.size, entry.kind))
        .collect();
    assert_eq!(map, [(0, 0x9_fc00, 1), (0x10_0000, 0x3f00_0000, 1)]);
    let mut buffer = [0; MAX_COMMAND_LINE];
    assert_eq!(
        info.command_line(&window, &mut buffer).unwrap(),
        b"nokaslr mem=64M"
    );
    let pages = info.pages();
    assert_eq!(
        pages[0].unwrap().to_string(),
        "0000000000006000-0000000000006fff"
    );
    assert_eq!(
        pages[1].unwrap().to_string(),
        "0000000000006000-0000000000006fff"
    );
}

#[test]
fn pointers_to_nowhere_are_named() {
    assert_eq!(
        message(&sound(), 0xdead_0000),
        "start info: the loader puts the start info at 00000000dead0000, where nothing can be read in the first 4 GiB; \
         boot with a PVH loader (QEMU: -kernel)"
    );
    assert_eq!(
        message(&sound(), u64::MAX),
        "start info: the loader puts the start info at ffffffffffffffff, where nothing can be read in the first 4 GiB; \
         boot with a PVH loader (QEMU: -kernel)"
    );
    assert_eq!(
        message(&with(40, &0xffff_ffff_ffff_0000u64.to_le_bytes()), BASE),
        "start info: the loader puts the memory map at ffffffffffff0000, where nothing can be read in the first 4 GiB; \
         boot with a PVH loader (QEMU: -kernel)"
    );
    // The last entry of the map is the one that leaves readable memory.
    assert_eq!(
        message(&with(40, &(BASE + 0x1000 - 24).to_le_bytes()), BASE),
        "start info: the loader puts the memory map at 0000000000006fe8, where nothing can be read in the first 4 GiB; \
         boot with a PVH loader (QEMU: -kernel)"
    );
}

#[test]
fn something_else_is_not_taken_for_a_start_info() {
    assert_eq!(
        message(&sound(), BASE + 8),
        "start info: 0000000000006008 holds 00000000, not the magic 336ec578; boot with a PVH loader (QEMU: -kernel)"
    );
    assert_eq!(
        message(&with(4, &0u32.to_le_bytes()), BASE),
        "start info: version 0 carries no memory map; a loader of version 1 or later is needed"
    );
}

#[test]
fn entry_counts_are_bounded() {
    for (entries, text) in [(0u32, "0"), (1025, "1025"), (u32::MAX, "4294967295")] {
        let expected =
            std::format!("start info: the memory map has {text} entries; 1 to 1024 can be true");
        assert_eq!(message(&with(48, &entries.to_le_bytes()), BASE), expected);
    }
}

#[test]
fn a_command_line_may_be_absent_wild_or_endless() {
    let mut buffer = [0; MAX_COMMAND_LINE];
    let none = with(24, &0u64.to_le_bytes());
    let info = StartInfo::read(&none, BASE).unwrap();
    assert_eq!(info.command_line(&none, &mut buffer), Ok(&[][..]));

    let wild = with(24, &0x1234_5678_9abcu64.to_le_bytes());
    let info = StartInfo::read(&wild, BASE).unwrap();
    assert_eq!(
        info.command_line(&wild, &mut buffer)
            .unwrap_err()
            .to_string(),
        "start info: the loader puts the command line at 0000123456789abc, where nothing can be read in the first 4 GiB; \
         boot with a PVH loader (QEMU: -kernel)"
    );

    let endless = with(0x100, &[b'a'; 0xf00]);
    let info = StartInfo {
        command_line: BASE + 0x300,
        ..StartInfo::read(&sound(), BASE).unwrap()
    };
    assert_eq!(
        info.command_line(&endless, &mut buffer)
            .unwrap_err()
            .to_string(),
        "start info: the command line at 0000000000006300 has no end within 2048 bytes; shorten it"
    );
}
