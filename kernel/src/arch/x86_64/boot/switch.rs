//! The two moves that Rust cannot express: to five levels, and to the final address.

use core::arch::global_asm;

unsafe extern "C" {
    /// Turns on 5-level paging with the tables under `root`, a physical address below 4 GiB, and returns.
    ///
    /// CR4.LA57 may change only while paging is off (Intel SDM vol. 3, section 5.1.2), and paging may be off only outside
    /// 64-bit mode: so the code goes down to 32-bit mode and comes back.
    ///
    /// # Safety
    ///
    /// CPUID must report LA57. The code, the stack and the GDT must be at addresses below 4 GiB that the tables under `root`
    /// map to themselves.
    pub fn enable_five_levels(root: u64);

    /// Loads `root` into CR3, takes `stack_top` as its stack and calls `target`, never to return.
    ///
    /// # Safety
    ///
    /// Must be called at its final address (see [`first_stage`](super::first_stage)), which the present tables and those
    /// under `root` must both map. The tables under `root` must map `target` and the page below `stack_top`.
    pub fn enter_final_address_space(root: u64, stack_top: u64, target: u64) -> !;
}

global_asm!(
    r#"
    .pushsection .init.text, "ax", @progbits
    .code64
    .global enable_five_levels
enable_five_levels:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov esi, edi
    push 0x18
    lea rax, [rip + 1f]
    push rax
    retfq
    .code32
1:  mov eax, cr0
    btr eax, 31
    mov cr0, eax
    mov eax, cr4
    bts eax, 12
    mov cr4, eax
    mov cr3, esi
    mov eax, cr0
    bts eax, 31
    mov cr0, eax
    call 2f
2:  pop eax
    lea eax, [eax + five_levels_on_distance]
    push 0x08
    push eax
    retf
    .code64
    .set five_levels_on_distance, 3f - 2b
3:  mov esp, esp
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

    .global enter_final_address_space
enter_final_address_space:
    mov cr3, rdi
    mov rsp, rsi
    xor ebp, ebp
    call rdx
    ud2
    .popsection
    "#
);
