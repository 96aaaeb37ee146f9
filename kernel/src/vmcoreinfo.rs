//! VMCOREINFO: the note by which a memory dump of this kernel explains itself.
//!
//! A dump holds physical memory. Whoever reads it must know where translation begins and how many levels it has; everything
//! else is in the page tables. The note says so in an ELF note, in the text form that Linux's tools read (`KEY=value` lines),
//! and QEMU's `-device vmcoreinfo` takes its physical address and appends it to each `dump-guest-memory` file:
//!
//! ```text
//!   fw_cfg "etc/vmcoreinfo"                   memory of the kernel image
//!   host format 2 | guest format 2 |          11 | size of text | 0 | "VMCOREINFO\0" | "OSRELEASE=…\nPAGESIZE=…\n…"
//!   size 4 | physical address 8 ------------> ^
//! ```
//!
//! Keys that Linux has mean what they mean there, in Linux's number formats. `SYMBOL(init_top_pgt)` is missing on purpose: Linux's
//! tools compute the root's frame from it by the image's distance (`va - __START_KERNEL_map + phys_base`), and this kernel's
//! root is not in the image. Any value would be wrong, either as an address or as that sum; `NUMBER(KSPACE_ROOT)` is the frame
//! itself. Each key is explained in `docs/vmcoreinfo.md`.

use core::fmt::{self, Write};

use kspace_layout::{
    AreaKind, DEFAULT_IMAGE_START, FRAME_SIZE, IMAGE_WINDOW, KernelImage, Layout, PagingMode,
    PhysAddr, SectionKind, VirtAddr,
};
use spin::Once;

use crate::fw_cfg::{DmaRequest, FwCfg, FwCfgError, Registers};

/// The device's file (QEMU's `docs/specs/vmcoreinfo.rst`).
const FILE: &str = "etc/vmcoreinfo";

/// The file's size: `struct FWCfgVMCoreInfo`.
const RECORD: usize = 16;

/// The format of the note in that structure: an ELF note.
const FORMAT_ELF: u16 = 1;

/// The note's name with its end mark, and padded to 4 bytes as ELF notes are (System V ABI, "Note Section").
const NAME: &[u8; 11] = b"VMCOREINFO\0";
const PADDED_NAME: usize = NAME.len().next_multiple_of(4);

/// The note's type. Linux's is 0, too (`VMCOREINFO_NOTE_NAME` in kernel/vmcore_info.c).
const TYPE: u32 = 0;

/// Three 32-bit words: size of the name, size of the text, type.
const HEADER: usize = 12;

const TEXT: usize = HEADER + PADDED_NAME;

/// Most bytes of a note. The longest has under 600.
pub const CAPACITY: usize = 1024;

/// The note's bytes, in ELF's layout.
#[derive(Clone, Debug)]
pub struct Note {
    bytes: [u8; CAPACITY],
    length: usize,
}

impl Note {
    /// The note of a kernel that runs in `layout` on the tables under `root`.
    ///
    /// # Errors
    ///
    /// [`NoteError`], when the layout lacks what a note says.
    pub fn describing(layout: &Layout, root: PhysAddr) -> Result<Self, NoteError> {
        let facts = Facts::of(layout, root)?;
        let mut note = Self {
            bytes: [0; CAPACITY],
            length: TEXT,
        };
        write!(note, "{facts}").map_err(|_| NoteError::TooLong)?;
        let text = (note.length - TEXT) as u32;
        note.bytes[..4].copy_from_slice(&(NAME.len() as u32).to_le_bytes());
        note.bytes[4..8].copy_from_slice(&text.to_le_bytes());
        note.bytes[8..HEADER].copy_from_slice(&TYPE.to_le_bytes());
        note.bytes[HEADER..][..NAME.len()].copy_from_slice(NAME);
        note.length = note.length.next_multiple_of(4);
        Ok(note)
    }

