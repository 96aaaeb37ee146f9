//! Boots with several CPUs: all come up, all are stopped when one ends badly, and all forget what one unmaps.

use super::boot_table::{BootCase, Ending};

/// The boots.
pub(super) const MANY_CPUS: &[BootCase] = &[
    BootCase {
        name: "a second CPU",
        cpus: 2,
        says: &[
            "smp: 2 of 2 CPUs online",
            "timer: every CPU took its interrupt",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "sixteen CPUs, 4-level",
        cpus: 16,
        append: "no5lvl",
        says: &[
            "apic: xAPIC",
            "smp: 16 of 16 CPUs online",
            "timer: every CPU took its interrupt",
            "verify: ",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "every CPU has a stack that is an area",
        cpus: 4,
        append: "nokaslr no5lvl show=meminfo,vmallocinfo",
        says: &[
            "KernelStack:          64 kB",
            "PageTables: ",
            "VmallocUsed:          64 kB",
            "] 0xffffc90000000000-0xffffc90000005000   20480 kernel/src/arch/x86_64/boot/second_stage.rs:",
            " pages=4 vmalloc stack N0=4",
            "] 0xffffc90000008000-0xffffc9000000d000   20480 kernel/src/arch/x86_64/startup.rs:",
            " pages=4 vmalloc stack N0=4",
            "] 0xffffc90000010000-0xffffc90000015000   20480 kernel/src/arch/x86_64/startup.rs:",
            " pages=4 vmalloc stack N0=4",
            "] 0xffffc90000018000-0xffffc9000001d000   20480 kernel/src/arch/x86_64/startup.rs:",
            " pages=4 vmalloc stack N0=4",
            "kspace: done",
        ],
        never: &["panicked", "] 0xffffc90000020000", " 8192 "],
        ..BootCase::USUAL
    },
    BootCase {
        name: "a stack that overflows on CPU 1",
        cpus: 3,
        append: "nokaslr no5lvl provoke=stack-overflow-cpu1",
        ends: Ending::Failure,
        says: &[
            "double fault: an exception could not be delivered on the stack at ffffc90000007",
            "fault: write to ffffc90000007",
            ": not mapped, guard page below the stack ffffc90000008000-ffffc9000000bfff (16 KiB, made by kernel/src/arch/x86_64/startup.rs:",
            "the stack is CPU 1's",
            "CPU 0: stopped at ffffffff81",
            "CPU 2: stopped at ffffffff81",
            "kspace: stopped by a fault",
        ],
        never: &["panicked", "provoke: recursed"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "a shootdown stress on two CPUs",
        cpus: 2,
        append: "stress=400",
        says: &[
            "stress: 400 rounds on each of 2 CPUs: ",
            " numbers read, 0 wrong, 0 edits refused",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "a shootdown stress on eight CPUs",
        cpus: 8,
        append: "no5lvl stress=60 seed=60",
        says: &[
            "stress: yield points delayed by seed=60",
            "stress: 60 rounds on each of 8 CPUs: ",
            " 0 frames lost",
            "verify: ",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "a long shootdown stress on eight CPUs",
        cpus: 8,
        append: "stress=1000",
        says: &["stress: 1000 rounds on each of 8 CPUs: "],
        slow: true,
        ..BootCase::USUAL
    },
    BootCase {
        name: "a stress of the frame allocator on one CPU",
        append: "stress-frames=300 seed=7",
        says: &[
            "stress-frames: 300 rounds on each of 1 CPU, seed=7: ",
            "stress-frames: ",
            " double frees tried, 0 let through; 0 wrong numbers; ",
            " heap pieces, 0 wrong; ",
            " interrupts allocated",
            " interrupts, and 0 are kept still",
            "; 0 unexpected errors",
            ": 0 lost; ",
        ],
        never: &["panicked", "unexpected:", "kernel panic"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "a stress of the frame allocator on eight CPUs",
        cpus: 8,
        append: "no5lvl stress-frames=150 seed=8",
        says: &[
            "stress-frames: 150 rounds on each of 8 CPUs, seed=8: ",
            " freed by another CPU",
            " double frees tried, 0 let through; 0 wrong numbers; ",
            " heap pieces, 0 wrong; ",
            " interrupts allocated",
            "stress-frames: CPUs kept ",
            " interrupts, and 0 are kept still",
            "stress-frames: all CPUs together held ",
            "; 0 unexpected errors",
            ": 0 lost; ",
        ],
        never: &["panicked", "unexpected:", "kernel panic"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "a long stress of the frame allocator on eight CPUs",
        cpus: 8,
        mem_mib: 1024,
        append: "stress-frames=3000",
        says: &["stress-frames: 3000 rounds on each of 8 CPUs", ": 0 lost; "],
        never: &["panicked", "unexpected:", "kernel panic"],
        slow: true,
        ..BootCase::USUAL
    },
    BootCase {
        name: "a fault stops every CPU",
        cpus: 4,
        append: "nokaslr provoke=null",
        ends: Ending::Failure,
        says: &[
            "fault: read of 0000000000000000: not mapped, null pointer",
            "  by the instruction at ffffffff81",
            "CPU 1: stopped at ffffffff81",
            "CPU 2: stopped at ffffffff81",
            "CPU 3: stopped at ffffffff81",
            "kspace: stopped by a fault",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "a panic shows every CPU's stack",
        cpus: 3,
        append: "nokaslr provoke=panic",
        ends: Ending::Failure,
        says: &[
            "kernel panic: provoked (",
            "kernel text, ",
            "CPU 1: stopped at ",
            "CPU 2: stopped at ",
            "kspace: stopped by a panic",
        ],
        never: &[],
        ..BootCase::USUAL
    },
    BootCase {
        name: "four CPUs that panic at once",
        cpus: 4,
        append: "nokaslr provoke=panic-everywhere",
        ends: Ending::Failure,
        says: &[
            "kernel panic: provoked on CPU ",
            ": stopped at ffffffff81",
            ": stopped at ffffffff81",
            ": stopped at ffffffff81",
            "kspace: stopped by a panic",
        ],
        never: &["stopped at 0000000000000000", "does not answer"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "a lock held across a flush is found",
        cpus: 2,
        append: "provoke=lock-across-flush",
        ends: Ending::Failure,
        says: &["shootdown: CPU 0 waits for a flush in atomic context"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "SMAP closes a user page",
        append: "nokaslr provoke=user-access",
        ends: Ending::Failure,
        says: &["fault: read of 0000000000400000: user page, closed to the kernel by SMAP"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "SMEP keeps the kernel out of a user page",
        append: "nokaslr provoke=user-execute",
        ends: Ending::Failure,
        says: &[
            "fault: execution of 0000000000400000: user page, which the kernel may not execute (SMEP)",
        ],
        ..BootCase::USUAL
    },
];
