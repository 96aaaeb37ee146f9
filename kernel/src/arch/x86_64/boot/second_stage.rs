//! The second stage: Rust at the final address, on the kernel's own tables and the guarded boot stack, until there are areas and so a
//! stack like every CPU's.

use super::handoff::{self, Handoff};
use super::present_address;
use crate::address_space::Plan;
use crate::arch::x86_64::leave::{self, Outcome};
use crate::arch::x86_64::memory::Window;
use crate::arch::x86_64::{
    clock, descriptors, explain, fixmap, fw_cfg, idt, measure, per_cpu, provoke, smp, stacks,
    startup, stress, test_text_patch,
};
use crate::memory::{self, Site};
use crate::memory_report::{self, Sight};
use crate::vmalloc::{self, workloads};
use crate::{info, log, permissions, report};
use kspace::verify::{ChangedPages, Claims, OnDemand};

/// Called once by [`switch`](super::switch), never to return.
pub extern "C" fn second_stage() -> ! {
    // The first stage's GDT and IDT are in use at the load address, where nothing is mapped any more. Until CPU 0's own tables are
    // filled, a fault finds them here.
    let early_gdt = present_address!("early_gdt");
    // SAFETY: the image is mapped at its final address, the only one that counts from here on, and so is the early GDT in it.
    unsafe {
        descriptors::load_early(early_gdt);
        idt::load_early();
    }
    let Some(handoff) = handoff::taken() else {
        info!("kspace: the first stage left nothing");
        leave::leave(Outcome::Failure)
    };
    let Some(memory) = handoff.memory() else {
        info!("kspace: the layout has no direct map");
        leave::leave(Outcome::Failure)
    };
    let own_id = handoff.features.initial_apic_id;
    per_cpu::set_current(0, own_id).set_home(handoff.topology.node_of_apic(own_id));
    // SAFETY: filled just before, and this is the only CPU.
    let loaded =
        descriptors::fill(handoff, 0).and_then(|()| unsafe { descriptors::load(handoff, 0) });
    if loaded.is_none() {
        info!("kspace: CPU 0's entry area is not mapped");
        leave::leave(Outcome::Failure)
    }
    explain::explain_with(handoff);
    if let Err(error) = fixmap::bring_up(handoff, memory) {
        info!("kspace: cannot boot: {error}");
        leave::leave(Outcome::Failure)
    }
    if let Some(rate) = clock::measure() {
        log::set_ticks_per_second(rate);
        info!(
            "clock: time-stamp counter at {} MHz, measured against the 8254 timer",
            rate.get() / 1_000_000
        );
    }
    let ram = bring_up_memory(handoff, memory);
    memory_report::order(ram.zones(), &handoff.topology);
    bring_up_areas(handoff, ram);
    match stacks::make(0, per_cpu::current().home()) {
        // SAFETY: made just now for this CPU, and nothing on the present stack is needed any more.
        Ok(top) => unsafe { stacks::go_on(top, on_stack_area) },
        Err(error) => {
            info!("kspace: cannot boot: {error}");
            leave::leave(Outcome::Failure)
        }
    }
}

/// The rest, when the boot CPU has a stack like every other's.
extern "C" fn on_stack_area() -> ! {
    let (Some(handoff), Some(ram)) = (handoff::taken(), memory::get()) else {
        info!("kspace: the first stage left nothing");
        leave::leave(Outcome::Failure)
    };
    let Plan {
        layout, memory_map, ..
    } = &handoff.plan;
    let memory = *ram.window();
    check_live_tables(handoff, &memory);
    memory::available(ram, memory_map, layout);
    report::layout(layout);
    info!(
        "kspace: {} ticks of the time-stamp counter from entry to the block above",
        clock::ticks_since_entry()
    );
    fw_cfg::publish_vmcoreinfo(layout, handoff.root);
    smp::start(handoff, &memory);
    if startup::cpus_with_entry_area() > 1 {
        check_live_tables(handoff, &memory);
    }
    if handoff.topology.nodes().count() > 1 {
        memory_report::near(&handoff.ground.nodes, &handoff.ground.limits);
    }
    finish(handoff)
}

