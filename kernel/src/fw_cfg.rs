//! QEMU's firmware configuration device (fw_cfg): named files that the host offers, some of which a guest may write.
//!
//! The protocol is QEMU's `docs/specs/fw_cfg.rst`: an item is selected by number, then read byte by byte; a directory names
//! the items that are files; writing goes by DMA, through a request in memory that the device answers in place:
//!
//! ```text
//!   select 0000   "QEMU"                                       the device is there
//!   select 0001   features, bit 1: DMA
//!   select 0019   count, then per file: size, item, reserved, name in 56 bytes      (big endian)
//!   DMA           control, length, address                                           (big endian)
//! ```
//!
//! A device is not believed: a directory has a longest length, a name need not be text, and a DMA answer is awaited for a
//! bounded time. How the registers are reached is the architecture's ([`Registers`]), so that all of this runs on a host, too.
//!
//! Not the crate `qemu-fw-cfg`: it takes pointers for physical addresses, waits for DMA without end, and panics when a file's
//! name is not UTF-8.

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use kspace_layout::PhysAddr;

/// Items with fixed numbers (`FW_CFG_SIGNATURE`, `FW_CFG_ID`, `FW_CFG_FILE_DIR` of QEMU's `standard-headers/linux/qemu_fw_cfg.h`).
const SIGNATURE: u16 = 0x00;
const FEATURES: u16 = 0x01;
const DIRECTORY: u16 = 0x19;

/// The feature bit for DMA (`FW_CFG_VERSION_DMA`).
const FEATURE_DMA: u32 = 1 << 1;

/// Bits of a request's control word (`FW_CFG_DMA_CTL_ERROR`, `_SELECT` and `_WRITE`); the item is in the upper half.
const DMA_ERROR: u32 = 1 << 0;
const DMA_SELECT: u32 = 1 << 3;
const DMA_WRITE: u32 = 1 << 4;

/// As many files as there are numbers for them: 0020 to 3fff (`FW_CFG_FILE_FIRST`, and bits 14 and 15 mean something else).
const MOST_FILES: u32 = 0x4000 - 0x20;

/// One entry of the directory: size 4 bytes, item 2, reserved 2, name 56.
const ENTRY: usize = 64;
const NAME: usize = 8;

/// How often a request is looked at before its device counts as silent. QEMU answers before the write to the register returns.
pub const MOST_LOOKS: u32 = 1_000_000;

/// The device's registers.
pub trait Registers {
    /// Selects an item; the next byte read is its first.
    fn select(&mut self, item: u16);
    /// Reads the selected item's next bytes; behind its end they are zero.
    fn read(&mut self, buffer: &mut [u8]);
    /// Starts the DMA request at a physical address, with everything stored before visible to the device.
    fn start_dma(&mut self, request: PhysAddr);
}

/// A request in memory (`FWCfgDmaAccess`), all numbers big endian. The device changes `control`.
#[derive(Debug, Default)]
#[repr(C, align(16))]
pub struct DmaRequest {
    control: AtomicU32,
    length: AtomicU32,
    address_high: AtomicU32,
    address_low: AtomicU32,
}

impl DmaRequest {
    /// A request for nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            control: AtomicU32::new(0),
            length: AtomicU32::new(0),
            address_high: AtomicU32::new(0),
            address_low: AtomicU32::new(0),
        }
    }

    fn set(&self, control: u32, data: PhysAddr, size: u32) {
        let address = data.as_u64();
        self.length.store(size.to_be(), Ordering::Relaxed);
        self.address_high
            .store(((address >> 32) as u32).to_be(), Ordering::Relaxed);
        self.address_low
            .store((address as u32).to_be(), Ordering::Relaxed);
        self.control.store(control.to_be(), Ordering::Release);
    }

    fn control(&self) -> u32 {
        u32::from_be(self.control.load(Ordering::Acquire))
    }
}

/// A file of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    item: u16,
    /// Its size in bytes.
    pub size: u32,
}

