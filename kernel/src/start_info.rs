//! What a PVH loader tells the kernel: the start info, its memory map, and the command line.
//!
//! The loader leaves one pointer; everything else is found from there (Xen `public/arch-x86/hvm/start_info.h`):
//!
//! ```text
//!   start info (56 bytes)            memory map: entries of 24 bytes       command line
//!   +0   magic 336ec578              +0   start                            bytes up to a zero
//!   +4   version                     +8   size
//!   +8   flags                       +16  type (1 RAM, 2 reserved, …)
//!   +12  number of modules           +20  reserved
//!   +16  module list
//!   +24  command line  ------------------------------------------------->
//!   +32  ACPI RSDP
//!   +40  memory map    ------------->
//!   +48  number of entries           (from version 1 on)
//!   +52  reserved
//! ```
//!
//! Nothing of it is trusted: every pointer goes through [`PhysBytes`], which says whether such memory can be read, and every
//! count has a bound. What a loader got wrong becomes a [`StartInfoError`] that names the field and both values.

use core::fmt;

use kspace_frames::FirmwareEntry;
use kspace_layout::{FRAME_SIZE, PhysAddr, PhysRange};

/// The first four bytes of a start info.
pub const MAGIC: u32 = 0x336e_c578;

/// Most memory-map entries that are read. Real firmware gives a few dozen; Linux's own table ends at 320
/// (`E820_MAX_ENTRIES`, arch/x86/include/asm/e820/types.h).
pub const MAX_MEMORY_MAP_ENTRIES: u32 = 1024;

/// Longest command line that is read, in bytes (Linux: `COMMAND_LINE_SIZE`, 2048 on x86).
pub const MAX_COMMAND_LINE: usize = 2048;

const ENTRY_BYTES: u64 = 24;

/// Physical memory as bytes, for reading what a loader left there.
pub trait PhysBytes {
    /// Fills `buffer` from `at` on. Returns false, with `buffer` in any state, when a byte of it cannot be read.
    fn read(&self, at: PhysAddr, buffer: &mut [u8]) -> bool;
}

/// What is wrong with a start info.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartInfoError {
    /// The loader's pointer is not one to readable memory.
    Unreadable {
        /// Which structure the pointer should lead to.
        what: &'static str,
        /// The pointer.
        at: u64,
    },
    /// The pointer leads to something else.
    BadMagic {
        /// The pointer.
        at: u64,
        /// The four bytes found there.
        found: u32,
    },
    /// Version 0 has no memory map.
    NoMemoryMap {
        /// The version found.
        version: u32,
    },
    /// The map has no entries, or more than [`MAX_MEMORY_MAP_ENTRIES`].
    EntryCount {
        /// The count found.
        entries: u32,
    },
    /// No zero byte within [`MAX_COMMAND_LINE`].
    CommandLineTooLong {
        /// Where the command line begins.
        at: u64,
    },
}

impl fmt::Display for StartInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unreadable { what, at } => write!(
                f,
                "start info: the loader puts the {what} at {at:016x}, where nothing can be read in the first 4 GiB; \
                 boot with a PVH loader (QEMU: -kernel)"
            ),
            Self::BadMagic { at, found } => write!(
                f,
                "start info: {at:016x} holds {found:08x}, not the magic {MAGIC:08x}; boot with a PVH loader \
                 (QEMU: -kernel)"
            ),
            Self::NoMemoryMap { version } => write!(
                f,
                "start info: version {version} carries no memory map; a loader of version 1 or later is needed"
            ),
            Self::EntryCount { entries } => write!(
                f,
                "start info: the memory map has {entries} entries; 1 to {MAX_MEMORY_MAP_ENTRIES} can be true"
            ),
            Self::CommandLineTooLong { at } => write!(
                f,
                "start info: the command line at {at:016x} has no end within {MAX_COMMAND_LINE} bytes; shorten it"
            ),
        }
    }
}

impl core::error::Error for StartInfoError {}

/// A start info whose own fields were read and bounded. What they point at is read on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartInfo {
    at: PhysAddr,
    version: u32,
    command_line: u64,
    rsdp: u64,
    memory_map: PhysAddr,
    entries: u32,
}

