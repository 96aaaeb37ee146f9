//! The second stage: Rust at the final address, on the kernel's own tables and the guarded boot stack.

use kspace_layout::{EntryPart, EntryStack, VirtRange};
use kspace_paging::Walker;

use super::handoff::{self, Handoff};
use crate::address_space::{self, Plan};
use crate::arch::x86_64::descriptors::{self, Place, StackTops};
use crate::arch::x86_64::leave::{self, Outcome};
use crate::arch::x86_64::memory::Window;
use crate::arch::x86_64::{clock, explain, fw_cfg, provoke};
use crate::{info, log, report};

/// Called once by [`switch`](super::switch), never to return.
pub extern "C" fn second_stage() -> ! {
    let Some(handoff) = handoff::taken() else {
        info!("kspace: the first stage left nothing");
        leave::leave(Outcome::Failure)
    };
    // SAFETY: the first stage built the direct map of this layout, and its tables are in CR3.
    let Some(memory) = (unsafe { Window::direct_map(&handoff.plan.layout) }) else {
        info!("kspace: the layout has no direct map");
        leave::leave(Outcome::Failure)
    };
    if load_descriptors(handoff, &memory).is_none() {
        info!("kspace: CPU 0's entry area is not mapped");
        leave::leave(Outcome::Failure)
    }
    explain::explain_with(handoff);
    if let Some(rate) = clock::measure() {
        log::set_ticks_per_second(rate);
        info!(
            "clock: time-stamp counter at {} MHz, measured against the 8254 timer",
            rate.get() / 1_000_000
        );
    }
    check_live_tables(handoff, &memory);
    let Plan {
        layout, memory_map, ..
    } = &handoff.plan;
    report::memory(memory_map, layout, &handoff.frames);
    report::layout(layout);
    info!(
        "kspace: {} ticks of the time-stamp counter from entry to the block above",
        clock::ticks_since_entry()
    );
    fw_cfg::publish_vmcoreinfo(layout, handoff.root);
    finish(handoff)
}

/// What is printed is what is mapped, or the boot ends here.
fn check_live_tables(handoff: &Handoff, memory: &Window) {
    let Plan { layout, limits, .. } = &handoff.plan;
    let walker = Walker::new(layout.mode(), handoff.root, memory).with_limits(*limits);
    match kspace::verify::verify(&walker, &handoff.plan.claims()) {
        Ok(verified) => info!("{verified}"),
        Err(difference) => {
            info!("kspace: stopped, the live page tables differ from the layout: {difference}");
            leave::leave(Outcome::Failure)
        }
    }
}

fn finish(handoff: &'static Handoff) -> ! {
    let Plan {
        layout, memory_map, ..
    } = &handoff.plan;
    if let Some(provocation) = handoff.command_line.provoke {
        provoke::provoke(provocation, layout, report::hole_in_ram(memory_map, layout));
        info!("kspace: provoked, but nothing faulted");
        leave::leave(Outcome::Failure)
    }
    if handoff.command_line.dmesg {
        log::replay();
    }
    if handoff.command_line.halt {
        info!("kspace: halted (halt)");
        leave::halt()
    }
    info!("kspace: done");
    leave::leave(Outcome::Success)
}

/// Fills and loads CPU 0's descriptor tables; `None` when its entry area is not mapped.
fn load_descriptors(handoff: &Handoff, memory: &Window) -> Option<()> {
    let Plan { layout, limits, .. } = &handoff.plan;
    let entry = layout.cpu_entry()?;
    let walker = Walker::new(layout.mode(), handoff.root, memory).with_limits(*limits);
    let place = |range: VirtRange| {
        let phys = walker.translate(range.start())?;
        let written_at = memory.pointer(phys, range.size())?.cast::<u64>();
        Some(Place {
            used_at: range.start(),
            written_at,
        })
    };
    let top = |part| entry.part(0, part).map(address_space::top_of);
    let stacks = StackTops {
        entry: top(EntryPart::EntryStack)?,
        double_fault: top(EntryPart::Stack(EntryStack::DoubleFault))?,
        nmi: top(EntryPart::Stack(EntryStack::Nmi))?,
        machine_check: top(EntryPart::Stack(EntryStack::MachineCheck))?,
    };
    let gdt = place(entry.part(0, EntryPart::Gdt)?)?;
    let tss = place(entry.part(0, EntryPart::Tss)?)?;
    let idt = place(entry.idt())?;
    // SAFETY: the first stage gave each part of the entry area a zeroed frame of its own, mapped there and in the direct map.
    unsafe { descriptors::load(gdt, tss, idt, stacks) };
    Some(())
}