    /// The whole note, padding included.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Write for Note {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        // The padding of the text must fit, too; the capacity is a multiple of 4.
        self.bytes
            .get_mut(self.length..end)
            .ok_or(fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// Why there is no note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteError {
    /// The layout is not one of 64-bit mode, whose keys these are.
    NotLongMode(PagingMode),
    /// The layout lacks something that the note says.
    Missing(&'static str),
    /// The text does not fit.
    TooLong,
}

impl fmt::Display for NoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLongMode(mode) => write!(
                f,
                "vmcoreinfo: the note is one of 4 or 5 paging levels, the layout has {}",
                mode.levels()
            ),
            Self::Missing(what) => write!(f, "vmcoreinfo: the layout has no {what}"),
            Self::TooLong => write!(f, "vmcoreinfo: the note is longer than {CAPACITY} bytes"),
        }
    }
}

/// What the note says.
struct Facts {
    levels: u8,
    root: PhysAddr,
    image: KernelImage,
    text: VirtAddr,
    direct_map: VirtAddr,
    vmalloc: VirtAddr,
    vmemmap: VirtAddr,
}

impl Facts {
    fn of(layout: &Layout, root: PhysAddr) -> Result<Self, NoteError> {
        let mode = layout.mode();
        if !matches!(mode, PagingMode::FourLevel | PagingMode::FiveLevel) {
            return Err(NoteError::NotLongMode(mode));
        }
        let base = |kind: AreaKind, name| {
            let area = layout.area(kind).ok_or(NoteError::Missing(name))?;
            Ok(area.range().start())
        };
        let image = *layout.image().ok_or(NoteError::Missing("kernel image"))?;
        let text = image.section(SectionKind::Text);
        Ok(Self {
            levels: mode.levels(),
            root,
            image,
            text: text.ok_or(NoteError::Missing(".text"))?.start(),
            direct_map: base(AreaKind::DirectMap, "direct map")?,
            vmalloc: base(AreaKind::Vmalloc, "vmalloc")?,
            vmemmap: base(AreaKind::Vmemmap, "vmemmap")?,
        })
    }

    /// Linux's `phys_base`: what `address - __START_KERNEL_map` lacks to the physical address of a byte of the image. Negative
    /// when KASLR moved the image further up in the address space than in memory.
    fn phys_base(&self) -> i64 {
        let offset = self.image.virt().start().as_u64() - IMAGE_WINDOW.start().as_u64();
        self.image
            .phys()
            .start()
            .as_u64()
            .wrapping_sub(offset)
            .cast_signed()
    }

    /// Linux's `kaslr_offset()`.
    fn image_offset(&self) -> u64 {
        let start = self.image.virt().start().as_u64();
        start.wrapping_sub(DEFAULT_IMAGE_START.as_u64())
    }
}

impl fmt::Display for Facts {
    /// Number formats are Linux's: symbols and KERNELOFFSET in bare hexadecimal, numbers in decimal; numbers that are addresses
    /// with 0x, as arm64 and RISC-V have them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "OSRELEASE={}-kspace", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "PAGESIZE={FRAME_SIZE}")?;
        writeln!(f, "SYMBOL(_stext)={:x}", self.text.as_u64())?;
        writeln!(f, "NUMBER(phys_base)={}", self.phys_base())?;
        writeln!(f, "KERNELOFFSET={:x}", self.image_offset())?;
        writeln!(f, "NUMBER(KERNEL_IMAGE_SIZE)={}", IMAGE_WINDOW.size())?;
        writeln!(
            f,
            "NUMBER(pgtable_l5_enabled)={}",
            u8::from(self.levels == 5)
        )?;
        writeln!(f, "NUMBER(sme_mask)=0")?;
        writeln!(
            f,
            "NUMBER(page_offset_base)={:#x}",
            self.direct_map.as_u64()
        )?;
        writeln!(f, "NUMBER(vmalloc_base)={:#x}", self.vmalloc.as_u64())?;
        writeln!(f, "NUMBER(vmemmap_base)={:#x}", self.vmemmap.as_u64())?;
        writeln!(f, "NUMBER(KSPACE_PAGING_LEVELS)={}", self.levels)?;
        writeln!(f, "NUMBER(KSPACE_ROOT)={:#x}", self.root.as_u64())
    }
}

