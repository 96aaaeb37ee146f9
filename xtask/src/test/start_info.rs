//! Boots whose start info is altered before the kernel's first instruction, through QEMU's gdb stub.
//!
//! SeaBIOS's memory map is always sane, so what a hostile one does can only be seen this way. The guest is stopped at its PVH
//! entry, where paging is off and `ebx` points to the start info (Xen, public/arch-x86/hvm/start_info.h):
//!
//! ```text
//!   offset   0 magic 336ec578   4 version   8 flags   12 nr_modules   16 modules
//!           24 command line    32 RSDP     40 memory map             48 its number of entries
//!   a map entry: 0 address   8 size   16 type   20 reserved          24 bytes
//! ```

use std::process::Command;
use std::time::Duration;

use crate::failure::{Failure, Result};
use crate::kernel::Kernel;
use crate::qemu::boot::Ended;
use crate::qemu::gdb::{Gdb, Register};
use crate::qemu::paused::Paused;

const MAGIC: u32 = 0x336e_c578;
const COMMAND_LINE: u64 = 24;
const MAP: u64 = 40;
const MAP_ENTRIES: u64 = 48;

/// Where an altered map is written: RAM that nothing uses at a PVH entry, below the kernel and above real mode's tables.
const SCRATCH: u64 = 0x8_0000;

/// What the kernel finds instead of what the firmware left.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Alteration {
    /// `ebx` holds this.
    Pointer(u32),
    /// The start info begins with this.
    Magic(u32),
    /// The command line is said to be here.
    CommandLine(u64),
    /// The memory map is said to be here.
    MapAt(u64),
    /// The memory map is said to have this many entries.
    Entries(u32),
    /// The memory map is this: address, size, type.
    Map(&'static [(u64, u64, u32)]),
}

/// Boots with `alteration` and waits for the end.
///
/// # Errors
///
/// When the guest does not reach its entry, or the start info found there is not the firmware's.
pub(crate) fn boot_altered(
    command: Command,
    kernel: &Kernel,
    alteration: Alteration,
    limit: Duration,
) -> Result<Ended> {
    let paused = Paused::start_stopped(command)?;
    let mut gdb = paused.gdb()?;
    let entry = kernel.pvh_entry()?;
    gdb.break_at(entry)?;
    gdb.continue_to_break()?;
    alter(&mut gdb, alteration)?;
    gdb.clear_break(entry)?;
    gdb.detach()?;
    paused.until_its_end(limit)
}

fn alter(gdb: &mut Gdb, alteration: Alteration) -> Result {
    let start_info = gdb.register(Register::Rbx)?;
    let magic = gdb.read(start_info, 4)?;
    if magic != MAGIC.to_le_bytes() {
        return Err(Failure::failed(format!(
            "the guest stopped at its entry, and no start info is at {start_info:016x}: {magic:02x?}"
        )));
    }
    match alteration {
        Alteration::Pointer(address) => gdb.set_register(Register::Rbx, u64::from(address)),
        Alteration::Magic(magic) => gdb.write(start_info, &magic.to_le_bytes()),
        Alteration::CommandLine(at) => gdb.write(start_info + COMMAND_LINE, &at.to_le_bytes()),
        Alteration::MapAt(at) => gdb.write(start_info + MAP, &at.to_le_bytes()),
        Alteration::Entries(count) => gdb.write(start_info + MAP_ENTRIES, &count.to_le_bytes()),
        Alteration::Map(entries) => {
            gdb.write(SCRATCH, &map_bytes(entries))?;
            gdb.write(start_info + MAP, &SCRATCH.to_le_bytes())?;
            gdb.write(
                start_info + MAP_ENTRIES,
                &(entries.len() as u32).to_le_bytes(),
            )
        }
    }
}

fn map_bytes(entries: &[(u64, u64, u32)]) -> Vec<u8> {
    let entry = |&(address, size, kind): &(u64, u64, u32)| {
        [
            address.to_le_bytes(),
            size.to_le_bytes(),
            u64::from(kind).to_le_bytes(),
        ]
        .concat()
    };
    entries.iter().flat_map(entry).collect()
}
