//! Says what a fault means, in the layout's own words: what was accessed, what lies there, and which code did it.

use kspace::fault::{self, PageFault, PageTables, Spot};
use kspace_layout::{PhysAddr, VirtAddr};
use spin::Once;
use x86_64::registers::control::Cr3;

use super::boot::Handoff;
use super::traps::{REGISTER_NAMES, TrapFrame};
use super::vector;
use super::{fixmap, stacks};
use crate::{info, permissions, vmalloc};

static KNOWN: Once<&'static Handoff> = Once::new();

/// From now on faults are explained with this layout; before, only their numbers are known.
pub fn explain_with(handoff: &'static Handoff) {
    KNOWN.call_once(|| handoff);
}

/// Logs what `frame` means. `address` is CR2, which counts only for page faults and what follows from them.
pub fn explain(frame: &TrapFrame, address: u64) {
    let Some(handoff) = KNOWN.get() else {
        info!(
            "fault: {} during early boot, address {address:016x}, instruction {:016x}",
            name(frame.vector),
            frame.instruction
        );
        return;
    };
    match frame.vector {
        vector::PAGE_FAULT => page_fault(handoff, address, frame.error_code as u32),
        vector::DOUBLE_FAULT => {
            info!(
                "double fault: an exception could not be delivered on the stack at {:016x}",
                frame.stack
            );
            // What could not be delivered was, if anything, a push: a write.
            page_fault(handoff, address, kspace_paging::access::error_code::WRITE);
        }
        vector::GENERAL_PROTECTION => general_protection(handoff, frame),
        other => info!("fault: {}, error code {:#x}", name(other), frame.error_code),
    }
    culprit(handoff, frame.instruction);
}

fn page_fault(handoff: &Handoff, address: u64, error_code: u32) {
    let layout = &handoff.plan.layout;
    let map = &handoff.plan.memory_map;
    let Ok(address) = VirtAddr::try_new(address) else {
        info!("fault: {}", fault::explain_not_canonical(layout, address));
        return;
    };
    let page_fault = PageFault {
        address,
        error_code,
    };
    let memory = handoff.memory();
    let walk = memory
        .as_ref()
        .map(|memory| handoff.walker_from(loaded_root(), memory).walk(address));
    let explanation = fault::explain(layout, map, page_fault, walk.as_ref());
    let slot = fixmap::slots().and_then(|slots| slots.spot(address));
    let explanation = explanation
        .with_area(vmalloc::spot(address))
        .with_slot(slot)
        .with_change(permissions::changed(address));
    info!("fault: {explanation}");
    if let Some(cpu) = stacks::owner(address) {
        info!("  the stack is CPU {cpu}'s");
    }
    if let Some(purpose) = explanation.purpose() {
        info!("  what that area is for: {purpose}");
    }
    if let Some(walk) = &walk {
        info!(
            "  {}",
            PageTables {
                walk,
                intent: Some(page_fault.intent())
            }
        );
    }
}

/// The tables that this CPU has loaded: a user space's, or the kernel's own.
fn loaded_root() -> PhysAddr {
    PhysAddr::new(Cr3::read_raw().0.start_address().as_u64())
}

/// The CPU reports no address with #GP. A register that holds an address which is not canonical is the likely one.
fn general_protection(handoff: &Handoff, frame: &TrapFrame) {
    let layout = &handoff.plan.layout;
    let shift = 64 - layout.mode().virt_bits();
    let outside = |value: u64| ((value << shift) as i64 >> shift) as u64 != value;
    let suspect = REGISTER_NAMES
        .iter()
        .zip(frame.registers)
        .find(|(_, value)| outside(*value));
    match suspect {
        Some((register, value)) if frame.error_code == 0 => {
            info!(
                "fault: {} (in {register})",
                fault::explain_not_canonical(layout, value)
            );
        }
        _ => info!(
            "fault: {}, error code {:#x}",
            name(vector::GENERAL_PROTECTION),
            frame.error_code
        ),
    }
}

fn culprit(handoff: &Handoff, instruction: u64) {
    let layout = &handoff.plan.layout;
    match VirtAddr::try_new(instruction) {
        Ok(address) => {
            let spot = Spot::of(layout, &handoff.plan.memory_map, address);
            info!("  by the instruction at {address}: {spot}");
        }
        Err(error) => info!("  by an instruction at no address: {error}"),
    }
}

/// What lies at `address`; `None` before the layout is known.
pub fn spot(address: VirtAddr) -> Option<Spot> {
    let handoff = KNOWN.get()?;
    Some(Spot::of(
        &handoff.plan.layout,
        &handoff.plan.memory_map,
        address,
    ))
}

/// Reads words upwards from `stack` as long as they are mapped, and returns how many. Goes through the page tables, so that a
/// wild stack pointer cannot fault.
pub fn read_stack(stack: u64, words: &mut [u64]) -> usize {
    let Some(handoff) = KNOWN.get() else { return 0 };
    let Some(memory) = handoff.memory() else {
        return 0;
    };
    let walker = handoff.walker(&memory);
    let mut count = 0;
    for (index, word) in words.iter_mut().enumerate() {
        let address = stack.wrapping_add(8 * index as u64);
        let Some(phys) = VirtAddr::try_new(address & !7)
            .ok()
            .and_then(|address| walker.translate(address))
        else {
            break;
        };
        let Some(pointer) = memory.pointer(phys, 8) else {
            break;
        };
        // SAFETY: the walk found RAM of the kernel there, and the window shows it.
        *word = unsafe { pointer.cast::<u64>().read_volatile() };
        count = index + 1;
    }
    count
}

/// The name of an exception (Intel SDM vol. 3, table 7-1).
fn name(vector: u64) -> &'static str {
    const NAMES: [&str; 22] = [
        "#DE divide error",
        "#DB debug exception",
        "NMI",
        "#BP breakpoint",
        "#OF overflow",
        "#BR bound range exceeded",
        "#UD invalid opcode",
        "#NM no math coprocessor",
        "#DF double fault",
        "coprocessor segment overrun",
        "#TS invalid TSS",
        "#NP segment not present",
        "#SS stack-segment fault",
        "#GP general protection",
        "#PF page fault",
        "a reserved vector",
        "#MF math fault",
        "#AC alignment check",
        "#MC machine check",
        "#XM SIMD exception",
        "#VE virtualization exception",
        "#CP control protection",
    ];
    usize::try_from(vector)
        .ok()
        .and_then(|index| NAMES.get(index))
        .unwrap_or(&"an exception without a name")
}
