//! GDT, TSS and IDT of one CPU, and the stacks that faults switch to.
//!
//! All three lie in the CPU entry area, where the kernel sees them read-only; they are written through the direct map. The
//! stacks of #DF, NMI and #MC are entries of the TSS's interrupt stack table, so that these faults arrive on a good stack
//! whatever the interrupted one was.
//!
//! ```text
//!   GDT page                     IDT page (shared by all CPUs)
//!   00 null                      16 bytes a gate, 256 gates: one page exactly
//!   08 kernel code, 64-bit
//!   10 kernel data               TSS page
//!   18 TSS (16 bytes)            +04 RSP0, +24 IST1 #DF, +2c IST2 NMI, +34 IST3 #MC
//! ```

use core::arch::asm;

use kspace_layout::{EntryPart, EntryStack, VirtAddr, VirtRange};
use x86_64::instructions::tables::{lgdt, lidt, load_tss};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;

use super::boot::Handoff;
use super::idt::{self, InterruptStacks};
use crate::address_space;

/// Selector of the kernel's code segment.
pub const KERNEL_CODE: u16 = 0x08;
/// Selector of the kernel's data segment.
pub const KERNEL_DATA: u16 = 0x10;
const TASK_STATE: u16 = 0x18;

/// Place of an interrupt stack in the TSS, 1 to 7; 0 in a gate means "stay on the present stack" (Intel SDM vol. 3, 7.14.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum InterruptStack {
    /// For #DF.
    DoubleFault = 1,
    /// For NMI.
    Nmi = 2,
    /// For #MC.
    MachineCheck = 3,
}

/// The tops of the stacks that the TSS names.
#[derive(Clone, Copy, Debug)]
struct StackTops {
    /// Entry from user mode (RSP0).
    entry: VirtAddr,
    double_fault: VirtAddr,
    nmi: VirtAddr,
    machine_check: VirtAddr,
}

/// Where one table lies: the address by which the CPU uses it, and one by which it can be written.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// In the CPU entry area, read-only.
    used_at: VirtAddr,
    /// The same frame in the direct map.
    written_at: *mut u64,
}

/// Bytes of the entry code's GDT: null, code, data, 32-bit code.
const EARLY_GDT_BYTES: u16 = 4 * 8;
/// Bytes of a GDT: null, code, data, and two entries for the TSS.
const GDT_BYTES: u16 = 5 * 8;
/// Bytes of a TSS without an I/O permission map (Intel SDM vol. 3, figure 9-11).
const TSS_BYTES: u16 = 0x68;

/// Fills the GDT and the TSS of CPU `cpu`, and with CPU 0's the IDT; `None` when its entry area is not mapped.
///
/// Called once for each CPU, before it loads them.
pub fn fill(handoff: &Handoff, cpu: u32) -> Option<()> {
    let entry = handoff.plan.layout.cpu_entry()?;
    let top = |part| entry.part(cpu, part).map(address_space::top_of);
    let stacks = StackTops {
        entry: top(EntryPart::EntryStack)?,
        double_fault: top(EntryPart::Stack(EntryStack::DoubleFault))?,
        nmi: top(EntryPart::Stack(EntryStack::Nmi))?,
        machine_check: top(EntryPart::Stack(EntryStack::MachineCheck))?,
    };
    let gdt = place(handoff, entry.part(cpu, EntryPart::Gdt)?)?;
    let tss = place(handoff, entry.part(cpu, EntryPart::Tss)?)?;
    // SAFETY: each part of an entry area has a zeroed frame of its own, and no CPU uses this one's yet.
    unsafe {
        write_tss(tss.written_at, stacks);
        write_gdt(gdt.written_at, tss.used_at);
    }
    if cpu == 0 {
        let idt = place(handoff, entry.idt())?;
        // SAFETY: likewise.
        unsafe { idt::write(idt.written_at, InterruptStacks::FromTss) };
    }
    Some(())
}

