//! The interrupt descriptor table: one entry stub for each of the 256 vectors, and the gates that lead to them.
//!
//! ```text
//!   vector N --> gate N --> stub N: push error code (or 0), push N --> trap_entry: push registers --> handle_trap
//!                                                                      pop registers, iretq    <--
//! ```
//!
//! The breakpoint's stub leaves room on the stack between what was interrupted and the trap frame, for the return address of a call that the
//! breakpoint stands in for ([`kspace::text_patch`]).

use core::arch::global_asm;

use spin::Mutex;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;

use super::descriptors::{InterruptStack, KERNEL_CODE};
use super::traps::handle_trap;
use super::vector;

/// All vectors of the architecture.
const VECTORS: usize = 256;

// Each stub is 16 bytes, so that the address of stub N is arithmetic. Vectors 8, 10 to 14, 17, 21, 29 and 30 push an error code
// (Intel SDM vol. 3, table 7-1; AMD APM vol. 2, table 8-1); the other stubs push a zero in its place.
global_asm!(
    r#"
    .pushsection .text, "ax", @progbits
    .balign 16
trap_stubs:
    .set vector, 0
    .rept {vectors}
    .balign 16
    .if vector == {breakpoint}
    jmp breakpoint_entry
    .elseif (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    push 0
    .endif
    push vector
    jmp trap_entry
    .set vector, vector + 1
    .endr
    .balign 16
breakpoint_entry:
    // What the hardware pushed, once more below itself: the first copy is room for what a called instruction pushes.
    .rept 5
    push qword ptr [rsp + 32]
    .endr
    push 0
    push {breakpoint}
    .balign 16
trap_entry:
    cld
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    // The hardware aligned the stack before its own pushes, but the handler must not rely on how many there were.
    mov rbp, rsp
    and rsp, -16
    call {handler}
    mov rsp, rbp
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    iretq
    .popsection
    "#,
    vectors = const VECTORS,
    breakpoint = const vector::BREAKPOINT,
    handler = sym handle_trap,
);

unsafe extern "C" {
    static trap_stubs: [[u8; 16]; VECTORS];
}

/// Whether gates may name interrupt stacks: only with a TSS that has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptStacks {
    /// Every fault stays on the stack it interrupted.
    None,
    /// #DF, NMI and #MC have their own.
    FromTss,
}

/// The IDT of the first stage, and of the second until it has filled CPU 0's.
static EARLY_IDT: Mutex<[u64; 2 * VECTORS]> = Mutex::new([0; 2 * VECTORS]);

/// Catches faults until the CPU has tables of its own. Called once where the image was loaded, and once where it stays.
///
/// # Safety
///
/// The GDT in use must have 64-bit code at [`KERNEL_CODE`].
pub unsafe fn load_early() {
    let mut idt = EARLY_IDT.lock();
    // SAFETY: the table has room for the gates; no CPU uses it yet, or the one CPU at an address that is not mapped any more.
    unsafe { write(idt.as_mut_ptr(), InterruptStacks::None) };
    let pointer = DescriptorTablePointer {
        limit: (size_of_val(&*idt) - 1) as u16,
        base: x86_64::VirtAddr::from_ptr(idt.as_ptr()),
    };
    // SAFETY: the gates are complete, and the table is static.
    unsafe { lidt(&pointer) };
}

/// Writes the gates of all vectors.
///
/// # Safety
///
/// `idt` must point at room for the gates of all vectors, writable, that no CPU uses as its IDT yet, or uses with the same contents.
pub unsafe fn write(idt: *mut u64, stacks: InterruptStacks) {
    // SAFETY: only addresses are taken; the stubs are code.
    let stubs = unsafe { &trap_stubs };
    for (number, stub) in stubs.iter().enumerate() {
        let stub = stub.as_ptr() as u64;
        let stack = match number as u64 {
            _ if stacks == InterruptStacks::None => 0,
            vector::DOUBLE_FAULT => InterruptStack::DoubleFault as u64,
            vector::NMI => InterruptStack::Nmi as u64,
            vector::MACHINE_CHECK => InterruptStack::MachineCheck as u64,
            _ => 0,
        };
        // Intel SDM vol. 3, figure 7-8: offset 15:0, selector at 16, IST at 32, type e (interrupt gate) and present at 40,
        // offset 31:16 at 48, offset 63:32 in the second half.
        let low = stub & 0xffff
            | u64::from(KERNEL_CODE) << 16
            | stack << 32
            | 0x8e << 40
            | (stub >> 16 & 0xffff) << 48;
        // SAFETY: 256 gates of 16 bytes are one page.
        unsafe {
            idt.add(2 * number).write(low);
            idt.add(2 * number + 1).write(stub >> 32);
        }
    }
}
