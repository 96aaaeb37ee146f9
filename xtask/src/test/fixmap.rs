//! Boots that use the fixmap's slots: those of the interrupt controllers, and one that shows nothing.

use super::boot_table::{BootCase, Ending};

/// The table.
pub(super) const FIXMAP: &[BootCase] = &[
    BootCase {
        name: "fixmap, the I/O APIC's slot",
        // The identifier that QEMU gives its I/O APIC, its version and its 24 inputs.
        says: &[
            "verify: ",
            "IOAPIC[0]: apic_id 0, version 32, address 0xfec00000, GSI 0-23",
            "kspace: done",
        ],
        ..BootCase::USUAL
    },
    BootCase {
        name: "fixmap, an empty slot that is read",
        append: "nokaslr provoke=empty-slot",
        ends: Ending::Failure,
        says: &[
            "fault: read of ffffffffff5fe010: not mapped, slot 513 (early console) of the fixmap, empty",
            "kspace: stopped by a fault",
        ],
        never: &["nothing faulted", "panicked"],
        ..BootCase::USUAL
    },
];
