//! The machine, as far as this kernel needs to know it: a serial port, the way out, the CPU's abilities and invalidations, page faults.

use core::fmt::{self, Write};

use kspace::one_cpu::OneCpu;
use kspace::platform::{LocalFlush, TlbFeatures};
use kspace_layout::PagingMode;
use kspace_paging::{Limits, Pat};
use raw_cpuid::CpuId;
use spin::Once;
use uart_16550::{Config, Uart16550Tty};
use x86_64::VirtAddr;
use x86_64::instructions::{hlt, port::Port, tlb};
use x86_64::structures::idt::InterruptDescriptorTable;

/// Writes a line to the serial port.
#[macro_export]
macro_rules! println {
    ($($word:tt)*) => { $crate::machine::print(format_args!($($word)*)) };
}

/// Writes a line to COM1, if there is one.
pub fn print(line: fmt::Arguments<'_>) {
    // SAFETY: the ports are nobody else's in this kernel.
    if let Ok(mut port) = unsafe { Uart16550Tty::new_port(0x3f8, Config::default()) } {
        let _ = writeln!(port, "{line}");
    }
}

/// Ends the virtual machine: QEMU's isa-debug-exit makes a status of 33 or 35 of this.
pub fn exit(success: bool) -> ! {
    // SAFETY: where there is no such device, nothing listens at the port.
    unsafe { Port::new(0xf4).write(if success { 0x10_u32 } else { 0x11 }) };
    loop {
        hlt();
    }
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("{}", info.message());
    exit(false)
}

/// What page-table entries can say on this CPU: how wide addresses are, which pages there are, and cache types as after a reset.
pub fn limits() -> Limits {
    let cpuid = CpuId::new();
    let widths = cpuid.get_processor_capacity_feature_info();
    let features = cpuid.get_extended_processor_and_feature_identifiers();
    Limits::WIDEST
        .with_phys_bits(widths.map_or(36, |widths| widths.physical_address_bits().into()))
        .with_gigabyte_pages(features.is_some_and(|features| features.has_1gib_pages()))
        .with_pat(Pat::RESET)
}

/// The CPU, alone, with interrupts off since boot.
pub fn cpu() -> OneCpu {
    let features = TlbFeatures::plain(PagingMode::FourLevel);
    // SAFETY: no other CPU is started, and no interrupt turned on. Global pages and PCIDs are off, so these two flushes are all there are.
    unsafe {
        let flush = |flush| match flush {
            LocalFlush::Page(page) => tlb::flush(VirtAddr::new_truncate(page.as_u64())),
            _ => tlb::flush_all(),
        };
        OneCpu::new(features, flush, |complaint| println!("{complaint}"))
    }
}

unsafe extern "C" {
    /// Writes a byte; when that faults, it is not written.
    pub fn touch(address: *mut u8);
    /// Goes on with `run` on another stack.
    pub fn go_on(stack_top: u64, run: extern "C" fn() -> !) -> !;
    safe fn page_fault_entry();
}

/// Has page faults come to `page_fault`, in this kernel's main file.
pub fn catch_page_faults() {
    static TABLE: Once<InterruptDescriptorTable> = Once::new();
    let table = TABLE.call_once(|| {
        let mut table = InterruptDescriptorTable::new();
        let entry = VirtAddr::from_ptr(page_fault_entry as *const ());
        // SAFETY: the entry code handles a page fault, and is mapped as long as the kernel runs.
        unsafe { table.page_fault.set_handler_addr(entry) };
        table
    });
    table.load();
}
