//! QEMU's fw_cfg device at its ports, and the one thing it is used for: telling the host of the VMCOREINFO note.
//!
//! Ports from QEMU's `docs/specs/fw_cfg.rst`, "x86, x86_64". They are touched only on a machine whose CPU says that it is
//! virtual: on a real one, something else may be there.

use core::arch::asm;
use core::sync::atomic::{Ordering, fence};

use kspace_layout::{Layout, PhysAddr};
use raw_cpuid::CpuId;
use x86_64::instructions::port::Port;

use crate::fw_cfg::Registers;
use crate::info;
use crate::vmcoreinfo::{self, Shared};

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
/// The request's address, upper half, then lower half: the second write starts it. Big endian.
const DMA_HIGH: u16 = 0x514;
const DMA_LOW: u16 = 0x518;

/// In the image, so it stays where it is for as long as the kernel runs.
static SHARED: Shared = Shared::new();

/// Leaves the host a note with what reading this kernel's memory takes; `root` is the top page table. Says so, or what kept a
/// host that asks from getting it; a machine that does not ask hears nothing.
pub fn publish_vmcoreinfo(layout: &Layout, root: PhysAddr) {
    let is_virtual = CpuId::new()
        .get_feature_info()
        .is_some_and(|leaf| leaf.has_hypervisor());
    if !is_virtual {
        return;
    }
    // SAFETY: the shared memory is part of the image, which the layout translates as it is mapped.
    let published = unsafe {
        vmcoreinfo::publish(Ports, layout, root, &SHARED, |virt| {
            layout.virt_to_phys(virt).ok()
        })
    };
    match published {
        Ok(None) => {}
        Ok(Some(note)) => info!(
            "vmcoreinfo: {} bytes at {} tell dumps how to read this kernel's memory",
            note.size, note.at
        ),
        Err(problem) => info!("{problem}"),
    }
}

struct Ports;

impl Registers for Ports {
    fn select(&mut self, item: u16) {
        // SAFETY: on a virtual machine these ports are fw_cfg's or nobody's; selecting has no effect beyond the device.
        unsafe { Port::new(SELECTOR).write(item) };
    }

    fn read(&mut self, buffer: &mut [u8]) {
        // One string instruction, because it costs a hypervisor one exit and not one for each byte.
        // SAFETY: as for `select`, and the instruction stores exactly the buffer's length of bytes in it; the ABI keeps the
        // direction flag clear.
        unsafe {
            asm!(
                "rep insb",
                in("dx") DATA,
                inout("rdi") buffer.as_mut_ptr() => _,
                inout("rcx") buffer.len() => _,
                options(nostack, preserves_flags),
            );
        }
    }

    fn start_dma(&mut self, request: PhysAddr) {
        let address = request.as_u64();
        // The port instructions do not claim to touch memory; the request must be in it before they run.
        fence(Ordering::SeqCst);
        // SAFETY: the request is one for this device, which alone is behind the ports.
        unsafe {
            Port::new(DMA_HIGH).write(((address >> 32) as u32).to_be());
            Port::new(DMA_LOW).write((address as u32).to_be());
        }
        fence(Ordering::SeqCst);
    }
}
