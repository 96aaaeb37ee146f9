//! The stacks that CPUs run on: areas, as Linux has with `CONFIG_VMAP_STACK`, so each has a guard page below and a row of its own in
//! `vmallocinfo`.
//!
//! ```text
//!   boot CPU     entry code's stack, in the image --> boot stack, in its entry area --> stack area, once there are areas
//!   other CPUs                                            from the trampoline on --> stack area
//! ```
//!
//! Exceptions that need a good stack whatever the interrupted one was have those of the entry area still: `descriptors`.

use core::arch::asm;
use core::fmt;

use kspace::areas::KernelStack;
use kspace::vmalloc::AreaError;
use kspace_frames::zone::NodeId;
use kspace_layout::{FRAME_SIZE, VirtAddr};
use spin::Once;

use crate::acpi::MAX_CPUS;
use crate::vmalloc::{self, ThisKernel};

type Stack = KernelStack<'static, 'static, ThisKernel, MAX_CPUS>;

/// Each CPU's. They stay, as the CPUs do.
static STACKS: [Once<Stack>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

/// Makes the stack of CPU `cpu` in memory near to it, and returns where it begins: its end.
///
/// # Errors
///
/// [`StackError`].
#[track_caller]
pub fn make(cpu: u32, near: NodeId) -> Result<VirtAddr, StackError> {
    let areas = vmalloc::get().ok_or(StackError::NoAreas)?;
    let place = STACKS
        .get(cpu as usize)
        .ok_or(StackError::NoSuchCpu { cpu })?;
    // Asked for here and not in a closure, so that the area's row says who called.
    let stack = Stack::near(areas, Stack::LINUX_BYTES, near).map_err(StackError::Area)?;
    Ok(place.call_once(|| stack).top())
}

/// Whose stack has this address, or ends just above this page.
pub fn owner(address: VirtAddr) -> Option<u32> {
    let of = |stack: &Stack| {
        let guard = stack.bottom().as_u64() - FRAME_SIZE;
        (guard..stack.top().as_u64()).contains(&address.as_u64())
    };
    let cpu = STACKS
        .iter()
        .position(|place| place.get().is_some_and(of))?;
    u32::try_from(cpu).ok()
}

/// Goes on in `target` on the stack that begins at `top`. What is on the present one is left for good.
///
/// # Safety
///
/// The page below `top` is mapped and the stack is this CPU's alone.
pub unsafe fn go_on(top: VirtAddr, target: extern "C" fn() -> !) -> ! {
    // SAFETY: the caller's contract. The call leaves the stack as every function expects it: a word below a multiple of 16.
    unsafe {
        asm!(
            "mov rsp, {top}",
            "xor ebp, ebp",
            "call {target}",
            "ud2",
            top = in(reg) top.as_u64(),
            target = in(reg) target,
            options(noreturn),
        )
    }
}

/// Why a CPU has no stack.
#[derive(Clone, Copy, Debug)]
pub enum StackError {
    /// There are no areas yet.
    NoAreas,
    /// This kernel keeps no such CPU.
    NoSuchCpu {
        /// Which one.
        cpu: u32,
    },
    /// The area was refused.
    Area(AreaError),
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAreas => f.write_str("stack: there are no areas yet"),
            Self::NoSuchCpu { cpu } => {
                write!(f, "stack: there is no CPU {cpu}, only {MAX_CPUS} are kept")
            }
            Self::Area(error) => write!(f, "stack: {error}"),
        }
    }
}
