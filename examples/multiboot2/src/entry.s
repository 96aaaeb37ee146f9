// From Multiboot2's 32-bit protected mode to Rust in 64-bit mode, and from a page fault to Rust and back.
//
//   boot_pml4[0]   -> boot_pdpt[0]   -> boot_pd: 512 pages of 2 MiB, the first GiB of physical memory where it lies
//   boot_pml4[511] -> boot_pdpt[511] -> the same, at 0xffffffffc0000000, where the image runs

    .section .boot.header, "a"
    .balign 8
header:                                 // Multiboot2 specification, section 3.1
    .long 0xe85250d6, 0, header_end - header, -(0xe85250d6 + (header_end - header))
    .word 0, 0                          // the end tag
    .long 8
header_end:

    .section .boot, "awx"
    .code32
    .global entry
entry:
    mov edi, eax                        // the loader's magic number and its information are the first two arguments
    mov esi, ebx
    mov eax, offset boot_pml4
    mov cr3, eax
    mov eax, cr4
    or eax, 1 << 5                      // PAE
    mov cr4, eax
    mov ecx, 0xc0000080                 // EFER
    rdmsr
    or eax, (1 << 8) | (1 << 11)        // LME, NXE
    wrmsr
    mov eax, cr0
    or eax, (1 << 31) | (1 << 16)       // PG; WP, so that read-only binds the kernel, too
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    .byte 0xea                          // jmp 0x08:in_long_mode
    .long in_long_mode
    .word 0x08
    .code64
in_long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    lgdt [boot_gdt_high_pointer]        // the same descriptors where they will still be mapped
    movabs rsp, offset boot_stack_end
    movabs rax, offset kernel_main
    call rax

boot_gdt_pointer:
    .word 15
    .long gdt_load_address
boot_gdt_high_pointer:
    .word 15
    .quad gdt

    .balign 4096                        // the tables; entries are present, writable, and in the last one large
boot_pml4:
    .quad boot_pdpt + 3
    .fill 510, 8, 0
    .quad boot_pdpt + 3
boot_pdpt:
    .quad boot_pd + 3
    .fill 510, 8, 0
    .quad boot_pd + 3
boot_pd:
    .set page, 0
    .rept 512
    .quad page + 0x83
    .set page, page + 0x200000
    .endr

    .section .rodata.gdt, "a"
    .balign 8
gdt:
    .quad 0, 0x00209b0000000000         // null; 64-bit code, accessed already, so that the CPU need not write to it
    .set gdt_load_address, gdt - 0xffffffffc0000000

    .section .bss.stack, "aw", @nobits
    .balign 16
    .skip 128 * 1024
boot_stack_end:

    .section .text.entry, "ax"
    .global go_on, touch, page_fault_entry
go_on:
    mov rsp, rdi
    call rsi

touch:                                  // writes a byte where it is told; a fault ends it as well
    mov byte ptr [rdi], 1
touched:
    ret

page_fault_entry:
    pop rdi                             // error code
    mov rsi, [rsp]                      // instruction
    mov rdx, cr2                        // address
    sub rsp, 8                          // the stack is aligned for a call
    call page_fault
    add rsp, 8
    lea rax, [rip + touched]            // whoever called `touch` expects no more of these registers than of a call
    mov [rsp], rax
    iretq
