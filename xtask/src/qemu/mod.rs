//! One virtual machine under QEMU: what it is made of, how it runs, what it said, and how it ended.
//!
//! ```text
//!   Machine     memory, CPUs, features, kernel command line     →  QEMU's command line
//!   boot        run it to its end, within a time limit          →  Ended { log, exit }
//!   Paused      run it with a monitor and a debugger attached   →  stop, look, alter, continue
//! ```
//!
//! The kernel ends a machine by writing to the isa-debug-exit device; QEMU then exits with an odd status, which nothing else
//! produces. A machine that resets itself (a triple fault) ends with status 0, because it runs with `-no-reboot`.

pub(crate) mod accel;
pub(crate) mod boot;
pub(crate) mod folder;
pub(crate) mod gdb;
pub(crate) mod machine;
pub(crate) mod monitor;
pub(crate) mod paused;
pub(crate) mod tiny_guest;
