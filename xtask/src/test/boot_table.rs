//! The boots as data: one row per question asked of the kernel. The loader is honest here; for others see
//! [`hostile_boots`](super::hostile_boots).
//!
//! A row says what the machine is, how the boot must end, which lines must come in which order, and which must never come. The
//! expected addresses are Linux's own (Documentation/arch/x86/x86_64/mm.rst), not this project's constants.

use super::fixmap::FIXMAP;
use super::hostile_boots::{MEMORY_MAPS, START_INFOS};
use super::many_cpus::MANY_CPUS;
use super::permissions::PERMISSIONS;
use super::start_info::Alteration;
use super::text_patch::TEXT_PATCHES;
use super::vmalloc::AREAS;

/// How a boot must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The kernel says that all is well, and prints its block.
    Success,
    /// The kernel says what is wrong and ends the machine itself.
    Failure,
}

/// One boot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BootCase {
    /// What the boot shows.
    pub(crate) name: &'static str,
    /// RAM in MiB.
    pub(crate) mem_mib: u64,
    /// Number of CPUs.
    pub(crate) cpus: u32,
    /// CPU features taken away.
    pub(crate) without: &'static [&'static str],
    /// The kernel's command line.
    pub(crate) append: &'static str,
    /// What is altered before the first instruction.
    pub(crate) altered: Option<Alteration>,
    /// How it ends.
    pub(crate) ends: Ending,
    /// Texts that lines must contain, in this order.
    pub(crate) says: &'static [&'static str],
    /// Texts that no line may contain.
    pub(crate) never: &'static [&'static str],
    /// Only with `--all`.
    pub(crate) slow: bool,
}

impl BootCase {
    /// A boot of the usual machine that succeeds; rows change what is different.
    pub(crate) const USUAL: Self = Self {
        name: "",
        mem_mib: 256,
        cpus: 1,
        without: &[],
        append: "",
        altered: None,
        ends: Ending::Success,
        says: &[],
        never: &["panicked"],
        slow: false,
    };
}

/// The boots.
pub(crate) const BOOTS: &[&[BootCase]] = &[
    MACHINES,
    WORDS,
    FAULTS,
    MEMORY,
    MANY_CPUS,
    AREAS,
    FIXMAP,
    PERMISSIONS,
    TEXT_PATCHES,
    POOR_CPUS,
    START_INFOS,
    MEMORY_MAPS,
];

const FOUR_LEVEL: &[&str] = &["la57"];

