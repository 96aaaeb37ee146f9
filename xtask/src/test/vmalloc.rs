//! Boots that use areas mapped on demand: Linux's workloads, a soak on all CPUs, memory in crumbs, and accesses where no area is.
//!
//! After each workload the kernel itself holds frames, tables and addresses against what there were before, and its live page tables
//! against the areas: a difference ends the boot as a failure.

use std::path::Path;
use std::time::Duration;

use super::Check;
use super::boot_table::{BootCase, Ending};
use super::report::{Failed, Outcome, Passed};
use crate::kernel::Kernel;
use crate::qemu::boot::{Exit, boot};
use crate::qemu::machine::Machine;

/// A boot that does one of Linux's workloads, a few loops of it, with purges in between.
macro_rules! workload {
    ($test:literal, $loops:literal, $($text:literal),+) => {
        BootCase {
            name: concat!("vmalloc, ", $test),
            append: concat!("nokaslr vmalloc-quarantine=100 test-vmalloc=", $test, ":", $loops),
            says: &[$($text,)+ "verify: ", "kspace: done"],
            never: &["panicked", "lost something", "a workload on areas failed"],
            ..BootCase::USUAL
        }
    };
}

/// The table.
pub(super) const AREAS: &[BootCase] = &[
    workload!(
        "fix_size_alloc_test",
        "500",
        "test-vmalloc: fix_size_alloc_test: 500 loops in "
    ),
    workload!(
        "full_fit_alloc_test",
        "100",
        "test-vmalloc: full_fit_alloc_test: 100 loops in "
    ),
    workload!(
        "long_busy_list_alloc_test",
        "100",
        "test-vmalloc: long_busy_list_alloc_test: 100 loops in "
    ),
    workload!(
        "random_size_alloc_test",
        "200",
        "test-vmalloc: random_size_alloc_test: 200 loops in "
    ),
    workload!(
        "fix_align_alloc_test",
        "200",
        "test-vmalloc: fix_align_alloc_test: 200 loops in "
    ),
    workload!(
        "random_size_align_alloc_test",
        "200",
        "test-vmalloc: random_size_align_alloc_test: 200 loops in "
    ),
    // 2^45 bytes is the whole of the area in 4-level paging, 12.5 PiB in 5-level: there is no second place to align to beyond that.
    workload!(
        "align_shift_alloc_test",
        "1",
        "test-vmalloc: align_shift_alloc_test: failed: vmalloc: no 2 free pages in one piece at a multiple of ",
        "test-vmalloc: align_shift_alloc_test: must be refused, and was: true"
    ),
    workload!(
        "vm_map_ram_test",
        "500",
        "test-vmalloc: vm_map_ram_test: 500 loops in "
    ),
    BootCase {
        name: "vmalloc, bookkeeping",
        mem_mib: 1280,
        append: "nokaslr test-vmalloc=bookkeeping:1",
        says: &[
            "test-vmalloc: bookkeeping: 15000 areas of 1 pages: ",
            "test-vmalloc: bookkeeping: 15000 areas of 16 pages: ",
            "verify: ",
            "kspace: done",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "vmalloc, a soak on four CPUs",
        cpus: 4,
        mem_mib: 512,
        append: "soak-vmalloc=40000",
        says: &[
            "soak-vmalloc: 40000 operations on 4 CPUs, seed=",
            "soak-vmalloc: 0 wrong numbers, 0 refused; frames, tables and addresses are as before",
            "verify: ",
            "kspace: done",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        // Freed pages that wait for others' purges must not become all there are.
        name: "vmalloc, a soak where memory is short",
        cpus: 4,
        mem_mib: 64,
        append: "soak-vmalloc=20000 min_free_kbytes=20000",
        says: &[
            "soak-vmalloc: 0 wrong numbers, 0 refused; frames, tables and addresses are as before",
            "kspace: done",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "vmalloc, a soak that flushes at every free",
        cpus: 2,
        append: "soak-vmalloc=4000 vmalloc-quarantine=0 no5lvl",
        says: &[
            "soak-vmalloc: 0 wrong numbers, 0 refused; frames, tables and addresses are as before",
            "kspace: done",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "vmalloc, a soak with poisoned areas at random places",
        cpus: 2,
        append: "soak-vmalloc=3000 vmalloc-debug=poison,random,flush seed=5",
        says: &[
            "vmalloc: freed areas are filled with 0x6b6b6b6b6b6b6b6b",
            "vmalloc: areas are placed at random, seed=5",
            "vmalloc: every free flushes",
            "soak-vmalloc: 0 wrong numbers, 0 refused; frames, tables and addresses are as before",
            "verify: ",
            "kspace: done",
        ],
        never: &["written after it was freed", "panicked"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "vmalloc, a page of 1 GiB",
        mem_mib: 4096,
        append: "no5lvl test-vmalloc=large_pages show=meminfo,vmallocinfo",
        says: &[
            "test-vmalloc: large_pages: 1048576 KiB as it comes: 1 pages of 1G, 0 of 2M, 0 of 4K, read back: true",
            "kernel/src/vmalloc/workloads/sizes.rs:",
            " pages=262144 vmalloc N0=262144 1G=1",
            "test-vmalloc: large_pages: 65536 KiB in small pages: 0 pages of 1G, 0 of 2M, 16384 of 4K, read back: true",
            "kernel/src/vmalloc/workloads/sizes.rs:",
            " pages=16384 vmalloc N0=16384",
            "test-vmalloc: large_pages: 6144 KiB rounded to large pages: 0 pages of 1G, 3 of 2M, 0 of 4K, read back: true",
            "kernel/src/vmalloc/workloads/sizes.rs:",
            " pages=1536 vmalloc N0=1536 2M=3",
            "KernelStack: ",
            "PageTables: ",
            "VmallocTotal:   34359738368 kB",
            "VmallocUsed: ",
            "VmallocChunk:          0 kB",
            "vmallocinfo:",
            "kspace: done",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "vmalloc, an area that gets other sizes",
        append: "test-vmalloc=reallocate:20",
        says: &[
            "test-vmalloc: reallocate: 20 loops in ",
            " moves, every page read back",
            "verify: ",
            "kspace: done",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "vmalloc, 256 MiB where no 64 KiB lie in a row",
        mem_mib: 512,
        append: "nokaslr fragment-vmalloc",
        says: &[
            "fragment-vmalloc: 4",
            " MiB are free, 0 free blocks are of order 4 or more",
            "fragment-vmalloc: 64 KiB in a row were refused: allocate order 4 from node 0",
            "fragment-vmalloc: 256 MiB at ffa0",
            " were had, every page of them was written and read back: true",
            "kspace: done",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "vmalloc, a freed area that is read",
        append: "nokaslr provoke=freed-area",
        ends: Ending::Failure,
        says: &[
            "fault: read of ffa0000000005008: not mapped, 8 bytes into the freed vmalloc area ffa0000000005000-ffa0000000007fff (12 KiB, freed \
             by kernel/src/arch/x86_64/provoke.rs:",
            "kspace: stopped by a fault",
        ],
        never: &["nothing faulted", "panicked"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "vmalloc, the guard behind an area",
        append: "nokaslr no5lvl provoke=area-guard",
        ends: Ending::Failure,
        says: &[
            "fault: read of ffffc90000008000: not mapped, guard page of the vmalloc area ffffc90000005000-ffffc90000007fff (12 KiB, made by \
             kernel/src/arch/x86_64/provoke.rs:",
            "the first byte past its end",
            "kspace: stopped by a fault",
        ],
        never: &["nothing faulted", "panicked"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "vmalloc, an area in a user space, and all that is refused",
        cpus: 2,
        append: "nokaslr no5lvl test-vmalloc=remap,bad_input:1",
        says: &[
            "test-vmalloc: remap: 600 pages were read and written at both addresses, and kept when the kernel freed them: true",
            "bad_input: vmalloc: no bytes were asked for; ask for at least one",
            "bad_input: vmalloc: 4294967296 pages (16 TiB) are asked for, and the machine has ",
            "bad_input: vmalloc: 0x200000000001 bytes: more than all of ffffc90000000000-ffffe8ffffffffff (0x200000000000 bytes)",
            "bad_input: vmalloc: 0xffffffffffffffff bytes: more than all of ",
            "bad_input: vmalloc: 0xfffffffffffff001 bytes: more than all of ",
            "bad_input: vmalloc: alignment 0x0: it is no power of two",
            "bad_input: vmalloc: alignment 0x3000: it is no power of two",
            "bad_input: vmalloc: no 2 free pages in one piece at a multiple of 2251799813685248 in ",
            "bad_input: protect ffffc9",
            "would be writable and executable until the flush; protect it read-only and flush first; nothing was changed",
            "is RAM, which is mapped with another cache type already; use the direct map",
            "bytes from 000ffffffffff000 on go past the last physical address; check the device's size",
            "order 0 (4 KiB): not mapped (in use as kernel memory, order 0 (4 KiB)); free it as a block; nothing was changed",
            "bad_input: vmap: executable is refused, the frames are writable elsewhere; ask for executable memory, and seal it",
            "; free it by its start, ffffc9",
            ": a double free: the area ffffc9",
            "; nothing was changed",
            "where areas are; nothing was changed",
            "requests were refused",
            "verify: ",
            "kspace: done",
        ],
        never: &[
            "panicked",
            "lost something",
            "a workload on areas failed",
            "was not refused",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "vmalloc, an area in a user space, read after it was unmapped",
        append: "nokaslr no5lvl provoke=unmapped-user",
        ends: Ending::Failure,
        says: &[
            "provoke: user page 0000000000400000 has 0x0",
            "provoke: reading it again",
            "fault: read of 0000000000400000: not mapped, 4 MiB into user",
            "page tables: not present at level 1",
            "kspace: stopped by a fault",
        ],
        never: &["nothing faulted", "panicked"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "vmalloc, an area that is freed twice",
        append: "nokaslr no5lvl provoke=double-vfree",
        ends: Ending::Failure,
        says: &[
            "provoke: freed once: true",
            "kernel panic: vfree ffffc90000005000 by kernel/src/arch/x86_64/provoke.rs:",
            ": a double free: the area ffffc90000005000-ffffc90000005fff was freed before, by kernel/src/arch/x86_64/provoke.rs:",
            "kspace: stopped by a panic",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "vmalloc, words of nonsense",
        append: "test-vmalloc=fix_size soak-vmalloc=many vmalloc-debug=slow",
        says: &[
            "command line: \"test-vmalloc=fix_size\" was not used: \"fix_size\" is no workload; test-vmalloc= knows all fix_size_alloc_test",
            "command line: \"soak-vmalloc=many\" was not used: its value is no decimal number",
            "command line: \"vmalloc-debug=slow\" was not used: \"slow\" is no mode; vmalloc-debug= knows poison random flush",
        ],
        ..BootCase::USUAL
    },
];

/// How long ten million operations may take under TCG on a busy machine.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Only with `--all`.
pub(super) fn long_soak() -> Check {
    Check::new(
        "boot vmalloc, ten million operations on four CPUs",
        |context| soak(10_000_000, &context.qemu()?, context.kernel()?),
    )
}

fn soak(operations: u64, qemu: &Path, kernel: &Kernel) -> Outcome {
    let machine = Machine {
        cpus: 4,
        append: format!("soak-vmalloc={operations}"),
        ..Machine::default()
    };
    let ended = boot(machine.command(qemu, kernel.path()), PATIENCE, |_| {})?;
    let said = ended.log.lines().find_map(|line| {
        let (_, rest) = line.split_once("soak-vmalloc: ")?;
        rest.starts_with(&format!("{operations} operations"))
            .then(|| rest.to_owned())
    });
    match said {
        Some(line) if ended.exit == Exit::Success => Ok(Passed::noting(line)),
        _ => {
            Err(Failed::because(ended.exit.to_string()).with_log(&(ended.log + &ended.complaints)))
        }
    }
}
