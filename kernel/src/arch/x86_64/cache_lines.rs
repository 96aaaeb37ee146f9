//! Emptying the caches of a range of memory, for changes of memory types.

use core::arch::asm;

use kspace::platform::CacheLines;
use kspace_layout::PhysRange;
use raw_cpuid::CpuId;

use super::Machine;
use crate::memory;

/// CPUID 1, EBX bits 8 to 15 count in units of so many bytes (Intel SDM vol. 2, "CPUID").
const LINE_UNIT: u64 = 8;
/// Bytes of a line where CPUID does not say, as on every x86-64 so far.
const USUAL_LINE: u64 = 64;

// SAFETY: every line of the range is flushed by an instruction that reaches all CPUs' caches, between two fences that order it with the
// stores before and the accesses after.
unsafe impl CacheLines for Machine {
    fn write_back_and_invalidate(&self, range: PhysRange) {
        let memory = memory::get().expect("memory types change when there are zones");
        let window = memory.window();
        let start = window.pointer(range.start(), range.size());
        let start =
            start.expect("only RAM changes its memory type, and the direct map has it all") as u64;
        let features = CpuId::new().get_feature_info();
        let line = features.map_or(0, |features| u64::from(features.cflush_cache_line_size()));
        let line = if line == 0 {
            USUAL_LINE
        } else {
            line * LINE_UNIT
        };
        fence();
        for at in (start..start + range.size()).step_by(line as usize) {
            // SAFETY: the page is mapped; flushing a line changes no memory.
            unsafe { asm!("clflush [{}]", in(reg) at, options(nostack, preserves_flags)) };
        }
        fence();
    }
}

fn fence() {
    // SAFETY: it only orders.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
}
