//! A broken invariant of the kernel itself: say which, and end.

use core::panic::PanicInfo;

use crate::arch::{Outcome, leave};
use crate::info;

#[panic_handler]
fn panic(panic: &PanicInfo<'_>) -> ! {
    match panic.location() {
        Some(place) => info!(
            "kernel panic: {} ({}:{})",
            panic.message(),
            place.file(),
            place.line()
        ),
        None => info!("kernel panic: {}", panic.message()),
    }
    leave(Outcome::Failure)
}
