//! The I/O APICs: where devices' interrupts come in. No device of this kernel interrupts yet, so all their inputs are masked, whatever
//! firmware or loader has left there.
//!
//! Each shows two registers in a page of its own, a slot of the fixmap: the number of an inner register is written to one, its value
//! read or written in the other (Intel 82093AA datasheet, section 3.1).

use kspace::fixmap::SlotError;
use kspace_layout::{FixmapSlot, PhysAddr, VirtAddr};
use kspace_paging::{Access, CacheType};

use super::fixmap;
use crate::acpi::{IoApic, Processors};
use crate::info;
use crate::permissions;

/// Offsets in the page.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;

/// Inner registers.
const VERSION: u32 = 0x01;
const FIRST_REDIRECTION: u32 = 0x10;

const MASKED: u32 = 1 << 16;

/// Sets the slot of each I/O APIC, and masks all of its inputs.
pub fn mask_all(processors: &Processors) {
    for (index, io_apic) in (0..).zip(processors.io_apics()) {
        match open(index, io_apic) {
            Ok(registers) => {
                if let Err(error) = permissions::uncached_slot(registers.phys) {
                    info!("IOAPIC[{index}]: {error}");
                }
                let version = registers.read(VERSION);
                let last = version >> 16 & 0xff;
                for input in 0..=last {
                    let low = FIRST_REDIRECTION + 2 * input;
                    registers.write(low, registers.read(low) | MASKED);
                }
                // In the words of Linux (`mp_register_ioapic`, arch/x86/kernel/apic/io_apic.c).
                let IoApic {
                    id, first_input, ..
                } = io_apic;
                info!(
                    "IOAPIC[{index}]: apic_id {id}, version {}, address {:#x}, GSI {first_input}-{}",
                    version & 0xff,
                    io_apic.registers,
                    first_input + last
                );
            }
            Err(error) => info!("IOAPIC[{index}]: {error}"),
        }
    }
    if processors.io_apics_left_out > 0 {
        let more = processors.io_apics_left_out;
        info!("IOAPIC: {more} more are not used");
    }
}

fn open(index: u8, io_apic: &IoApic) -> Result<Registers, SlotError> {
    let slot = FixmapSlot::IoApic(index);
    let registers = PhysAddr::new(u64::from(io_apic.registers));
    let slots = fixmap::slots().ok_or(SlotError::NoSuchSlot(slot))?;
    let (access, cache) = (Access::ReadWrite, CacheType::Uncached);
    let page = registers.align_down(kspace_layout::FRAME_SIZE);
    let shown = slots.set(slot, page, access, cache)?;
    let offset = registers.as_u64() - page.as_u64();
    Ok(Registers {
        phys: page,
        at: VirtAddr::new(shown.as_u64() + offset),
    })
}

/// One I/O APIC's registers. Only the boot CPU uses them, before there are others.
struct Registers {
    /// Their page.
    phys: PhysAddr,
    at: VirtAddr,
}

impl Registers {
    fn pointer(&self, offset: u64) -> *mut u32 {
        (self.at.as_u64() + offset) as *mut u32
    }

    fn read(&self, register: u32) -> u32 {
        // SAFETY: the slot shows this I/O APIC's page, uncached, for good.
        unsafe {
            self.pointer(SELECT).write_volatile(register);
            self.pointer(WINDOW).read_volatile()
        }
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: as above; a masked input delivers nothing, whatever else its register says.
        unsafe {
            self.pointer(SELECT).write_volatile(register);
            self.pointer(WINDOW).write_volatile(value);
        }
    }
}
