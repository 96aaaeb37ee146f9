//! More rows of [the boot table](super::boot_table): loaders and firmware that lie. Each ends in words on the console, never in a
//! reset.
//!
//! The usual machine has 256 MiB, the kernel is loaded at 16 MiB, and its start info is altered before its first instruction.

use super::boot_table::{BootCase, Ending};
use super::start_info::Alteration;

/// RAM, in the codes of the firmware's memory map.
const RAM: u32 = 1;
/// Reserved memory.
const RESERVED: u32 = 2;

const MIB: u64 = 1 << 20;

/// The RAM that the usual machine really has.
const LOW: (u64, u64, u32) = (0, 0x9_f000, RAM);
const HIGH: (u64, u64, u32) = (MIB, 254 * MIB, RAM);

/// A machine whose start info is altered and which boots nevertheless.
const fn survives(
    name: &'static str,
    alteration: Alteration,
    says: &'static [&'static str],
) -> BootCase {
    BootCase {
        name,
        append: "nokaslr",
        altered: Some(alteration),
        says,
        ..BootCase::USUAL
    }
}

/// A machine whose start info is altered so that nothing can be done with it.
const fn refused(
    name: &'static str,
    alteration: Alteration,
    says: &'static [&'static str],
) -> BootCase {
    BootCase {
        ends: Ending::Failure,
        ..survives(name, alteration, says)
    }
}

/// Start infos with one field that lies.
pub(super) const START_INFOS: &[BootCase] = &[
    refused(
        "a start info at 0",
        Alteration::Pointer(0),
        &[
            "kspace: cannot boot: start info: the loader puts the start info at 0000000000000000, where nothing can be read",
        ],
    ),
    refused(
        "a start info where no memory is",
        Alteration::Pointer(0xe000_0000),
        &["kspace: cannot boot: start info: 00000000e0000000 holds "],
    ),
    refused(
        "a start info in the firmware",
        Alteration::Pointer(0xffff_fff0),
        &["kspace: cannot boot: start info: "],
    ),
    refused(
        "a start info without its magic",
        Alteration::Magic(0x1234_5678),
        &["holds 12345678, not the magic 336ec578; boot with a PVH loader"],
    ),
    refused(
        "a command line beyond all memory",
        Alteration::CommandLine(0xffff_ffff_ffff_0000),
        &[
            "kspace: cannot boot: start info: the loader puts the command line at ffffffffffff0000, where nothing can be read",
        ],
    ),
    refused(
        "a memory map beyond all memory",
        Alteration::MapAt(0x000f_ffff_ffff_f000),
        &[
            "kspace: cannot boot: start info: the loader puts the memory map at 000ffffffffff000, where nothing can be read",
        ],
    ),
    refused(
        "a memory map where no memory is",
        Alteration::MapAt(0xe000_0000),
        &["kspace: cannot boot: memory map: no RAM in "],
    ),
    refused(
        "a memory map of no entries",
        Alteration::Entries(0),
        &["kspace: cannot boot: start info: the memory map has 0 entries; 1 to 1024 can be true"],
    ),
    refused(
        "a memory map of absurdly many entries",
        Alteration::Entries(u32::MAX),
        &[
            "kspace: cannot boot: start info: the memory map has 4294967295 entries; 1 to 1024 can be true",
        ],
    ),
];

/// Memory maps that no sane firmware makes.
pub(super) const MEMORY_MAPS: &[BootCase] = &[
    survives(
        "overlapping memory",
        Alteration::Map(&[
            LOW,
            HIGH,
            (128 * MIB, 4 * MIB, RESERVED),
            (200 * MIB, 40 * MIB, RAM),
        ]),
        &[
            "memory map: entry 2 says 0000000008000000-00000000083fffff is reserved, an earlier one usable; taken as reserved",
            "modified: [mem 0x0000000000100000-0x0000000007ffffff] usable",
            "modified: [mem 0x0000000008000000-0x00000000083fffff] reserved",
            "modified: [mem 0x0000000008400000-0x000000000fefffff] usable",
        ],
    ),
    survives(
        "unsorted memory",
        Alteration::Map(&[HIGH, LOW]),
        &[
            "starts below the entry before it; sorted",
            "modified: [mem 0x0000000000000000-0x000000000009efff] usable",
            "modified: [mem 0x0000000000100000-0x000000000fefffff] usable",
        ],
    ),
    survives(
        "memory of no bytes",
        Alteration::Map(&[LOW, (64 * MIB, 0, RAM), HIGH]),
        &["memory map: entry 1 [mem 0x0000000004000000 size 0x0] usable: no bytes; ignored"],
    ),
    survives(
        "memory that wraps",
        Alteration::Map(&[LOW, HIGH, (0xffff_ffff_ffff_f000, 0x2000, RAM)]),
        &[
            "memory map: entry 2 [mem 0xfffffffffffff000 size 0x2000] usable: its end passes 2^64; ignored",
        ],
    ),
    survives(
        "unaligned memory",
        Alteration::Map(&[(1, 0x9_f000, RAM), (MIB + 0x800, 254 * MIB, RAM)]),
        &[
            "not whole pages; 0000000000001000-000000000009efff kept",
            "not whole pages; 0000000000101000-000000000fefffff kept",
        ],
    ),
    survives(
        "memory beyond the CPU's reach",
        Alteration::Map(&[LOW, HIGH, (1 << 60, MIB, RAM)]),
        &["address bits; ignored"],
    ),
    refused(
        "no RAM at all",
        Alteration::Map(&[(0, 256 * MIB, RESERVED)]),
        &[
            "kspace: cannot boot: memory map: no RAM in 1 entries; check what the boot loader passed",
        ],
    ),
    refused(
        "no RAM below 4 GiB",
        Alteration::Map(&[(0, 256 * MIB, RESERVED), (4096 * MIB, 256 * MIB, RAM)]),
        &[
            "kspace: cannot boot: memory map: no RAM below 4 GiB, it begins at 0000000100000000; the kernel needs some there",
        ],
    ),
    refused(
        "an image outside RAM",
        Alteration::Map(&[LOW, (128 * MIB, 64 * MIB, RAM)]),
        &[
            "kspace: cannot boot: image: it was loaded at 0000000001000000-",
            "which the memory map does not call RAM",
        ],
    ),
    refused(
        "memory in too many pieces",
        Alteration::Map(&pieces()),
        &[
            "kspace: cannot boot: memory map: entry 128 makes more than 128 separate ranges; merge ranges in the firmware",
        ],
    ),
    refused(
        "memory that its own books do not fit in",
        Alteration::Map(&far_pages()),
        &[
            "direct map: [mem 0x0000000100000000-0x0000000100000fff] page 4k",
            "kspace: cannot boot: frames: the allocator needs ",
            " for itself, and RAM has ",
            " free; give the machine more memory",
        ],
    ),
];

/// Little more RAM than the image, and 126 pages of 4 GiB distance, each of which takes three pages of books.
const fn far_pages() -> [(u64, u64, u32); 127] {
    let mut pages = [(16 * MIB, 11 * MIB / 4, RAM); 127];
    let mut index = 1;
    while index < pages.len() {
        pages[index] = (index as u64 * 4096 * MIB, 4096, RAM);
        index += 1;
    }
    pages
}

/// 200 pages of RAM, each apart from the next.
const fn pieces() -> [(u64, u64, u32); 200] {
    let mut pieces = [(0, 4096, RAM); 200];
    let mut index = 0;
    while index < pieces.len() {
        pieces[index].0 = MIB + index as u64 * 0x4000;
        index += 1;
    }
    pieces
}
