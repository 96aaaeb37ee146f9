//! The kernel's end of [`kspace::text_patch`]: how code is reached, and how a CPU goes on after a breakpoint.

use core::fmt;

use kspace::platform::TextAccess;
use kspace::text_patch::{Patcher, PatcherError, Resume};
use kspace_layout::{PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Editor, RootError};
use raw_cpuid::{CpuId, Hypervisor};
use spin::Once;
use x86_64::registers::control::Cr3;

use super::PageFormat;
use super::boot::Handoff;
use super::cpu;
use super::memory::Window;
use super::shootdown::{self, Machine};
use super::traps::TrapFrame;
use super::yield_points::YieldPoints;
use crate::acpi::MAX_CPUS;
use crate::memory::{Memory, ZoneTables};

/// What changes the kernel's code.
pub type TextPatcher = Patcher<'static, PageFormat, Window, Machine, MAX_CPUS, YieldPoints>;

/// Where code is seen writable, in a root of its own: in the user half, where that root has nothing else.
const WINDOW: VirtAddr = VirtAddr::new(0x6000_0000_0000);

static PATCHER: Once<TextPatcher> = Once::new();

/// The patcher, once it is ready.
pub fn get() -> Option<&'static TextPatcher> {
    PATCHER.get()
}

/// Makes the patcher ready, unless it is.
///
/// # Errors
///
/// [`BringUpError`].
#[inline(never)]
pub fn bring_up(
    handoff: &'static Handoff,
    memory: &'static Memory,
) -> Result<&'static TextPatcher, BringUpError> {
    static TABLES: Once<ZoneTables> = Once::new();
    let tables = TABLES.call_once(|| memory.tables());
    let (mode, limits) = (handoff.plan.layout.mode(), handoff.plan.limits);
    // SAFETY: the kernel's own tables; the patcher only reads them.
    let kernel = unsafe {
        Editor::<PageFormat, _, _>::new(mode, handoff.root, limits, memory.window(), tables)?
    };
    let shared = mode
        .upper_half_start()
        .and_then(|start| VirtRange::try_from_bounds(start, VirtAddr::LAST).ok())
        .ok_or(BringUpError::NoUpperHalf)?;
    // SAFETY: all CPUs have joined this shootdown; gate 3 turns interrupts off, and its handler is `step_over`.
    let patcher = unsafe { Patcher::new(&kernel, shared, WINDOW, &shootdown::KERNEL)? };
    let hypervisor = CpuId::new().get_hypervisor_info();
    let translated = hypervisor.is_some_and(|info| info.identify() == Hypervisor::QEMU);
    let patcher = if translated {
        patcher.storing_again()
    } else {
        patcher
    };
    Ok(PATCHER.call_once(|| patcher))
}

/// Makes `frame`, of a breakpoint, go on where the instruction leads that the breakpoint stands in for; false when it stands in for none.
pub fn step_over(frame: &mut TrapFrame) -> bool {
    // The breakpoint instruction has one byte, and is behind the CPU.
    let at = VirtAddr::try_new(frame.instruction.wrapping_sub(1));
    let resume = at
        .ok()
        .and_then(|at| PATCHER.get().and_then(|patcher| patcher.breakpoint(at)));
    match resume {
        None => return false,
        Some(Resume::At(target)) => frame.instruction = target.as_u64(),
        Some(Resume::Call { target, back }) => {
            frame.stack -= 8;
            // SAFETY: below what was interrupted on the kernel's own stack; the stub has left room there (see `idt`).
            unsafe { (frame.stack as *mut u64).write(back.as_u64()) };
            frame.instruction = target.as_u64();
        }
    }
    true
}

// SAFETY: one CR3 is loaded and then the former; the bytes are read and written as told.
unsafe impl TextAccess for Machine {
    unsafe fn with_root(&self, root: PhysAddr, body: impl FnOnce()) {
        let (before, flags) = Cr3::read_raw();
        // SAFETY: the caller's contract.
        unsafe { cpu::load_root(root) };
        body();
        // SAFETY: what was loaded before. Without PCIDs this drops all that the CPU has kept of `root`.
        unsafe { Cr3::write_raw(before, flags) };
    }

    unsafe fn read_text(&self, from: VirtAddr, into: &mut [u8]) {
        for (index, byte) in into.iter_mut().enumerate() {
            // SAFETY: the caller's contract.
            *byte = unsafe { (from.as_u64() as *const u8).add(index).read_volatile() };
        }
    }

    unsafe fn write_text(&self, to: VirtAddr, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: the caller's contract.
            unsafe { (to.as_u64() as *mut u8).add(index).write_volatile(*byte) };
        }
    }
}

/// Why code cannot be changed.
#[derive(Debug)]
pub enum BringUpError {
    /// The paging mode has no upper half.
    NoUpperHalf,
    /// The kernel's tables cannot be read.
    Root(RootError),
    /// There is no patcher.
    Patcher(PatcherError),
}

impl fmt::Display for BringUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUpperHalf => f.write_str("text patch: the paging mode has no upper half"),
            Self::Root(error) => error.fmt(f),
            Self::Patcher(error) => error.fmt(f),
        }
    }
}

impl From<RootError> for BringUpError {
    fn from(error: RootError) -> Self {
        Self::Root(error)
    }
}

impl From<PatcherError> for BringUpError {
    fn from(error: PatcherError) -> Self {
        Self::Patcher(error)
    }
}
