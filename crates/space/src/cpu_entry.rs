//! The CPU entry area: descriptor tables and stacks of each CPU, on frames of their own.
//!
//! Where each part lies, and where the guards, [`CpuEntryArea`] says; here the parts get frames. Descriptor tables are
//! mapped read-only: a kernel fills them through the direct map, so that no stray write can redirect an interrupt.

use core::fmt;

use kspace_layout::{AddressError, CpuEntryArea, EntryPart, FRAME_SIZE, PageSize, VirtRange};
use kspace_paging::{Access, EditError, Editor, EntryFormat, FrameSource, PhysMemory, Protection};

/// Gives every part of `cpu`'s entry area zeroed frames and maps them; the guards stay unmapped. The IDT, which all
/// CPUs share, comes with CPU 0.
///
/// # Errors
///
/// [`BuildError`]; what was mapped before the failure stays mapped.
pub fn build<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    area: CpuEntryArea,
    cpu: u32,
) -> Result<(), BuildError> {
    if cpu == 0 {
        map_pages(editor, area.idt(), Protection::KERNEL_RODATA)?;
    }
    for part in EntryPart::of(cpu) {
        let no_such_cpu = BuildError::NoSuchCpu {
            cpu,
            capacity: area.capacity(),
        };
        let range = area.part(cpu, part).ok_or(no_such_cpu)?;
        let access = if part.writable() {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        };
        map_pages(editor, range, Protection::kernel(access))?;
    }
    Ok(())
}

/// Maps each page of `range` to a frame of its own.
fn map_pages<F: EntryFormat, M: PhysMemory, S: FrameSource>(
    editor: &Editor<'_, F, M, S>,
    range: VirtRange,
    protection: Protection,
) -> Result<(), BuildError> {
    for offset in (0..range.size()).step_by(FRAME_SIZE as usize) {
        let page = VirtRange::try_new(range.start().checked_add(offset)?, FRAME_SIZE)?;
        let frame = editor
            .frames()
            .allocate()
            .ok_or(BuildError::OutOfFrames { page })?;
        if let Err(error) = editor.map(page, frame, protection, PageSize::Size4K) {
            editor.frames().release(frame);
            return Err(BuildError::Edit(error));
        }
    }
    Ok(())
}

/// Why an entry area was not built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// The area has no room for this CPU.
    NoSuchCpu {
        /// Which was asked for.
        cpu: u32,
        /// How many there is room for.
        capacity: u32,
    },
    /// No frame for a page.
    OutOfFrames {
        /// The page.
        page: VirtRange,
    },
    /// An edit was refused.
    Edit(EditError),
    /// The area ends inside a CPU.
    Address(AddressError),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CPU entry area: ")?;
        match self {
            Self::NoSuchCpu { cpu, capacity } => {
                write!(
                    f,
                    "CPU {cpu} was asked for, there is room for {capacity}; use fewer CPUs"
                )
            }
            Self::OutOfFrames { page } => {
                write!(
                    f,
                    "no frame left for {page}; give the machine more RAM below 4 GiB"
                )
            }
            Self::Edit(error) => error.fmt(f),
            Self::Address(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for BuildError {}

impl From<AddressError> for BuildError {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}
