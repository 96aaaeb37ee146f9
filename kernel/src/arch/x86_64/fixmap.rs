//! The slots of the kernel's fixmap ([`kspace::fixmap`]).

use core::fmt;

use kspace::TableFrames;
use kspace::fixmap::{SlotError, Slots};
use kspace_layout::FixmapSlot;
use kspace_paging::{Access, CacheType, EditError, Editor, RootError};
use spin::Once;

use super::PageFormat;
use super::boot::Handoff;
use super::memory::Window;

static SLOTS: Once<Slots<'static, PageFormat>> = Once::new();

/// The slots, once they are up.
pub fn slots() -> Option<&'static Slots<'static, PageFormat>> {
    SLOTS.get()
}

/// Brings the slots up, and sets that of the local APIC. Once, on the boot CPU, before it uses its local APIC.
///
/// # Errors
///
/// [`BringUpError`].
#[inline(never)] // What edits tables takes much stack, which its caller keeps for good.
pub fn bring_up(handoff: &'static Handoff, memory: Window) -> Result<(), BringUpError> {
    static MEMORY: Once<Window> = Once::new();
    static FRAMES: Once<TableFrames<'static, Window>> = Once::new();
    let memory = MEMORY.call_once(|| memory);
    // SAFETY: what the first stage has left over; nothing is taken, as it has made the fixmap's tables.
    let frames = FRAMES.call_once(|| unsafe { TableFrames::new(&handoff.frames, memory) });
    let (mode, limits) = (handoff.plan.layout.mode(), handoff.plan.limits);
    // SAFETY: the kernel's own tables, in which only the slots edit the fixmap.
    let editor =
        unsafe { Editor::<PageFormat, _, _>::new(mode, handoff.root, limits, memory, frames)? };
    // SAFETY: there is one root; the first stage has left the fixmap empty.
    let slots = unsafe { Slots::new(&editor, &handoff.plan.memory_map)? };
    let slots = match handoff.plan.layout.image() {
        Some(image) => slots.with_image(image),
        None => slots,
    };
    let slots = SLOTS.call_once(|| slots);
    if let Some(registers) = handoff.plan.local_apic {
        let (access, cache) = (Access::ReadWrite, CacheType::Uncached);
        slots.set(FixmapSlot::LocalApic, registers, access, cache)?;
    }
    Ok(())
}

/// Why there is no fixmap.
#[derive(Debug)]
pub enum BringUpError {
    /// The kernel's tables cannot be edited.
    Root(RootError),
    /// The fixmap's tables are not as the first stage has made them.
    Edit(EditError),
    /// The local APIC's slot was refused.
    Slot(SlotError),
}

impl fmt::Display for BringUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(error) => error.fmt(f),
            Self::Edit(error) => error.fmt(f),
            Self::Slot(error) => error.fmt(f),
        }
    }
}

impl From<RootError> for BringUpError {
    fn from(error: RootError) -> Self {
        Self::Root(error)
    }
}

impl From<EditError> for BringUpError {
    fn from(error: EditError) -> Self {
        Self::Edit(error)
    }
}

impl From<SlotError> for BringUpError {
    fn from(error: SlotError) -> Self {
        Self::Slot(error)
    }
}
