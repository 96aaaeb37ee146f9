//! Boots that change live pages: rights, memory types, presence; large pages split and merged. That the changes reach the MMU shows where
//! QEMU raises the faults; that nothing else did, where the kernel holds its live tables against its books at the end.

use super::boot_table::{BootCase, Ending};

/// The table.
pub(super) const PERMISSIONS: &[BootCase] = &[
    BootCase {
        name: "permissions, a page of 2 MiB in the direct map",
        append: "nokaslr nogbpages no5lvl test-permissions show=memtype",
        mem_mib: 1024,
        says: &[
            // While a buffer of the test's is uncached: in Linux's words, in the order of addresses.
            "PAT memtype list:",
            "] uncached-minus",
            "PAT: [mem 0x00000000fee00000-0x00000000fee01000] uncached",
            "test-permissions: area: ro x nx rw uc wc wb np p, in both places, and W+X refused",
            "test-permissions: direct map: the 2M page of physical 0000000",
            " was split to 4k, and is 2M again",
            "test-permissions: 8 rounds on each CPU at once, neighbours in one large page",
            "test-permissions: 0 ranges changed and 0 large pages split are left",
            "verify: ",
            "memtype:",
            "PAT memtype list:",
            "PAT: [mem 0x00000000fec00000-0x00000000fec01000] uncached",
            "PAT: [mem 0x00000000fee00000-0x00000000fee01000] uncached",
            "kspace: done",
        ],
        never: &[
            "panicked",
            "pages were not changed",
            "live page tables differ",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "permissions, a page of 1 GiB, on four CPUs",
        append: "test-permissions",
        cpus: 4,
        mem_mib: 6144,
        says: &[
            "test-permissions: area: ro x nx rw uc wc wb np p, in both places, and W+X refused",
            "test-permissions: direct map: the 1G page of physical 00000001",
            " was split to 4k, and is 1G again",
            "test-permissions: 8 rounds on each CPU at once, neighbours in one large page",
            "test-permissions: 0 ranges changed and 0 large pages split are left",
            "verify: ",
            "kspace: done",
        ],
        never: &[
            "panicked",
            "pages were not changed",
            "live page tables differ",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "permissions, a write to a page that was made read-only",
        append: "nokaslr no5lvl provoke=read-only-page",
        ends: Ending::Failure,
        says: &[
            "provoke: writing ffffc90000005000",
            "fault: write to ffffc90000005000: read-only, the start of the vmalloc area ffffc90000005000-ffffc90000007fff (12 KiB, made by \
             kernel/src/arch/x86_64/provoke.rs:",
            "; page ffffc90000005000 was made read-only by kernel/src/arch/x86_64/provoke.rs:",
            "page tables: 4k page, r-- supervisor global write-back",
            "kspace: stopped by a fault",
        ],
        never: &["nothing faulted", "panicked"],
        ..BootCase::USUAL
    },
    BootCase {
        name: "permissions, a read of a page that was made non-present",
        append: "nokaslr no5lvl provoke=non-present-page",
        ends: Ending::Failure,
        says: &[
            "provoke: reading ffff88800",
            "fault: read of ffff88800",
            ": not mapped, direct map of physical 000000000",
            " was made non-present by kernel/src/arch/x86_64/provoke.rs:",
            "page tables: not present at level 1",
            ": hidden, a 4k page, rw- supervisor global write-back, physical 000000000",
            "kspace: stopped by a fault",
        ],
        never: &["nothing faulted", "panicked"],
        ..BootCase::USUAL
    },
];
