//! The slots of the x86-64 fixmap: pages whose virtual address is known when the kernel is compiled.
//!
//! Slots are numbered downwards from [`Fixmap::TOP`], as in Linux's `arch/x86/include/asm/fixmap.h`:
//!
//! ```text
//!   slot   address
//!      0   ffffffffff7ff000   FIXADDR_TOP; slots 0 to 510 are not used on x86-64
//!    511   ffffffffff600000   vsyscall page: a slot, but an area and a row of its own in a layout
//!    512   ffffffffff5ff000   debug port
//!    513   ffffffffff5fe000   early console
//!    514   ffffffffff5fd000   local APIC
//!    515…642                  I/O APICs, 128 of them
//!    643   ffffffffff57c000   FIXADDR_START: the end of the permanent slots, itself unused
//!   1024…1535                 early mappings: eight runs of 64 pages, all in one page table
//! ```
//!
//! Linux has more permanent slots when it is configured for more devices. Slots that this kernel does not use are left out, as in a
//! Linux without them.

use core::fmt;

use crate::{FRAME_SIZE, VirtAddr, VirtRange};

/// `MAX_IO_APICS` of 64-bit Linux.
const IO_APICS: u16 = 128;
/// Pages of one early mapping: `NR_FIX_BTMAPS`.
const EARLY_PAGES: u16 = 64;
/// Early mappings that may exist at one time: `FIX_BTMAPS_SLOTS`.
const EARLY_MAPPINGS: u16 = 8;

const VSYSCALL: u16 = 511;
const DEBUG_PORT: u16 = 512;
const EARLY_CONSOLE: u16 = 513;
const LOCAL_APIC: u16 = 514;
const IO_APIC: u16 = 515;
/// `__end_of_permanent_fixed_addresses`.
const PERMANENT_END: u16 = IO_APIC + IO_APICS;
/// `FIX_BTMAP_END`: the highest of the early slots' addresses.
const EARLY: u16 = early_start(PERMANENT_END as u64, EARLY_TOTAL as u64, 512) as u16;
const EARLY_TOTAL: u16 = EARLY_PAGES * EARLY_MAPPINGS;

/// The number of the first of `total` early slots that follow `permanent` slots: right behind them if that keeps all early ones
/// in one page table of `entries` entries, else at the next multiple of `total`.
pub(crate) const fn early_start(permanent: u64, total: u64, entries: u64) -> u64 {
    let one_table = permanent / entries == (permanent + total - 1) / entries;
    if one_table {
        permanent
    } else {
        permanent + total - permanent % total
    }
}

/// A slot of the fixmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FixmapSlot {
    /// The vsyscall page.
    Vsyscall,
    /// A USB debug port.
    DebugPort,
    /// The registers of an early console.
    EarlyConsole,
    /// The registers of the CPU's own interrupt controller.
    LocalApic,
    /// The registers of an I/O APIC, 0 to 127.
    IoApic(u8),
    /// A page of an early mapping.
    Early {
        /// Which mapping, 0 to 7.
        mapping: u8,
        /// Which of its pages, 0 to 63; page 0 has the lowest address.
        page: u8,
    },
}

impl fmt::Display for FixmapSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Vsyscall => f.write_str("vsyscall page"),
            Self::DebugPort => f.write_str("debug port"),
            Self::EarlyConsole => f.write_str("early console"),
            Self::LocalApic => f.write_str("local APIC"),
            Self::IoApic(index) => write!(f, "I/O APIC {index}"),
            Self::Early { mapping, page } => write!(f, "page {page} of early mapping {mapping}"),
        }
    }
}

/// The geometry of the x86-64 fixmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixmap;

impl Fixmap {
    /// Linux's `FIXADDR_TOP`: `round_up(VSYSCALL_ADDR + 4 KiB, 2 MiB) - 4 KiB`.
    pub const TOP: VirtAddr = VirtAddr::new(0xffff_ffff_ff7f_f000);
    /// The vsyscall page.
    pub const VSYSCALL: VirtRange = pages(VSYSCALL, 1);
    /// The permanent slots but the vsyscall page, and the unused page below them at which Linux's `FIXADDR_START` lies.
    pub const PERMANENT: VirtRange = pages(PERMANENT_END, PERMANENT_END - VSYSCALL);
    /// The early slots.
    pub const EARLY: VirtRange = pages(EARLY + EARLY_TOTAL - 1, EARLY_TOTAL);

    /// How many pages an early mapping can have: Linux's `NR_FIX_BTMAPS`.
    pub const EARLY_PAGES: u8 = EARLY_PAGES as u8;
    /// How many early mappings there can be at a time: Linux's `FIX_BTMAPS_SLOTS`.
    pub const EARLY_MAPPINGS: u8 = EARLY_MAPPINGS as u8;