/// The memory that the device reads: the note at every dump, the rest while it is told of the note.
#[derive(Debug)]
pub struct Shared {
    note: Once<Note>,
    record: Once<[u8; RECORD]>,
    request: DmaRequest,
}

impl Shared {
    /// Memory with nothing in it.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            note: Once::new(),
            record: Once::new(),
            request: DmaRequest::new(),
        }
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

/// A note that the device knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Where it is.
    pub at: PhysAddr,
    /// Its size in bytes.
    pub size: usize,
}

/// Why a device that asks for a note did not get one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The device that carries the file does not do what is needed.
    FwCfg(FwCfgError),
    /// There is no note.
    Note(NoteError),
    /// The file is not the structure that is expected.
    FileSize(u32),
    /// The host does not take ELF notes.
    HostFormat(u16),
    /// The memory that the device should read has no known physical address.
    Address(VirtAddr),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FwCfg(error) => error.fmt(f),
            Self::Note(error) => error.fmt(f),
            Self::FileSize(size) => {
                write!(f, "vmcoreinfo: {FILE} has {size} bytes, not {RECORD}")
            }
            Self::HostFormat(format) => write!(
                f,
                "vmcoreinfo: the host takes formats {format:#x}, not ELF ({FORMAT_ELF:#x})"
            ),
            Self::Address(at) => write!(f, "vmcoreinfo: {at} has no known physical address"),
        }?;
        f.write_str("; dumps of this machine will not explain themselves")
    }
}

impl From<FwCfgError> for Problem {
    fn from(error: FwCfgError) -> Self {
        Self::FwCfg(error)
    }
}

impl From<NoteError> for Problem {
    fn from(error: NoteError) -> Self {
        Self::Note(error)
    }
}

/// Tells the device behind `registers` of a note; `None` when there is no such device, or it does not ask for a note.
///
/// `shared` takes one note in its life: the first one stays.
///
/// # Errors
///
/// [`Problem`]: the device asks for a note and has none.
///
/// # Safety
///
/// `phys_of` must give the true physical address of what lies in `shared`.
pub unsafe fn publish(
    registers: impl Registers,
    layout: &Layout,
    root: PhysAddr,
    shared: &'static Shared,
    phys_of: impl Fn(VirtAddr) -> Option<PhysAddr>,
) -> Result<Option<Published>, Problem> {
    let Some(mut device) = FwCfg::find(registers) else {
        return Ok(None);
    };
    let Some(file) = device.file(FILE)? else {
        return Ok(None);
    };
    if file.size as usize != RECORD {
        return Err(Problem::FileSize(file.size));
    }
    let offered: [u8; RECORD] = device.read(file);
    let host_format = u16::from_le_bytes([offered[0], offered[1]]);
    if host_format & FORMAT_ELF == 0 {
        return Err(Problem::HostFormat(host_format));
    }
    let address = |pointer: *const u8| {
        let virt = VirtAddr::new(pointer as u64);
        phys_of(virt).ok_or(Problem::Address(virt))
    };
    let note = shared
        .note
        .try_call_once(|| Note::describing(layout, root))?
        .bytes();
    let at = address(note.as_ptr())?;
    let record = shared.record.call_once(|| record(host_format, note, at));
    let (data, request) = (address(record.as_ptr())?, &shared.request);
    let request_at = address(core::ptr::from_ref(request).cast())?;
    // SAFETY: the caller answers for `phys_of`.
    unsafe { device.write(file, data, RECORD as u32, request, request_at)? };
    let size = note.len();
    Ok(Some(Published { at, size }))
}

/// `struct FWCfgVMCoreInfo`, little endian.
fn record(host_format: u16, note: &[u8], at: PhysAddr) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..2].copy_from_slice(&host_format.to_le_bytes());
    record[2..4].copy_from_slice(&FORMAT_ELF.to_le_bytes());
    record[4..8].copy_from_slice(&(note.len() as u32).to_le_bytes());
    record[8..].copy_from_slice(&at.as_u64().to_le_bytes());
    record
}

#[cfg(test)]
mod tests;
