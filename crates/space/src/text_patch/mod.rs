//! Changing one instruction of code that other CPUs may be executing.
//!
//! # Where the bytes are written
//!
//! ```text
//!        every address space              one more root, loaded by one CPU while it stores a few bytes, with interrupts off
//!   .---------------------------.        .---------------------------.
//!   | kernel half               | <====> | the same entries          |
//!   |   code     read, execute  |-----.  |   code     read, execute  |
//!   |---------------------------|     |  |---------------------------|
//!   | user half, or nothing     |     '->|   alias    read, write    |  at most two pages; else nothing is mapped here
//!   '---------------------------'        '---------------------------'
//! ```
//!
//! The code's own pages stay as they are, and so do their places in the direct map: no mapping that can be executed is ever
//! writable. The alias is a second mapping of the same frame, writable and not executable. Who could write through it? Only a CPU that has
//! loaded that root: no table of another root leads there, so no other CPU can have, or speculate up, a translation of it.
//! One patcher at a time loads it, on its own CPU, with interrupts off; before it loads its former root again it takes the entries
//! out and forgets their translations, also those kept under the root's PCID. A slot of the fixmap would do it too, but every
//! CPU could use it.
//!
//! # How the instruction is changed
//!
//! A CPU may have fetched part of an instruction before it was changed and part of it afterwards, and then executes neither (Intel SDM
//! vol. 3, section 9.1.3). Only one byte changes whole. So three steps, after each of which every CPU executes a serializing instruction
//! ([`Shootdown::serialize_everywhere`](crate::shootdown::Shootdown::serialize_everywhere)):
//!
//! ```text
//!   old            nop (5 bytes)     0f 1f 44 00 00       CPUs execute
//!   1  breakpoint                    cc 1f 44 00 00       old, or the breakpoint
//!   2  tail                          cc 12 34 56 78       the breakpoint
//!   3  first byte  call target       e8 12 34 56 78       the breakpoint, or new
//!                                                         new
//! ```
//!
//! A CPU that runs into the breakpoint must go on. The kernel's handler asks [`Patcher::breakpoint`], which answers what the new instruction
//! does (if it is a no-operation, a jump or a call; else what the old one does, if that is): where to go on, and for a call, what to push. The handler waits for
//! nothing, so code that runs with interrupts off may be changed as well.
//!
//! *Not so code on the way of a breakpoint or an NMI.* A handler of the breakpoint that ran into one would never get to the end. And the
//! handler's `IRET` lets the next NMI in, even while one is handled (Intel SDM vol. 3, section 7.7.1): it would begin on the
//! same stack, over what the first has there, unless the kernel's entry for NMIs is made for that. So what the breakpoint's handler executes,
//! and what NMI handlers execute, must not be changed.
//!
//! *No handler is late.* It runs with interrupts off, so its CPU takes part in no step before it has returned. When the third step is
//! complete, no CPU is in a handler for this breakpoint, and none will run into it again. Only then the next edit is published.
//!
//! Several edits are made in the same three steps, up to [`BATCH`] at a time.
//!
//! # What it does not do
//!
//! It does not know instructions but those few; that the bytes at an address are one whole instruction, and that nothing jumps into it, is
//! its caller's word. It does not make code: that is [`areas::Code`](crate::areas::Code).

mod alias;
mod edit;
mod error;
mod instruction;
mod live;
mod patcher;
mod place;

pub use edit::Edit;
pub use error::{PatchError, PatcherError};
pub use instruction::{NOP_5, TooFar, call, jump};
pub use live::{BATCH, Resume};
pub use patcher::Patcher;