    /// The number of a slot, as Linux's `enum fixed_addresses` counts them; `None` for an index that does not exist.
    #[must_use]
    pub const fn number(self, slot: FixmapSlot) -> Option<u16> {
        let number = match slot {
            FixmapSlot::Vsyscall => VSYSCALL,
            FixmapSlot::DebugPort => DEBUG_PORT,
            FixmapSlot::EarlyConsole => EARLY_CONSOLE,
            FixmapSlot::LocalApic => LOCAL_APIC,
            FixmapSlot::IoApic(index) if (index as u16) < IO_APICS => IO_APIC + index as u16,
            FixmapSlot::Early { mapping, page }
                if (mapping as u16) < EARLY_MAPPINGS && (page as u16) < EARLY_PAGES =>
            {
                // Linux's FIX_BTMAP_BEGIN - 64 * mapping is the lowest page of a mapping.
                EARLY + EARLY_TOTAL - 1 - EARLY_PAGES * mapping as u16 - page as u16
            }
            _ => return None,
        };
        Some(number)
    }

    /// The address of a slot; `None` for an index that does not exist.
    #[must_use]
    pub const fn address(self, slot: FixmapSlot) -> Option<VirtAddr> {
        match self.number(slot) {
            Some(number) => Some(address_of(number)),
            None => None,
        }
    }

    /// The slot that holds `address`; `None` where no slot is.
    #[must_use]
    pub const fn slot_at(self, address: VirtAddr) -> Option<FixmapSlot> {
        let Some(below_top) = Self::TOP.offset_from(address.align_down(FRAME_SIZE)) else {
            return None;
        };
        if below_top / FRAME_SIZE >= (EARLY + EARLY_TOTAL) as u64 {
            return None;
        }
        let number = (below_top / FRAME_SIZE) as u16;
        match number {
            VSYSCALL => Some(FixmapSlot::Vsyscall),
            DEBUG_PORT => Some(FixmapSlot::DebugPort),
            EARLY_CONSOLE => Some(FixmapSlot::EarlyConsole),
            LOCAL_APIC => Some(FixmapSlot::LocalApic),
            IO_APIC..PERMANENT_END => Some(FixmapSlot::IoApic((number - IO_APIC) as u8)),
            EARLY.. => {
                let from_lowest = EARLY + EARLY_TOTAL - 1 - number;
                Some(FixmapSlot::Early {
                    mapping: (from_lowest / EARLY_PAGES) as u8,
                    page: (from_lowest % EARLY_PAGES) as u8,
                })
            }
            _ => None,
        }
    }
}

const fn address_of(number: u16) -> VirtAddr {
    VirtAddr::new(Fixmap::TOP.as_u64() - number as u64 * FRAME_SIZE)
}

/// `count` slots upwards from the address of slot `lowest`.
const fn pages(lowest: u16, count: u16) -> VirtRange {
    VirtRange::new(address_of(lowest), count as u64 * FRAME_SIZE)
}

const _: () = {
    const VSYSCALL_ADDR: u64 = 0u64.wrapping_sub(10 << 20);
    assert!(Fixmap::VSYSCALL.start().as_u64() == VSYSCALL_ADDR);
    let above = VSYSCALL_ADDR + 4096;
    assert!(Fixmap::TOP.as_u64() == above.next_multiple_of(2 << 20) - 4096);
    assert!(Fixmap::PERMANENT.last().as_u64() + 1 == VSYSCALL_ADDR);
    // All early slots in one page table, which spans 2 MiB.
    assert!(Fixmap::EARLY.is_aligned(2 << 20) && Fixmap::EARLY.size() == 2 << 20);
    assert!(Fixmap::EARLY.last().as_u64() < Fixmap::PERMANENT.start().as_u64());
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_found_at_its_address_and_nothing_elsewhere() {
        let mut slots = 0;
        for number in 0..=2048u16 {
            let address = address_of(number);
            if let Some(slot) = Fixmap.slot_at(address) {
                assert_eq!(Fixmap.address(slot), Some(address));
                assert_eq!(Fixmap.number(slot), Some(number));
                slots += 1;
            }
        }
        assert_eq!(slots, 1 + 1 + 1 + 1 + 128 + 512);
        assert_eq!(Fixmap.slot_at(VirtAddr::LAST), None);
        assert_eq!(Fixmap.slot_at(VirtAddr::ZERO), None);
    }

    #[test]
    fn a_mapping_grows_upwards_from_its_page_zero() {
        let at = |mapping, page| Fixmap.address(FixmapSlot::Early { mapping, page }).unwrap();
        assert_eq!(at(0, 0), Fixmap::EARLY.start());
        assert_eq!(at(0, 1), at(0, 0).checked_add(4096).unwrap());
        assert_eq!(at(7, 63), Fixmap::EARLY.last().align_down(4096));
    }

    #[test]
    fn an_index_too_many_has_no_address() {
        assert_eq!(Fixmap.address(FixmapSlot::IoApic(128)), None);
        assert_eq!(
            Fixmap.address(FixmapSlot::Early {
                mapping: 8,
                page: 0
            }),
            None
        );
        assert_eq!(
            Fixmap.address(FixmapSlot::Early {
                mapping: 0,
                page: 64
            }),
            None
        );
    }
}