/// Hands the frames that boot has left over to zones, or ends the boot.
#[inline(never)]
fn bring_up_memory(handoff: &'static Handoff, window: Window) -> &'static memory::Memory {
    let site = Site {
        ground: &handoff.ground,
        frames: &handoff.frames,
        plan: &handoff.plan,
        root: handoff.root,
        window,
        distance: &|from, to| handoff.topology.distance(from, to),
        min_free_kbytes: handoff.command_line.min_free_kbytes,
    };
    // SAFETY: the map is the firmware's word; all that the first stage used is reserved in it or was taken from the frames.
    match unsafe { memory::bring_up(&site) } {
        Ok(memory) => memory,
        Err(error) => {
            info!("kspace: cannot boot: {error}");
            leave::leave(Outcome::Failure)
        }
    }
}

/// Has areas mapped on demand from here on, or ends the boot.
#[inline(never)]
fn bring_up_areas(handoff: &'static Handoff, ram: &'static memory::Memory) {
    let cpus = handoff.processors.apic_ids().len().max(1);
    let (plan, nodes) = (&handoff.plan, &handoff.ground.nodes);
    let words = &handoff.command_line;
    // SAFETY: the other CPUs have not been started, and the first stage made these tables and maps nothing in the area.
    let areas = unsafe { vmalloc::bring_up(plan, handoff.root, ram, nodes, cpus, words) };
    let areas = match areas {
        Ok(areas) => areas,
        Err(error) => {
            info!("kspace: cannot boot: {error}");
            leave::leave(Outcome::Failure)
        }
    };
    // SAFETY: the first stage built direct map and image by this plan; what is changed of them from now on is changed there.
    if let Err(error) = unsafe { permissions::bring_up(plan, areas) } {
        info!("kspace: cannot boot: {error}");
        leave::leave(Outcome::Failure)
    }
}

/// What is printed is what is mapped, or the boot ends here.
///
/// Never a part of its caller: the plan of the books takes 2 KiB of stack, and the check has 5 KiB itself.
#[inline(never)]
fn check_live_tables(handoff: &Handoff, memory: &Window) {
    let vmemmap = memory::get().map(|_| handoff.ground.vmemmap_plan());
    let plan = &handoff.plan;
    let areas = vmalloc::get().map(|areas| areas as &dyn OnDemand);
    let Some(fixed) = fixmap::slots() else { return };
    let claims = Claims {
        changes: permissions::get().map(|rights| rights as &dyn ChangedPages),
        ..plan.claims(startup::cpus_with_entry_area(), fixed, vmemmap, areas)
    };
    match kspace::verify::verify(&handoff.walker(memory), &claims) {
        Ok(verified) => info!("{verified}"),
        Err(difference) => {
            info!("kspace: stopped, the live page tables differ from the layout: {difference}");
            leave::leave(Outcome::Failure)
        }
    }
}

fn finish(handoff: &'static Handoff) -> ! {
    if let Some(provocation) = handoff.command_line.provoke {
        provoke::provoke(provocation, handoff);
        info!("kspace: provoked, but nothing faulted");
        leave::leave(Outcome::Failure)
    }
    if handoff.command_line.measure {
        measure::run();
    }
    if let Some(rounds) = handoff.command_line.stress {
        let seed = handoff.command_line.seed.unwrap_or_else(clock::ticks);
        if !stress::run(rounds, seed) {
            info!("kspace: the stress failed; to have the same delays again: seed={seed}");
            leave::leave(Outcome::Failure)
        }
        if let Some(memory) = handoff.memory() {
            check_live_tables(handoff, &memory);
        }
    }
    if let Some(rounds) = handoff.command_line.stress_frames {
        let seed = handoff.command_line.seed.unwrap_or_else(clock::ticks);
        if !memory::stress::run(rounds, seed) {
            info!("kspace: the stress failed; to have the same choices again: seed={seed}");
            leave::leave(Outcome::Failure)
        }
    }
    use_areas(handoff);
    change_pages(handoff);
    patch_text(handoff);
    show(handoff);
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

/// Does with areas what the command line asks for.
#[inline(never)]
fn use_areas(handoff: &'static Handoff) {
    let words = &handoff.command_line;
    let seed = words.seed.unwrap_or_else(clock::ticks);
    let plan = &handoff.plan;
    let tests = words
        .test_vmalloc
        .is_none_or(|tests| workloads::run(tests, plan));
    let soak = words
        .soak_vmalloc
        .is_none_or(|operations| workloads::soak(operations, seed));
    let fragmented = !words.fragment_vmalloc || workloads::fragmented();
    if !(tests && soak && fragmented) {
        info!("kspace: a workload on areas failed; to have the same choices again: seed={seed}");
        leave::leave(Outcome::Failure)
    }
    if (words.test_vmalloc.is_some() || words.soak_vmalloc.is_some() || words.fragment_vmalloc)
        && let Some(memory) = handoff.memory()
    {
        check_live_tables(handoff, &memory);
    }
}

/// Changes live pages, if the command line asks for it.
#[inline(never)]
fn change_pages(handoff: &'static Handoff) {
    if !handoff.command_line.test_permissions {
        return;
    }
    if !permissions::run() {
        info!("kspace: pages were not changed as they should be");
        leave::leave(Outcome::Failure)
    }
    if let Some(memory) = handoff.memory() {
        check_live_tables(handoff, &memory);
    }
}

/// Changes code as often as the command line says, while all CPUs run it.
#[inline(never)]
fn patch_text(handoff: &'static Handoff) {
    let Some(edits) = handoff.command_line.test_text_patch else {
        return;
    };
    if !test_text_patch::run(handoff, edits) {
        info!("kspace: the test of text patching failed");
        leave::leave(Outcome::Failure)
    }
    if let Some(memory) = handoff.memory() {
        check_live_tables(handoff, &memory);
    }
}

/// Prints the texts that the command line asks for.
#[inline(never)]
fn show(handoff: &'static Handoff) {
    let Some(memory) = memory::get() else { return };
    let sight = Sight {
        nodes: &handoff.ground.nodes,
        zones: memory.zones(),
        topology: &handoff.topology,
        plan: &handoff.plan,
        cpus: per_cpu::online().count() as u32,
    };
    memory_report::show(handoff.command_line.show, &sight);
}
