//! Boots that change code while all CPUs run it.

use super::boot_table::BootCase;

/// The table.
pub(super) const TEXT_PATCHES: &[BootCase] = &[
    BootCase {
        name: "text patch, four CPUs",
        cpus: 4,
        append: "test-text-patch=25",
        says: &[
            "test-text-patch: 25 changes of 3 instructions in ",
            ": 0 wrong answers, 0 changes refused",
            "test-text-patch: the alias is gone, and nothing is writable and executable: true",
            "test-text-patch: the area of the third instruction is freed, and nothing is mapped there: true",
            "verify: ",
            "kspace: done",
        ],
        never: &["panicked", "#BP", "answer "],
        ..BootCase::USUAL
    },
    BootCase {
        name: "text patch, one CPU, 4-level",
        append: "test-text-patch=3000 no5lvl",
        says: &[
            "test-text-patch: 3000 changes of 3 instructions in ",
            ": 0 wrong answers, 0 changes refused",
            "verify: ",
            "kspace: done",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "text patch, two CPUs for longer",
        cpus: 2,
        append: "test-text-patch=300",
        says: &["test-text-patch: 300 changes", "kspace: done"],
        slow: true,
        ..BootCase::USUAL
    },
];