/// Makes the CPU that runs here use the tables of CPU `cpu`; `None` when its entry area is not mapped.
///
/// # Safety
///
/// The tables must be filled, and no other CPU may use those of CPU `cpu`.
pub unsafe fn load(handoff: &Handoff, cpu: u32) -> Option<()> {
    let entry = handoff.plan.layout.cpu_entry()?;
    let gdt = place(handoff, entry.part(cpu, EntryPart::Gdt)?)?;
    let pointer = |base: u64, limit: u16| DescriptorTablePointer {
        limit,
        // SAFETY: `new_unsafe` only skips a check for 48 bits, which 57-bit addresses need not pass.
        base: unsafe { x86_64::VirtAddr::new_unsafe(base) },
    };
    // SAFETY: the tables are complete, and segments that are reloaded below stay what they were: flat.
    unsafe {
        // Loading the task register marks its descriptor busy, a write: so it is loaded through the writable alias.
        lgdt(&pointer(gdt.written_at as u64, GDT_BYTES - 1));
        reload_segments();
        load_tss(SegmentSelector(TASK_STATE));
        lgdt(&pointer(gdt.used_at.as_u64(), GDT_BYTES - 1));
        lidt(&pointer(entry.idt().start().as_u64(), 4095));
    }
    Some(())
}

/// Uses the GDT of the entry code at `gdt`. The segments stay what they are: it is the same table, found elsewhere.
///
/// # Safety
///
/// The entry code's GDT must be readable at `gdt` for as long as it is in use.
pub unsafe fn load_early(gdt: u64) {
    let pointer = DescriptorTablePointer {
        limit: EARLY_GDT_BYTES - 1,
        // SAFETY: `new_unsafe` only skips a check for 48 bits, which 57-bit addresses need not pass.
        base: unsafe { x86_64::VirtAddr::new_unsafe(gdt) },
    };
    // SAFETY: the caller's contract.
    unsafe { lgdt(&pointer) };
}

fn place(handoff: &Handoff, range: VirtRange) -> Option<Place> {
    let memory = handoff.memory()?;
    let phys = handoff.walker(&memory).translate(range.start())?;
    let written_at = memory.pointer(phys, range.size())?.cast::<u64>();
    Some(Place {
        used_at: range.start(),
        written_at,
    })
}

/// # Safety
///
/// `gdt` must be writable for [`GDT_BYTES`].
unsafe fn write_gdt(gdt: *mut u64, tss: VirtAddr) {
    let base = tss.as_u64();
    let limit = u64::from(TSS_BYTES - 1);
    // Intel SDM vol. 3, figure 9-4: base 15:0 at bit 16, base 23:16 at 32, type 9 (available TSS) and present at 40,
    // base 31:24 at 56, base 63:32 in the second half.
    let low = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    // The accessed bits are set from the start: the CPU would otherwise write to a table that is read-only.
    let entries = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        low,
        base >> 32,
    ];
    for (index, entry) in entries.into_iter().enumerate() {
        // SAFETY: five entries are within the page.
        unsafe { gdt.add(index).write(entry) };
    }
}

/// # Safety
///
/// `tss` must be writable for [`TSS_BYTES`].
unsafe fn write_tss(tss: *mut u64, stacks: StackTops) {
    let bytes = tss.cast::<u8>();
    let interrupt_stack = |stack: InterruptStack| 0x24 + 8 * (stack as usize - 1);
    let fields = [
        (0x04, stacks.entry),
        (
            interrupt_stack(InterruptStack::DoubleFault),
            stacks.double_fault,
        ),
        (interrupt_stack(InterruptStack::Nmi), stacks.nmi),
        (
            interrupt_stack(InterruptStack::MachineCheck),
            stacks.machine_check,
        ),
    ];
    for (offset, value) in fields {
        // SAFETY: within the TSS; its 64-bit fields are only 4-byte aligned.
        unsafe {
            bytes
                .add(offset)
                .cast::<u64>()
                .write_unaligned(value.as_u64())
        };
    }
    // The I/O map lies past the limit: there is none.
    // SAFETY: within the TSS.
    unsafe { bytes.add(0x66).cast::<u16>().write_unaligned(TSS_BYTES) };
}

/// # Safety
///
/// The GDT in use must have the kernel's segments at [`KERNEL_CODE`] and [`KERNEL_DATA`].
unsafe fn reload_segments() {
    // SAFETY: the far return pops the address of the next instruction and the selector; data segments are flat in 64-bit mode.
    unsafe {
        asm!(
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ds, {data:x}",
            "mov es, {data:x}",
            "mov ss, {data:x}",
            code = const KERNEL_CODE,
            data = in(reg) u32::from(KERNEL_DATA),
            scratch = out(reg) _,
        );
    }
}
