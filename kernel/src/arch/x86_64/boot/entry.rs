//! The very first instructions: from a PVH loader's 32-bit protected mode to Rust in 64-bit mode.
//!
//! A PVH loader (Xen's `pvh` boot ABI; QEMU's `-kernel`) jumps here with paging off, flat 32-bit segments, EBX pointing at
//! its start info, and no stack. The code runs wherever the image was loaded, so it first finds its own address, then:
//!
//! 1. refuses, in words on the serial port, a CPU that lacks what the kernel cannot do without;
//! 2. maps the first 4 GiB to themselves with 2 MiB pages: the *early tables*, used only until the real ones stand;
//! 3. enters long mode and calls [`first_stage`](super::first_stage::first_stage) with the image at its load address.
//!
//! The early tables and the early stack are in `.init.data`.

use core::arch::global_asm;

/// Where the stack of the first stage ends, and its size in bytes. Page-table building keeps shallow frames; a whole layout
/// and a memory map are passed by reference.
pub const EARLY_STACK_SIZE: usize = 128 * 1024;

global_asm!(
    // The PVH note: type 18 (XEN_ELFNOTE_PHYS32_ENTRY, Xen public/elfnote.h) holds the physical entry point.
    r#"
    .pushsection .note.pvh, "a", @note
    .balign 4
    .long 4
    .long 8
    .long 18
    .asciz "Xen"
    .balign 4
    .quad pvh_entry_physical
    .popsection

    .pushsection .init.text, "ax", @progbits
    .code32
    .global pvh_entry
pvh_entry:
    cli
    cld
    // There is no stack, and the start info (EBX) may be a wild pointer. Four bytes of conventional memory are borrowed
    // for the one call that tells where this code runs, and given back.
    movl 0x7ffc, %eax
    movl $0x8000, %esp
    call 1f
1:  popl %ebp
    movl %eax, 0x7ffc
    // EBP: the load address of label 1; every other address is a distance from it.
    leal (early_stack_end - 1b)(%ebp), %esp

    rdtsc
    movl %eax, (entry_ticks - 1b)(%ebp)
    movl %edx, (entry_ticks + 4 - 1b)(%ebp)
    movl %ebx, (start_info_address - 1b)(%ebp)

    // --- What the CPU must have. CPUID 1: PSE is EDX bit 3, PAE bit 6. CPUID 80000001h: NX is EDX bit 20, LM bit 29.
    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb no_long_mode
    movl $0x80000001, %eax
    cpuid
    btl $29, %edx
    jnc no_long_mode
    btl $20, %edx
    jnc no_nx
    movl $1, %eax
    cpuid
    btl $3, %edx
    jnc no_pse
    btl $6, %edx
    jnc no_pae

    // --- Early tables: PML4[0] -> PDPT[0..4] -> four page directories of 2 MiB pages over 0..4 GiB.
    leal (early_pml4 - 1b)(%ebp), %edi
    leal (early_pdpt - 1b)(%ebp), %eax
    orl $3, %eax
    movl %eax, (%edi)
    leal (early_pdpt - 1b)(%ebp), %edi
    leal (early_page_directories - 1b)(%ebp), %eax
    orl $3, %eax
    movl $4, %ecx
2:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    decl %ecx
    jnz 2b
    leal (early_page_directories - 1b)(%ebp), %edi
    movl $0x83, %eax
    movl $2048, %ecx
3:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 3b

    // --- Long mode: CR4.PAE, CR3, EFER.LME and NXE (bits 8, 11), CR0.WP and PG (bits 16, 31).
    movl %cr4, %eax
    orl $(1 << 5), %eax
    movl %eax, %cr4
    leal (early_pml4 - 1b)(%ebp), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $((1 << 8) | (1 << 11)), %eax
    wrmsr
    movl %cr0, %eax
    orl $((1 << 31) | (1 << 16) | 1), %eax
    movl %eax, %cr0

    leal (early_gdt - 1b)(%ebp), %eax
    movl %eax, (early_gdt_pointer + 2 - 1b)(%ebp)
    lgdt (early_gdt_pointer - 1b)(%ebp)
    pushl $0x08
    leal (long_mode - 1b)(%ebp), %eax
    pushl %eax
    lret

    // --- Refusals. The text goes out on COM1, whose divisor a firmware may have left unset: 115200 8N1 first.
no_long_mode:
    leal (text_no_long_mode - 1b)(%ebp), %esi
    jmp refuse
no_nx:
    leal (text_no_nx - 1b)(%ebp), %esi
    jmp refuse
no_pse:
    leal (text_no_pse - 1b)(%ebp), %esi
    jmp refuse
no_pae:
    leal (text_no_pae - 1b)(%ebp), %esi
refuse:
    movw $0x3fb, %dx
    movb $0x80, %al
    outb %al, %dx
    movw $0x3f8, %dx
    movb $1, %al
    outb %al, %dx
    movw $0x3f9, %dx
    xorb %al, %al
    outb %al, %dx
    movw $0x3fb, %dx
    movb $3, %al
    outb %al, %dx
4:  movw $0x3fd, %dx
    inb %dx, %al
    testb $0x20, %al
    jz  4b
    lodsb
    testb %al, %al
    jz  5f
    movw $0x3f8, %dx
    outb %al, %dx
    jmp 4b
5:  movw $0xf4, %dx
    movl $0x11, %eax
    outl %eax, %dx
6:  hlt
    jmp 6b

    .code64
long_mode:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    leaq early_stack_end(%rip), %rsp
    xorl %ebp, %ebp
    // Relocate to where the image is: link address + slide = load address. Rust may follow pointers only after this.
    leaq image_start(%rip), %rdi
    subq image_link_address_value(%rip), %rdi
    call {relocate}
    call {first_stage}
    ud2

    .balign 8
image_link_address_value:
    .quad {link_address}
    .global early_gdt
early_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
early_gdt_pointer:
    .word 31
    .long 0
    .long 0
text_no_long_mode:
    .asciz "[    0.000000] kspace: this CPU has no long mode (CPUID 80000001h EDX bit 29 is 0): kspace on x86-64 needs a 64-bit CPU\r\n"
text_no_nx:
    .asciz "[    0.000000] kspace: this CPU has no NX (CPUID 80000001h EDX bit 20 is 0): kspace never maps writable memory executable, and cannot without it\r\n"
text_no_pse:
    .asciz "[    0.000000] kspace: this CPU has no PSE (CPUID 1 EDX bit 3 is 0): the direct map needs large pages\r\n"
text_no_pae:
    .asciz "[    0.000000] kspace: this CPU has no PAE (CPUID 1 EDX bit 6 is 0): long mode needs it\r\n"
    .popsection

    .pushsection .init.data, "aw", @progbits
    .balign 4096
    .global early_pml4
early_pml4:
    .skip 4096
early_pdpt:
    .skip 4096
early_page_directories:
    .skip 4 * 4096
    .global early_pml5
early_pml5:
    .skip 4096
    .global early_stack_start
early_stack_start:
    .skip {stack_size}
early_stack_end:
    .global entry_ticks
entry_ticks:
    .quad 0
    .global start_info_address
start_info_address:
    .quad 0
    .popsection
    "#,
    relocate = sym super::relocate::relocate,
    first_stage = sym super::first_stage::first_stage,
    link_address = const super::LINK_ADDRESS,
    stack_size = const EARLY_STACK_SIZE,
    options(att_syntax),
);
