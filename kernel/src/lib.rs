//! The reference kernel: boots on kspace under QEMU and shows its own address space.
//!
//! The package is two things. As a host library it is what needs no machine and can be tested anywhere: reading what the
//! loader left ([`start_info`], [`command_line`]) and keeping the log ([`log`]). For bare metal it is the kernel, whose
//! program (`src/main.rs`) only pulls in this library.
//!
//! ```text
//!   arch/x86_64/boot/     from the loader's 32-bit mode to the kernel's own address space
//!   arch/x86_64/          descriptors, traps, CPU features, clock, console: all that is x86-64
//!   address_space.rs      builds the layout, the tables, and checks them: no instruction of any architecture
//!   memory/               nodes, zones, the heap
//!   vmalloc/              areas mapped on demand
//!   permissions/          rights and memory types of live pages, changed
//!   memory_report/        what the log says of them, in Linux's words
//!   report.rs             what the boot log says
//! ```
//!
//! Dependencies: `uart_16550` (serial console), `x86_64` (descriptor tables, control registers, ports), `raw-cpuid` (CPU
//! features by name), `spin` (a lock before there is a scheduler), `talc` (the heap: kept, on stable Rust,
//! takes memory piece by piece and says when one is empty again).

#![cfg_attr(not(test), no_std)]

#[cfg(target_os = "none")]
extern crate alloc;

pub mod acpi;
pub mod command_line;
pub mod fw_cfg;
pub mod local_apic;
pub mod log;
pub mod start_info;
pub mod vmcoreinfo;

#[cfg(target_os = "none")]
mod address_space;
#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod memory_report;
#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
mod permissions;
#[cfg(target_os = "none")]
mod report;
#[cfg(target_os = "none")]
mod vmalloc;
