//! Parked entries: pages that are gone for every access, but whose entries remember their frames until the flush.
//!
//! What a freed page mapped may not be reused before all CPUs have flushed, and until then somebody must know what it was. The
//! entry itself does, so that a free needs neither memory nor a list:
//!
//! ```text
//!            63   62..52   51 .. 12                 11  10..1           0
//!   leaf     XD   ignored  address                  0   rights, cache   1
//!                          | every bit inverted     |                   |
//!                          v                        v                   v
//!   parked   XD   ignored  address, inverted        1   rights, cache   0
//!
//!   empty ----map, fill----> leaf ----park----> parked ----flush, collect----> empty, and the frame is told
//! ```
//!
//! Two-level entries are the low 32 bits of this. Larger pages are parked in the entry of their level, whose other bits from 12
//! up (PAT, PSE-36 address bits, reserved) are inverted as well. Inverting is its own inverse, so nothing is lost.
//!
//! - **The CPU ignores it**: in an entry with bit 0 clear all other bits are ignored, in every format and at every level (Intel SDM
//!   vol. 3, figures 5-4, 5-7, 5-11: "not present"), and the CPU caches nothing of it (section 5.10.2.3).
//! - **It cannot be mistaken**: editors write no other entry that is not present, except zero; bit 11 tells them apart.
//! - **Speculation finds no memory through it**: a CPU with the L1 terminal fault uses the address in an entry that is not present to
//!   look into its first-level cache (Intel, "L1 Terminal Fault", INTEL-SA-00161, CVE-2018-3620). Inverted, the address of
//!   memory in the lower half of what the CPU can address is one in the upper half, where no memory is. So it holds as long as
//!   memory ends below half of the physical-address width, which is the limit that Linux states for the same remedy
//!   (arch/x86/include/asm/pgtable-invert.h; `l1tf_pfn_limit` in arch/x86/include/asm/processor.h). Two-level entries have 32 address
//!   bits only: there memory must end below 2 GiB.

use kspace_layout::PhysAddr;

use crate::entry::{HIDDEN, PARKED, PRESENT};
use crate::{EntryFormat, Format, Limits, RawEntry};

/// Whether an entry is parked.
#[inline(always)]
pub(crate) const fn is_parked(raw: u64) -> bool {
    raw & (PRESENT | PARKED | HIDDEN) == PARKED
}

impl Format {
    /// What parking a leaf changes, as long as its bit 11 is clear.
    #[inline(always)]
    pub(crate) const fn parked_flip(self) -> u64 {
        self.address_mask() | PRESENT | PARKED
    }

    /// The parked form of any leaf.
    #[inline(always)]
    pub(crate) const fn parked(self, leaf: u64) -> u64 {
        ((leaf ^ self.parked_flip()) | PARKED) & !HIDDEN
    }

    /// The page that a parked entry at `level` remembers.
    #[inline(always)]
    pub(crate) const fn parked_page(self, level: u8, raw: u64, limits: Limits) -> PhysAddr {
        self.page(level, raw ^ self.parked_flip(), limits)
    }
}

/// Clears the parked entries of `slots`, a part of a level-1 table, and tells `each` the runs: what the first entry was, and how many
/// entries remembered consecutive frames under equal rights. Other entries are passed over.
#[inline(always)]
pub(crate) fn collect<F: EntryFormat>(
    slots: &[<F::Raw as RawEntry>::Atomic],
    mut each: impl FnMut(u64, usize),
) {
    let step = 1 << F::FORMAT.shift(1);
    let mut next = 0;
    while next < slots.len() {
        let (slot, start) = (&slots[next], next);
        let raw = F::Raw::load(slot);
        next += 1;
        if !is_parked(raw) {
            continue;
        }
        F::Raw::store(slot, 0);
        // Addresses are inverted: the next frame's is lower. Behind the last frame of all the difference is no entry.
        let mut expected = raw.wrapping_sub(step);
        let mut take = |slot: &<F::Raw as RawEntry>::Atomic| {
            let is_next = F::Raw::load(slot) == expected;
            if is_next {
                F::Raw::store(slot, 0);
                expected = expected.wrapping_sub(step);
            }
            is_next
        };
        // Eight at a time, as in `fill`; until one is not the next.
        let (eights, rest) = slots[next..].as_chunks::<8>();
        let all = eights.iter().all(|eight| eight.iter().all(&mut take));
        if all {
            rest.iter().all(take);
        }
        let count = raw.wrapping_sub(expected) >> F::FORMAT.shift(1);
        next = start + count as usize;
        each(raw, next - start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_in_which_others_set_the_bit_are_parked_too() {
        for format in [Format::TwoLevel, Format::Pae, Format::Long] {
            for page in [0, 0x1234_5000, format.address_mask()] {
                for low in [PARKED | PRESENT, 0xfff] {
                    let raw = format.parked(page | low);
                    assert!(is_parked(raw), "{format:?} {raw:x}");
                    let found = format.parked_page(1, raw, Limits::WIDEST);
                    assert_eq!(found.as_u64(), page, "{format:?} {raw:x}");
                }
            }
        }
    }
}
