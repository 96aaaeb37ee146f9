//! What this CPU can do, and the few control bits that paging needs.

use kspace_layout::{PagingMode, PhysAddr};
use kspace_paging::Pat;
use raw_cpuid::CpuId;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;

/// `IA32_APIC_BASE` (Intel SDM vol. 4, table 2-2).
const APIC_BASE_MSR: u32 = 0x1b;

/// What CPUID says about paging.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// 5-level paging (CPUID 7, ECX bit 16).
    pub la57: bool,
    /// 1 GiB pages (CPUID 80000001h, EDX bit 26).
    pub gigabyte_pages: bool,
    /// Global pages (CPUID 1, EDX bit 13).
    pub global_pages: bool,
    /// A hardware random number generator (CPUID 1, ECX bit 30).
    pub rdrand: bool,
    /// A local APIC (CPUID 1, EDX bit 9).
    pub local_apic: bool,
    /// A local APIC with registers in MSRs (CPUID 1, ECX bit 21).
    pub x2apic: bool,
    /// A timer that fires at a value of the time-stamp counter (CPUID 1, ECX bit 24).
    pub tsc_deadline: bool,
    /// A time-stamp counter of constant rate (CPUID 80000007h, EDX bit 8).
    pub invariant_tsc: bool,
    /// Process-context identifiers in the TLB (CPUID 1, ECX bit 17).
    pub pcid: bool,
    /// INVPCID (CPUID 7, EBX bit 10).
    pub invpcid: bool,
    /// Supervisor-mode execution prevention (CPUID 7, EBX bit 7).
    pub smep: bool,
    /// Supervisor-mode access prevention (CPUID 7, EBX bit 20).
    pub smap: bool,
    /// The identifier of this CPU's local APIC after reset (CPUID 1, EBX bits 24 to 31).
    pub initial_apic_id: u32,
    /// Bits of a physical address (CPUID 80000008h, EAX bits 0 to 7).
    pub phys_bits: u8,
}

impl Features {
    /// Asks the CPU.
    pub fn read() -> Self {
        let cpuid = CpuId::new();
        let basic = cpuid.get_feature_info();
        let extended = cpuid.get_extended_processor_and_feature_identifiers();
        let structured = cpuid.get_extended_feature_info();
        let capacity = cpuid.get_processor_capacity_feature_info();
        Self {
            la57: cpuid
                .get_extended_feature_info()
                .is_some_and(|leaf| leaf.has_la57()),
            gigabyte_pages: extended.is_some_and(|leaf| leaf.has_1gib_pages()),
            global_pages: basic.as_ref().is_some_and(|leaf| leaf.has_pge()),
            rdrand: basic.as_ref().is_some_and(|leaf| leaf.has_rdrand()),
            local_apic: basic.as_ref().is_some_and(|leaf| leaf.has_apic()),
            x2apic: basic.as_ref().is_some_and(|leaf| leaf.has_x2apic()),
            tsc_deadline: basic.as_ref().is_some_and(|leaf| leaf.has_tsc_deadline()),
            invariant_tsc: cpuid
                .get_advanced_power_mgmt_info()
                .is_some_and(|leaf| leaf.has_invariant_tsc()),
            pcid: basic.as_ref().is_some_and(|leaf| leaf.has_pcid()),
            invpcid: structured.as_ref().is_some_and(|leaf| leaf.has_invpcid()),
            smep: structured.as_ref().is_some_and(|leaf| leaf.has_smep()),
            smap: structured.as_ref().is_some_and(|leaf| leaf.has_smap()),
            initial_apic_id: basic
                .as_ref()
                .map_or(0, |leaf| u32::from(leaf.initial_local_apic_id())),
            // 36 is what a CPU without the leaf has (Intel SDM vol. 3, section 5.1.4).
            phys_bits: capacity.map_or(36, |leaf| leaf.physical_address_bits()),
        }
    }
}

/// The bits of CR4 that a CPU needs before it can use tables of `mode`: PAE, and LA57 for five levels.
pub const fn startup_cr4(mode: PagingMode) -> u32 {
    let five_levels = match mode {
        PagingMode::FiveLevel => Cr4Flags::L5_PAGING.bits(),
        _ => 0,
    };
    (Cr4Flags::PHYSICAL_ADDRESS_EXTENSION.bits() | five_levels) as u32
}

/// Loads CR3, which drops every translation of this CPU that is not global.
///
/// # Safety
///
/// The tables under `root` must map all that the CPU is using: its code, its stack, its descriptor tables.
pub unsafe fn load_root(root: PhysAddr) {
    // SAFETY: the caller's contract.
    unsafe {
        core::arch::asm!("mov cr3, {}", in(reg) root.as_u64(), options(nostack, preserves_flags));
    }
}

/// Programs the memory types behind the PAT bits and turns on what the tables rely on: write protection in supervisor mode
/// and, where present, global pages, SMEP and SMAP. No-execute was turned on before long mode.
///
/// # Safety
///
/// Must run before any mapping with a cache type other than write-back is used: the types of existing mappings change.
pub unsafe fn prepare_paging(features: &Features) {
    // SAFETY: every memory type in the value is defined (SDM vol. 3, table 13-10), and the caller says that no mapping is in
    // use whose type would change under it.
    unsafe { Msr::new(Pat::MSR).write(Pat::LINUX.msr()) };
    // SAFETY: WP only takes rights away; the early tables map everything writable.
    unsafe { Cr0::update(|flags| *flags |= Cr0Flags::WRITE_PROTECT) };
    let wanted = [
        (features.global_pages, Cr4Flags::PAGE_GLOBAL),
        (
            features.smep,
            Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION,
        ),
        (features.smap, Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION),
    ];
    for (_, flag) in wanted.into_iter().filter(|(present, _)| *present) {
        // SAFETY: CPUID says that the bit exists. No table in use has a global entry that could stay behind, or a user page that
        // the kernel accesses.
        unsafe { Cr4::update(|flags| *flags |= flag) };
    }
}

/// Where the registers of the local APIC are, from `IA32_APIC_BASE` bits 12 to 51 (Intel SDM vol. 3, section 12.4.4).
pub fn local_apic(features: &Features) -> Option<PhysAddr> {
    if !features.local_apic {
        return None;
    }
    // SAFETY: a CPU that reports an APIC has the register, and reading it changes nothing.
    let base = unsafe { Msr::new(APIC_BASE_MSR).read() };
    PhysAddr::try_new(base & 0x000f_ffff_ffff_f000).ok()
}

/// One number from RDRAND; `None` when the generator fails ten times in a row, as the SDM advises to treat as absent
/// (vol. 1, section 7.3.17.1).
pub fn rdrand() -> Option<u64> {
    let generator = x86_64::instructions::random::RdRand::new()?;
    (0..10).find_map(|_| generator.get_u64())
}
