//! The kernel's end of [`kspace::shootdown`]: who am I, invalidate here, interrupt those.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use kspace::platform::{Complaint, Cpu, CpuId, CpuMask, LocalFlush, Tlb, TlbFeatures};
use kspace::shootdown::Shootdown;
use kspace_layout::PagingMode;
use x86_64::registers::control::{Cr3, Cr4, Cr4Flags};

use super::yield_points::YieldPoints;
use super::{apic, drain, per_cpu, vector};
use crate::acpi::MAX_CPUS;
use crate::info;

static FIVE_LEVELS: AtomicBool = AtomicBool::new(false);
static GLOBAL_PAGES: AtomicBool = AtomicBool::new(false);
static INVPCID: AtomicBool = AtomicBool::new(false);

/// Requests that are remembered; who falls back further forgets everything.
const SLOTS: usize = 64;

/// Shootdowns of the kernel's half of the address space, which all CPUs share.
pub static KERNEL: Shootdown<Machine, MAX_CPUS, SLOTS, YieldPoints> =
    Shootdown::probed(Machine, YieldPoints);

/// Says what every CPU's TLB has, before the first one joins.
pub fn describe(mode: PagingMode, global_pages: bool, invpcid: bool) {
    FIVE_LEVELS.store(mode == PagingMode::FiveLevel, Ordering::Relaxed);
    GLOBAL_PAGES.store(global_pages, Ordering::Relaxed);
    INVPCID.store(invpcid, Ordering::Relaxed);
}

/// The machine that the kernel runs on.
#[derive(Clone, Copy, Debug)]
pub struct Machine;

// SAFETY: the number comes from this CPU's own GS base, and nothing preempts kernel code.
unsafe impl Cpu for Machine {
    type Pin = ();

    #[inline]
    fn id(&self) -> CpuId {
        CpuId::new(per_cpu::current_index() as usize)
    }

    fn pin(&self) {}

    #[inline(always)]
    fn is_atomic(&self) -> bool {
        per_cpu::current_atomic_depth() > 0
    }

    fn report(&self, complaint: &Complaint) {
        info!("{complaint}");
    }
}

// SAFETY: all CPUs of a machine are alike and were asked before the first joined; each arm executes what the variant says; the
// handler of the vector calls `serve`.
unsafe impl Tlb for Machine {
    #[inline]
    fn features(&self) -> TlbFeatures {
        let five_levels = FIVE_LEVELS.load(Ordering::Relaxed);
        let mode = if five_levels {
            PagingMode::FiveLevel
        } else {
            PagingMode::FourLevel
        };
        let mut features = TlbFeatures::plain(mode);
        if GLOBAL_PAGES.load(Ordering::Relaxed) {
            features = features.with_global_pages();
        }
        if INVPCID.load(Ordering::Relaxed) {
            features = features.with_invpcid();
        }
        features
    }

    #[inline]
    fn perform(&self, flush: LocalFlush) {
        match flush {
            // SAFETY: forgetting a translation is always allowed.
            LocalFlush::Page(address) => unsafe {
                asm!("invlpg [{}]", in(reg) address.as_u64(), options(nostack, preserves_flags));
            },
            LocalFlush::LoadRoot => {
                let (frame, flags) = Cr3::read_raw();
                // SAFETY: the value that is there already.
                unsafe { Cr3::write_raw(frame, flags) };
            }
            LocalFlush::ToggleGlobal => {
                x86_64::instructions::interrupts::without_interrupts(|| {
                    let flags = Cr4::read();
                    // SAFETY: the bit decides only what the TLB keeps, and it is as before afterwards.
                    unsafe {
                        Cr4::write(flags ^ Cr4Flags::PAGE_GLOBAL);
                        Cr4::write(flags);
                    }
                })
            }
            LocalFlush::EveryContext => invpcid(3),
            LocalFlush::Everything => invpcid(2),
        }
    }

    fn interrupt(&self, targets: &CpuMask) {
        for target in targets {
            if let Some(cpu) = per_cpu::cpu(target.index() as u32) {
                apic::local().send(cpu.apic_id(), vector::SHOOTDOWN);
            }
        }
    }

    #[inline]
    fn serialize(&self) {
        // A write to a control register serializes, and unlike CPUID no hypervisor has to step in.
        // SAFETY: the value that is there already; a page fault's handler has interrupts off until it has read it.
        unsafe {
            asm!("mov {0}, cr2", "mov cr2, {0}", out(reg) _, options(nostack, preserves_flags));
        }
    }

    fn serve_others(&self) {
        drain::serve();
    }
}

/// INVPCID of a type that takes no PCID and no address. The protocol asks for it only where CPUID reports it.
fn invpcid(kind: u64) {
    let descriptor = [0_u64; 2];
    // SAFETY: forgetting translations is always allowed, and the CPU has the instruction.
    unsafe {
        asm!("invpcid {}, [{}]", in(reg) kind, in(reg) &descriptor, options(nostack, readonly));
    }
}
