//! A broken invariant of the kernel itself: say which, and end.

use core::panic::PanicInfo;

use crate::arch;
use crate::info;

#[panic_handler]
fn panic(panic: &PanicInfo<'_>) -> ! {
    arch::stop_others(None);
    match panic.location() {
        Some(place) => info!(
            "kernel panic: {} ({}:{})",
            panic.message(),
            place.file(),
            place.line()
        ),
        None => info!("kernel panic: {}", panic.message()),
    }
    arch::print_own_stack();
    arch::report_others();
    info!("kspace: stopped by a panic");
    arch::leave(arch::Outcome::Failure)
}