/// One boot per kind of machine.
const MACHINES: &[BootCase] = &[
    BootCase {
        name: "4-level, Linux's default addresses",
        without: FOUR_LEVEL,
        append: "nokaslr",
        says: &[
            "Command line: nokaslr",
            "paging: 4-level",
            "KASLR: off",
            "vsyscall : 0xffffffffff600000 - 0xffffffffff601000   (   4 kB)",
            "modules : 0xffffffffc0000000 - 0xffffffffff000000   (1008 MB)",
            "cpu_entry : 0xfffffe0000000000 - 0xfffffe8000000000   ( 512 GB)",
            "vmemmap : 0xffffea0000000000 - 0xffffeb0000000000   (1024 GB)",
            "vmalloc : 0xffffc90000000000 - 0xffffe90000000000   (  32 TB)",
            "lowmem  : 0xffff888000000000 - 0xffff88800ffe0000   ( 255 MB)",
            ".text : 0xffffffff81000000 - ",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "5-level, Linux's default addresses",
        append: "nokaslr",
        says: &[
            "paging: 5-level",
            "KASLR: off",
            "vsyscall : 0xffffffffff600000 - 0xffffffffff601000   (   4 kB)",
            "modules : 0xffffffffc0000000 - 0xffffffffff000000   (1008 MB)",
            "cpu_entry : 0xfffffe0000000000 - 0xfffffe8000000000   ( 512 GB)",
            "vmemmap : 0xffd4000000000000 - 0xffd6000000000000   ( 512 TB)",
            "vmalloc : 0xffa0000000000000 - 0xffd2000000000000   (12800 TB)",
            "lowmem  : 0xff11000000000000 - 0xff1100000ffe0000   ( 255 MB)",
            ".text : 0xffffffff81000000 - ",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "KASLR by RDRAND",
        says: &["KASLR: entropy from RDRAND"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "KASLR without RDRAND",
        without: &["rdrand", "rdseed"],
        says: &[
            "KASLR: entropy from the time-stamp counter and the memory map (no RDRAND; guessable)",
        ],
        never: &["entropy from RDRAND", "panicked"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "64 MiB",
        mem_mib: 64,
        ..BootCase::USUAL
    },
    BootCase {
        name: "5 GiB in 1 GiB pages",
        mem_mib: 5120,
        append: "nokaslr",
        // q35 has 2 GiB below the hole for devices, the last pages of them the firmware's, and the rest from 4 GiB up.
        says: &[
            "Using GB pages for direct mapping",
            "[mem 0x0000000001200000-0x000000007fdfffff] page 2M",
            "[mem 0x0000000100000000-0x00000001bfffffff] page 1G",
            "lowmem  : 0xff11000000000000 - 0xff110001c0000000   (7168 MB)",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "a CPU without 1 GiB pages",
        mem_mib: 5120,
        without: &["pdpe1gb"],
        says: &["[mem 0x0000000100000000-0x00000001bfffffff] page 2M"],
        never: &["Using GB pages", "page 1G", "panicked"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "20 GiB",
        mem_mib: 20 * 1024,
        slow: true,
        ..BootCase::USUAL
    },
];

/// One boot per word of the command line, right and wrong.
const WORDS: &[BootCase] = &[
    BootCase {
        name: "no5lvl",
        append: "no5lvl nokaslr",
        says: &[
            "paging: 4-level (the CPU has LA57; no5lvl)",
            "lowmem  : 0xffff888000000000",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "nogbpages",
        mem_mib: 5120,
        append: "nogbpages",
        says: &["[mem 0x0000000100000000-0x00000001bfffffff] page 2M"],
        never: &["Using GB pages", "page 1G", "panicked"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "mem=100M",
        append: "mem=100M nokaslr",
        says: &[
            "mem=0x6400000",
            "lowmem  : 0xff11000000000000 - 0xff11000006400000   ( 100 MB)",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "mem= above all RAM",
        append: "mem=1T nokaslr",
        says: &["lowmem  : 0xff11000000000000 - 0xff1100000ffe0000   ( 255 MB)"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "mem= below the image",
        append: "mem=8M",
        ends: Ending::Failure,
        says: &[
            "kspace: cannot boot: mem=0x800000: ",
            "is in use; give at least mem=0x",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "mem=0",
        append: "mem=0",
        ends: Ending::Failure,
        says: &[
            "kspace: cannot boot: mem=0x0: no RAM below it, RAM begins at 0000000000001000; nothing was changed",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "mem= of nonsense",
        append: "mem=lots mem= mem=99999999999999999999G mem=-1 nokaslr",
        says: &[
            "command line: \"mem=lots\" was not used: \"lots\" is not a size: it does not begin with a number; write for example 64M",
            "command line: \"mem=\" was not used",
            "command line: \"mem=99999999999999999999G\" was not used",
            "command line: \"mem=-1\" was not used",
            "lowmem  : 0xff11000000000000 - 0xff1100000ffe0000   ( 255 MB)",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "min_free_kbytes= above half of memory",
        append: "min_free_kbytes=200000",
        says: &[
            "min_free_kbytes=200000: more than half of low memory, which is ",
            "; nothing was changed",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "words about memory, of nonsense",
        append: "min_free_kbytes=4M numa=on show=slabinfo show=",
        says: &[
            "command line: \"min_free_kbytes=4M\" was not used: its value is no decimal number",
            "command line: \"numa=on\" was not used; numa= knows off",
            "command line: \"show=slabinfo\" was not used: \"slabinfo\" is no text; show= knows zoneinfo buddyinfo iomem meminfo",
            "command line: \"show=\" was not used: \"\" is no text",
        ],
        never: &["Node 0, zone", "panicked"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "every text that can be shown",
        append: "show=meminfo,iomem,buddyinfo,zoneinfo nokaslr",
        says: &[
            "Node 0, zone      DMA",
            "  pages free     ",
            "        protection: (0, ",
            "  start_pfn:           4096",
            "buddyinfo:",
            "Node 0, zone    DMA32 ",
            "iomem:",
            "00001000-0009fbff : System RAM",
            "  01000000-",
            " : Kernel code",
            " : Kernel rodata",
            " : Kernel data",
            " : Kernel bss",
            "meminfo:",
            "MemTotal:",
            "MemAvailable:",
            "DirectMap1G:           0 kB",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "an unknown word",
        append: "nokalsr quiet",
        says: &[
            "command line: \"nokalsr\" is not known and was not used",
            "command line: \"quiet\" is not known and was not used",
            "command line: known: nokaslr no5lvl ",
        ],
        never: &["KASLR: off", "panicked"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "an unknown provocation",
        append: "provoke=chaos",
        says: &["command line: \"provoke=chaos\" was not used; provoke= knows write-text"],
        ..BootCase::USUAL
    },
];

/// A boot that provokes a fault, at addresses that are the same every time.
macro_rules! fault {
    ($provocation:literal, $($text:literal),+) => {
        BootCase {
            name: concat!("fault, ", $provocation),
            append: concat!("nokaslr provoke=", $provocation),
            ends: Ending::Failure,
            says: &[$($text,)+ "kspace: stopped by a fault"],
            never: &["nothing faulted", "panicked"],
            ..BootCase::USUAL
        }
    };
}

/// One boot per fault that the kernel can be asked for; each must name what was touched.
const FAULTS: &[BootCase] = &[
    fault!(
        "write-text",
        "provoke: writing ffffffff81",
        "fault: write to ffffffff81",
        ": read-only, kernel text, ",
        " into .text",
        "4k page, r-x supervisor global"
    ),
    fault!(
        "write-rodata",
        "provoke: writing ffffffff81",
        "fault: write to ffffffff81",
        ": read-only, kernel constants, ",
        " into .rodata",
        "4k page, r-- supervisor global"
    ),
    fault!(
        "write-text-alias",
        "provoke: writing ff1100000",
        "fault: write to ff1100000",
        ": read-only, direct map of physical 0000000001",
        ", where .text lies"
    ),
    fault!(
        "execute-data",
        "provoke: jumping to ffa0000000003",
        "fault: execution of ffa0000000003",
        ": not executable, ",
        " into the stack ffa0000000000000-ffa0000000003fff (16 KiB, made by kernel/src/arch/x86_64/boot/second_stage.rs:",
        "the stack is CPU 0's"
    ),
    fault!(
        "null",
        "provoke: reading 0000000000000000",
        "fault: read of 0000000000000000: not mapped, null pointer"
    ),
    fault!(
        "non-canonical",
        "provoke: reading 0123456789abcdef",
        "fault: access to 0123456789abcdef: not canonical, not an address of 5-level paging"
    ),
    // The first area of all is the boot CPU's stack; the page below it, which is no area's, is its guard.
    fault!(
        "stack-overflow",
        "double fault: an exception could not be delivered on the stack at ff9ffffffffff",
        "fault: write to ff9ffffffffff",
        ": not mapped, guard page below the stack ffa0000000000000-ffa0000000003fff (16 KiB, made by \
         kernel/src/arch/x86_64/boot/second_stage.rs:",
        "the stack is CPU 0's"
    ),
    fault!(
        "guard-page",
        "provoke: reading fffffe0000005ff8",
        "fault: read of fffffe0000005ff8: not mapped, guard page of CPU 0's #DF stack"
    ),
    fault!(
        "vmalloc",
        "provoke: reading ffd1fffffffffff8",
        "fault: read of ffd1fffffffffff8: not mapped, 12.4 PiB into vmalloc"
    ),
    fault!(
        "direct-map-hole",
        "provoke: reading ff1100000ffe0000",
        "fault: read of ff1100000ffe0000: not mapped, direct map, but physical 000000000ffe0000 is behind the end of RAM, 000000000ffdffff"
    ),
    fault!(
        "hole",
        "provoke: reading ffd3fffffffff000",
        "fault: read of ffd3fffffffff000: not mapped, the hole between vmalloc and vmemmap"
    ),
];

/// Memory that is used up.
const MEMORY: &[BootCase] = &[
    BootCase {
        name: "18 MiB, the least that holds the kernel",
        mem_mib: 18,
        ..BootCase::USUAL
    },
    BootCase {
        name: "a heap that is used up",
        append: "provoke=heap-exhausted",
        ends: Ending::Failure,
        says: &[
            "heap: 1048576 bytes: allocate order 8 from node 0, zone DMA32: ",
            "Node 0 DMA free:",
            "Node 0 DMA32 free:",
            "kernel panic: memory allocation of 1048576 bytes failed",
            "kspace: stopped by a panic",
        ],
        ..BootCase::USUAL
    },
];

/// CPUs that lack what the kernel cannot do without.
const POOR_CPUS: &[BootCase] = &[
    BootCase {
        name: "a CPU without long mode",
        without: &["lm"],
        ends: Ending::Failure,
        says: &[
            "kspace: this CPU has no long mode (CPUID 80000001h EDX bit 29 is 0): kspace on x86-64 needs a 64-bit CPU",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "a CPU without NX",
        without: &["nx"],
        ends: Ending::Failure,
        says: &[
            "kspace: this CPU has no NX (CPUID 80000001h EDX bit 20 is 0): kspace never maps writable memory executable, and cannot without it",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "a CPU without PSE",
        without: &["pse"],
        ends: Ending::Failure,
        says: &[
            "kspace: this CPU has no PSE (CPUID 1 EDX bit 3 is 0): the direct map needs large pages",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "a CPU without PAE",
        without: &["pae"],
        ends: Ending::Failure,
        says: &["kspace: this CPU has no PAE (CPUID 1 EDX bit 6 is 0): long mode needs it"],
        ..BootCase::USUAL
    },
];