impl StartInfo {
    /// Reads the start info at the address that the loader gave.
    ///
    /// # Errors
    ///
    /// [`StartInfoError`], for every way in which it can be no start info or one without a memory map.
    pub fn read(memory: &impl PhysBytes, at: u64) -> Result<Self, StartInfoError> {
        let mut bytes = [0; 56];
        let start = read_at(memory, at, &mut bytes[..40], "start info")?;
        let found = u32_at(&bytes, 0);
        if found != MAGIC {
            return Err(StartInfoError::BadMagic { at, found });
        }
        let version = u32_at(&bytes, 4);
        if version == 0 {
            return Err(StartInfoError::NoMemoryMap { version });
        }
        read_at(memory, at, &mut bytes, "start info")?;
        let entries = u32_at(&bytes, 48);
        if entries == 0 || entries > MAX_MEMORY_MAP_ENTRIES {
            return Err(StartInfoError::EntryCount { entries });
        }
        let map = u64_at(&bytes, 40);
        let unreadable = StartInfoError::Unreadable {
            what: "memory map",
            at: map,
        };
        let memory_map = PhysAddr::try_new(map).map_err(|_| unreadable)?;
        let last = memory_map.checked_add(u64::from(entries) * ENTRY_BYTES - 1);
        // One byte of either end shows that the map can be read; the entries between are read when they are asked for.
        let mut byte = [0];
        if map == 0 || !memory.read(memory_map, &mut byte) {
            return Err(unreadable);
        }
        match last {
            Ok(last) if memory.read(last, &mut byte) => {}
            _ => return Err(unreadable),
        }
        Ok(Self {
            at: start,
            version,
            command_line: u64_at(&bytes, 24),
            rsdp: u64_at(&bytes, 32),
            memory_map,
            entries,
        })
    }

    /// The version of the structure, at least 1.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// Where the loader says the ACPI RSDP is; `None` when it says nothing, or nothing that is an address.
    #[must_use]
    pub fn rsdp(&self) -> Option<PhysAddr> {
        PhysAddr::try_new(self.rsdp)
            .ok()
            .filter(|address| address.as_u64() != 0)
    }

    /// The memory map, entry by entry, as the loader wrote it.
    pub fn memory_map<'a>(
        &self,
        memory: &'a impl PhysBytes,
    ) -> impl Iterator<Item = FirmwareEntry> + 'a {
        let base = self.memory_map;
        (0..u64::from(self.entries)).map_while(move |index| {
            let mut bytes = [0; ENTRY_BYTES as usize];
            let at = base.checked_add(index * ENTRY_BYTES).ok()?;
            memory.read(at, &mut bytes).then(|| FirmwareEntry {
                start: u64_at(&bytes, 0),
                size: u64_at(&bytes, 8),
                kind: u32_at(&bytes, 16),
            })
        })
    }

    /// Copies the command line into `buffer` and returns the bytes before its end; empty when the loader passed none.
    ///
    /// # Errors
    ///
    /// [`StartInfoError::Unreadable`], [`StartInfoError::CommandLineTooLong`].
    pub fn command_line<'b>(
        &self,
        memory: &impl PhysBytes,
        buffer: &'b mut [u8; MAX_COMMAND_LINE],
    ) -> Result<&'b [u8], StartInfoError> {
        if self.command_line == 0 {
            return Ok(&[]);
        }
        let at = self.command_line;
        let unreadable = StartInfoError::Unreadable {
            what: "command line",
            at,
        };
        let start = PhysAddr::try_new(at).map_err(|_| unreadable)?;
        for index in 0..MAX_COMMAND_LINE {
            let byte = start.checked_add(index as u64).map_err(|_| unreadable)?;
            if !memory.read(byte, &mut buffer[index..=index]) {
                return Err(unreadable);
            }
            if buffer[index] == 0 {
                return Ok(&buffer[..index]);
            }
        }
        Err(StartInfoError::CommandLineTooLong { at })
    }

    /// The pages that hold the start info and its memory map: not to be handed out while they are still read.
    #[must_use]
    pub fn pages(&self) -> [Option<PhysRange>; 2] {
        let page_range = |start: PhysAddr, size: u64| {
            let first = start.align_down(FRAME_SIZE);
            let bytes = start.as_u64() - first.as_u64() + size;
            PhysRange::try_new(first, bytes.next_multiple_of(FRAME_SIZE)).ok()
        };
        [
            page_range(self.at, 56),
            page_range(self.memory_map, u64::from(self.entries) * ENTRY_BYTES),
        ]
    }
}

fn read_at(
    memory: &impl PhysBytes,
    at: u64,
    buffer: &mut [u8],
    what: &'static str,
) -> Result<PhysAddr, StartInfoError> {
    let unreadable = StartInfoError::Unreadable { what, at };
    let start = PhysAddr::try_new(at).map_err(|_| unreadable)?;
    if at == 0 || !memory.read(start, buffer) {
        Err(unreadable)
    } else {
        Ok(start)
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(core::array::from_fn(|index| bytes[offset + index]))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(core::array::from_fn(|index| bytes[offset + index]))
}

#[cfg(test)]
mod tests;
