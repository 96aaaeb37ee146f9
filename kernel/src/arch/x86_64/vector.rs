//! Interrupt vectors: the architecture's that are treated apart, and the kernel's own, numbered as Linux numbers its own.

/// NMI (Intel SDM vol. 3, table 7-1).
pub const NMI: u64 = 2;
/// #BP.
pub const BREAKPOINT: u64 = 3;
/// #DF.
pub const DOUBLE_FAULT: u64 = 8;
/// #GP.
pub const GENERAL_PROTECTION: u64 = 13;
/// #PF.
pub const PAGE_FAULT: u64 = 14;
/// #MC.
pub const MACHINE_CHECK: u64 = 18;
/// Vectors below this one are the architecture's exceptions.
pub const FIRST_INTERRUPT: u64 = 32;

/// The local APIC's timer (Linux: `LOCAL_TIMER_VECTOR`, arch/x86/include/asm/irq_vectors.h).
pub const TIMER: u8 = 0xec;
/// "There may be work" (Linux: `RESCHEDULE_VECTOR`).
pub const RESCHEDULE: u8 = 0xfd;
/// "Serve shootdown requests" (Linux sends `CALL_FUNCTION_VECTOR` for it).
pub const SHOOTDOWN: u8 = 0xfb;
/// "Give back the frames that you keep". Below Linux's own numbers, which have nothing like it.
pub const DRAIN: u8 = 0xea;
/// What the local APIC delivers when an interrupt has gone away (Linux: `SPURIOUS_APIC_VECTOR`).
pub const SPURIOUS: u8 = 0xff;