/// Why a device that is there cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FwCfgError {
    /// The directory claims more files than there are numbers for.
    TooManyFiles(u32),
    /// The device cannot do DMA, and without it nothing can be written.
    NoDma {
        /// What it says it can do.
        features: u32,
    },
    /// The device ended a write with an error.
    Refused {
        /// The item that should have been written.
        item: u16,
    },
    /// The device did not answer a write.
    Silent {
        /// The item that should have been written.
        item: u16,
    },
}

impl fmt::Display for FwCfgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fw_cfg: ")?;
        match self {
            Self::TooManyFiles(count) => write!(
                f,
                "the directory claims {count} files, and items are numbered for {MOST_FILES}"
            ),
            Self::NoDma { features } => write!(
                f,
                "the device cannot be written to: features {features:#x} lack DMA ({FEATURE_DMA:#x})"
            ),
            Self::Refused { item } => {
                write!(f, "the device refused to have item {item:#x} written")
            }
            Self::Silent { item } => write!(
                f,
                "the device did not answer a write of item {item:#x} within {MOST_LOOKS} looks"
            ),
        }
    }
}

/// A device that is there.
#[derive(Debug)]
pub struct FwCfg<R> {
    registers: R,
}

impl<R: Registers> FwCfg<R> {
    /// The device behind `registers`; `None` when there is none.
    pub fn find(registers: R) -> Option<Self> {
        let mut device = Self { registers };
        let signature: [u8; 4] = device.item(SIGNATURE);
        (signature == *b"QEMU").then_some(device)
    }

    /// The file of this name; `None` when the host offers none.
    ///
    /// # Errors
    ///
    /// [`FwCfgError::TooManyFiles`].
    pub fn file(&mut self, name: &str) -> Result<Option<File>, FwCfgError> {
        let count = u32::from_be_bytes(self.item(DIRECTORY));
        if count > MOST_FILES {
            return Err(FwCfgError::TooManyFiles(count));
        }
        for _ in 0..count {
            let mut entry = [0; ENTRY];
            self.registers.read(&mut entry);
            let [s0, s1, s2, s3, i0, i1, ..] = entry;
            let found = entry[NAME..].split(|byte| *byte == 0).next();
            if found == Some(name.as_bytes()) {
                return Ok(Some(File {
                    item: u16::from_be_bytes([i0, i1]),
                    size: u32::from_be_bytes([s0, s1, s2, s3]),
                }));
            }
        }
        Ok(None)
    }

    /// Reads the first bytes of a file; those behind its end are zero.
    pub fn read<const N: usize>(&mut self, file: File) -> [u8; N] {
        self.item(file.item)
    }

    /// Writes a file from its start on with `size` bytes of physical memory from `data` on, by way of `request`.
    ///
    /// # Errors
    ///
    /// [`FwCfgError::NoDma`], [`FwCfgError::Refused`]: nothing was written. [`FwCfgError::Silent`]: it may still be.
    ///
    /// # Safety
    ///
    /// `request_at` must be the physical address of `request`, which a late device may change at any time.
    pub unsafe fn write(
        &mut self,
        file: File,
        data: PhysAddr,
        size: u32,
        request: &'static DmaRequest,
        request_at: PhysAddr,
    ) -> Result<(), FwCfgError> {
        let features = u32::from_le_bytes(self.item(FEATURES));
        if features & FEATURE_DMA == 0 {
            return Err(FwCfgError::NoDma { features });
        }
        let item = file.item;
        request.set((u32::from(item) << 16) | DMA_SELECT | DMA_WRITE, data, size);
        self.registers.start_dma(request_at);
        for _ in 0..MOST_LOOKS {
            match request.control() {
                0 => return Ok(()),
                control if control & DMA_ERROR != 0 => return Err(FwCfgError::Refused { item }),
                _ => core::hint::spin_loop(),
            }
        }
        Err(FwCfgError::Silent { item })
    }

    fn item<const N: usize>(&mut self, item: u16) -> [u8; N] {
        let mut bytes = [0; N];
        self.registers.select(item);
        self.registers.read(&mut bytes);
        bytes
    }
}

#[cfg(test)]
pub(crate) mod tests;
