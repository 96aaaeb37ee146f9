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
    .quad pvh_entry - image_start + image_load_address
    .popsection

    .pushsection .init.text, "ax", @progbits
    .code32
    .global pvh_entry
pvh_entry:
    cli
    cld
    // There is no stack, and the start info (EBX) may be a wild pointer. Four bytes of conventional memory are borrowed
    // for the one call that tells where this code runs, and given back.
    mov eax, dword ptr [0x7ffc]
    mov esp, 0x8000
    call 1f
1:  pop ebp
    mov dword ptr [0x7ffc], eax
    // EBP: the load address of label 1; every other address is a distance from it.
    lea esp, [ebp + early_stack_end - 1b]

    rdtsc
    mov dword ptr [ebp + entry_ticks - 1b], eax
    mov dword ptr [ebp + entry_ticks + 4 - 1b], edx
    mov dword ptr [ebp + start_info_address - 1b], ebx

    // --- What the CPU must have. CPUID 1: PSE is EDX bit 3, PAE bit 6. CPUID 80000001h: NX is EDX bit 20, LM bit 29.
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb no_long_mode
    mov eax, 0x80000001
    cpuid
    bt edx, 29
    jnc no_long_mode
    bt edx, 20
    jnc no_nx
    mov eax, 1
    cpuid
    bt edx, 3
    jnc no_pse
    bt edx, 6
    jnc no_pae

    // --- Early tables: PML4[0] -> PDPT[0..4] -> four page directories of 2 MiB pages over 0..4 GiB.
    lea edi, [ebp + early_pml4 - 1b]
    lea eax, [ebp + early_pdpt - 1b]
    or  eax, 3
    mov dword ptr [edi], eax
    lea edi, [ebp + early_pdpt - 1b]
    lea eax, [ebp + early_page_directories - 1b]
    or  eax, 3
    mov ecx, 4
2:  mov dword ptr [edi], eax
    add eax, 4096
    add edi, 8
    dec ecx
    jnz 2b
    lea edi, [ebp + early_page_directories - 1b]
    mov eax, 0x83
    mov ecx, 2048
3:  mov dword ptr [edi], eax
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz 3b

    // --- Long mode: CR4.PAE, CR3, EFER.LME and NXE (bits 8, 11), CR0.WP and PG (bits 16, 31).
    mov eax, cr4
    or  eax, 1 << 5
    mov cr4, eax
    lea eax, [ebp + early_pml4 - 1b]
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or  eax, (1 << 8) | (1 << 11)
    wrmsr
    mov eax, cr0
    or  eax, (1 << 31) | (1 << 16) | 1
    mov cr0, eax

    lea eax, [ebp + early_gdt - 1b]
    mov dword ptr [ebp + early_gdt_pointer + 2 - 1b], eax
    lgdt [ebp + early_gdt_pointer - 1b]
    push 0x08
    lea eax, [ebp + long_mode - 1b]
    push eax
    retf

    // --- Refusals. The text goes out on COM1, whose divisor a firmware may have left unset: 115200 8N1 first.
no_long_mode:
    lea esi, [ebp + text_no_long_mode - 1b]
    jmp refuse
no_nx:
    lea esi, [ebp + text_no_nx - 1b]
    jmp refuse
no_pse:
    lea esi, [ebp + text_no_pse - 1b]
    jmp refuse
no_pae:
    lea esi, [ebp + text_no_pae - 1b]
refuse:
    mov dx, 0x3fb
    mov al, 0x80
    out dx, al
    mov dx, 0x3f8
    mov al, 1
    out dx, al
    mov dx, 0x3f9
    xor al, al
    out dx, al
    mov dx, 0x3fb
    mov al, 3
    out dx, al
4:  mov dx, 0x3fd
    in  al, dx
    test al, 0x20
    jz  4b
    lodsb
    test al, al
    jz  5f
    mov dx, 0x3f8
    out dx, al
    jmp 4b
5:  mov dx, 0xf4
    mov eax, 0x11
    out dx, eax
6:  hlt
    jmp 6b

    .code64
long_mode:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    lea rsp, [rip + early_stack_end]
    xor ebp, ebp
    // Relocate to where the image is: link address + slide = load address. Rust may follow pointers only after this.
    lea rdi, [rip + image_start]
    mov rax, qword ptr [rip + image_link_address_value]
    sub rdi, rax
    call {relocate}
    call {first_stage}
    ud2

    .balign 8
image_link_address_value:
    .quad 0xffffffff81000000
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
    stack_size = const EARLY_STACK_SIZE,
);
