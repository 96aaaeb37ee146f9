//! A user space on this CPU: its root loaded, and its pages touched by the kernel.

use core::arch::asm;

use kspace::shootdown::{Scope, Shootdown};
use kspace::user::UserSpace;
use kspace::vmalloc::Flusher;
use kspace_layout::{VirtAddr, VirtRange};
use x86_64::instructions::interrupts;
use x86_64::registers::control::{Cr3, Cr4, Cr4Flags};
use x86_64::structures::paging::PhysFrame;

use super::shootdown::Machine;
use super::yield_points::YieldPoints;
use crate::acpi::MAX_CPUS;
use crate::vmalloc::ThisKernel;

/// The shootdown of the one user space that is there at a time. Its CPU alone loads the root, so no interrupt serves it.
pub static USER_SHOOTDOWN: Flusher<ThisKernel, MAX_CPUS> =
    Shootdown::probed(Machine, YieldPoints).with_scope(Scope::Own);

/// Linux's user half of 4-level paging: without the first 64 KiB (`mmap_min_addr`) and the last page (`TASK_SIZE_MAX`).
pub const USER_PART: VirtRange =
    VirtRange::new(VirtAddr::new(0x1_0000), 0x7fff_ffff_f000 - 0x1_0000);

/// Runs `body` with the tables of `space` on this CPU. No other CPU runs it meanwhile.
pub fn in_user_space<R>(
    space: &UserSpace<'_, '_, ThisKernel, MAX_CPUS>,
    body: impl FnOnce() -> R,
) -> R {
    let (kernel, flags) = Cr3::read_raw();
    let root = x86_64::PhysAddr::new(space.root().as_u64());
    interrupts::without_interrupts(|| {
        space.shootdown().switch_in(|_| {
            // SAFETY: the kernel's part is the same there, and the space lives as long as `body` runs.
            unsafe { Cr3::write_raw(PhysFrame::containing_address(root), flags) };
        });
    });
    let result = body();
    interrupts::without_interrupts(|| {
        // SAFETY: the kernel's own tables, from which it came.
        unsafe { Cr3::write_raw(kernel, flags) };
        space.shootdown().switch_out(false);
    });
    result
}

/// Reads eight bytes of user mode's.
///
/// # Safety
///
/// They are mapped in the space that this CPU runs, or the fault is what is wanted.
pub unsafe fn read_user(address: VirtAddr) -> u64 {
    let value: u64;
    let open = open_user_pages();
    // SAFETY: the caller's promise. It is assembly so that the compiler cannot know what is there.
    unsafe {
        asm!("mov {value}, [{address}]", address = in(reg) address.as_u64(), value = out(reg) value, options(readonly, nostack));
    }
    close_user_pages(open);
    value
}

/// Writes eight bytes of user mode's.
///
/// # Safety
///
/// As [`read_user`], and nobody is broken by what is written.
pub unsafe fn write_user(address: VirtAddr, value: u64) {
    let open = open_user_pages();
    // SAFETY: the caller's promise.
    unsafe {
        asm!("mov [{address}], {value}", address = in(reg) address.as_u64(), value = in(reg) value, options(nostack));
    }
    close_user_pages(open);
}

/// Lets the kernel touch user pages, where SMAP forbids it; whether it does.
fn open_user_pages() -> bool {
    let forbidden = Cr4::read().contains(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION);
    if forbidden {
        // SAFETY: a CPU with SMAP has the instruction, which changes one flag.
        unsafe { asm!("stac", options(nostack)) };
    }
    forbidden
}

fn close_user_pages(open: bool) {
    if open {
        // SAFETY: as above.
        unsafe { asm!("clac", options(nostack)) };
    }
}
