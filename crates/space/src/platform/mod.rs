//! What the library needs of the machine it runs on, as traits that a kernel implements once.
//!
//! ```text
//!   Cpu          who am I, may I wait here, keep me here                   any kernel knows
//!   Interrupts   keep them off here for a moment                           two instructions
//!   CacheLines   empty the caches of these lines                            an instruction a line; only for changes of memory types
//!   Tlb          execute this invalidation here, interrupt those CPUs      a few instructions and the local APIC
//!   TextAccess   load another root for a moment, read and write code       a few instructions; only who patches code needs it
//! ```
//!
//! The library decides *which* invalidations are needed and *when* ([`shootdown`](crate::shootdown)); the kernel executes each as
//! told, one instruction or two, and decides nothing. So what is decided can be tried on a simulated machine.
//!
//! A kernel on x86-64 with one type for itself:
//!
//! ```
//! use kspace::platform::{Complaint, Cpu, CpuId, CpuMask, LocalFlush, Tlb, TlbFeatures};
//! use kspace::shootdown::Shootdown;
//! # use kspace_layout::PagingMode;
//! # mod machine {
//! #     pub fn cpu_number() -> usize { 0 }
//! #     pub fn locks_held() -> usize { 0 }
//! #     pub fn invlpg(_: u64) {}
//! #     pub fn invpcid(_: u64) {}
//! #     pub fn read_cr3() -> u64 { 0 }
//! #     pub fn write_cr3(_: u64) {}
//! #     pub fn read_cr4() -> u64 { 0 }
//! #     pub fn write_cr4(_: u64) {}
//! #     pub fn send_interrupt(_: usize, _: u8) {}
//! # }
//!
//! struct Machine;
//!
//! // SAFETY: the number comes from this CPU's own GS base, and nothing here preempts kernel code.
//! unsafe impl Cpu for Machine {
//!     type Pin = ();
//!     fn id(&self) -> CpuId { CpuId::new(machine::cpu_number()) }
//!     fn pin(&self) {}
//!     fn is_atomic(&self) -> bool { machine::locks_held() > 0 }
//!     fn report(&self, complaint: &Complaint) { println!("{complaint}") }
//! }
//!
//! // SAFETY: each arm executes what the variant says; the interrupt's handler calls `SHOOTDOWN.serve()`.
//! unsafe impl Tlb for Machine {
//!     fn features(&self) -> TlbFeatures { TlbFeatures::plain(PagingMode::FourLevel).with_global_pages() }
//!     fn perform(&self, flush: LocalFlush) {
//!         const PGE: u64 = 1 << 7;
//!         match flush {
//!             LocalFlush::Page(address) => machine::invlpg(address.as_u64()),
//!             LocalFlush::LoadRoot => machine::write_cr3(machine::read_cr3()),
//!             LocalFlush::ToggleGlobal => {
//!                 let cr4 = machine::read_cr4();
//!                 machine::write_cr4(cr4 ^ PGE);
//!                 machine::write_cr4(cr4);
//!             }
//!             LocalFlush::EveryContext => machine::invpcid(3),
//!             LocalFlush::Everything => machine::invpcid(2),
//!         }
//!     }
//!     fn interrupt(&self, targets: &CpuMask) {
//!         for cpu in targets { machine::send_interrupt(cpu.index(), 0xfd); }
//!     }
//! }
//!
//! static SHOOTDOWN: Shootdown<Machine, 16> = Shootdown::new(Machine);
//!
//! SHOOTDOWN.join(); // each CPU, when it has loaded the kernel's root
//! assert_eq!(SHOOTDOWN.holders().to_string(), "0");
//! ```

mod cache_lines;
mod cpu;
mod cpu_mask;
mod interrupts;
mod text;
mod tlb;

pub use cache_lines::CacheLines;
pub use cpu::{Complaint, Cpu, WrittenAfterFree};
pub use cpu_mask::{CpuId, CpuMask, CpuMaskIter};
pub use interrupts::Interrupts;
pub use text::TextAccess;
pub use tlb::{LocalFlush, Tlb, TlbFeatures};
