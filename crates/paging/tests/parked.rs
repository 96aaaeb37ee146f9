//! What parked entries look like, and that no memory is to be found through one.

mod rig;

use kspace_layout::{PageSize, PagingMode, PhysAddr, VirtAddr};
use kspace_paging::{Limits, Protection};
use proptest::prelude::*;
use rig::{Rig, phys, range, with_rig};

const DATA: Protection = Protection::KERNEL_DATA;
const G1: u64 = 1 << 30;

/// An address that every mode has, at which pages of every size can begin.
fn base(mode: PagingMode) -> u64 {
    match mode {
        PagingMode::TwoLevel | PagingMode::Pae => 3 * G1,
        PagingMode::FourLevel | PagingMode::FiveLevel => 0xffff_c900_0000_0000,
    }
}

/// The entry of one page, mapped at `to` and parked.
fn parked(rig: &Rig<'_>, size: PageSize, to: PhysAddr) -> u64 {
    let start = base(rig.mode);
    let at = range(start, start + size.bytes());
    rig.map(at, to, DATA, size).unwrap();
    let page = rig.walker().walk(VirtAddr::new(start)).page().unwrap();
    assert_eq!((page.size, page.phys), (size, to), "mapped as asked");
    rig.discharge(rig.park(at).unwrap());
    assert_eq!(rig.walker().translate(VirtAddr::new(start)), None);
    let raw = rig
        .walker()
        .walk(VirtAddr::new(start))
        .steps()
        .last()
        .unwrap()
        .raw;
    let mut found = Vec::new();
    rig.collect(at, |first, size, count| found.push((first, size, count)))
        .unwrap();
    assert_eq!(found, [(to, size, 1)], "{}", rig.mode);
    // Without the tables of smaller pages, which would be filled the next time.
    rig.discharge(rig.purge(range(start, start + G1)).unwrap());
    raw
}

/// The sizes that a mode has, with the lowest address bit of an entry for such a page.
fn sizes(mode: PagingMode) -> Vec<(PageSize, u32)> {
    (1..=3)
        .filter_map(|level| mode.leaf_size(level))
        .map(|size| (size, size.bytes().trailing_zeros()))
        .collect()
}

#[test]
fn entries_are_those_of_the_picture() {
    for (mode, size, to, expected) in [
        // Leaf 12345163 and 8000000012345163 (XD G D A W P): address inverted, bit 11 for bit 0.
        (
            PagingMode::TwoLevel,
            PageSize::Size4K,
            0x1234_5000,
            0xedcb_a962,
        ),
        (
            PagingMode::Pae,
            PageSize::Size4K,
            0x1234_5000,
            0x800f_ffff_edcb_a962,
        ),
        (
            PagingMode::FourLevel,
            PageSize::Size4K,
            0x1234_5000,
            0x800f_ffff_edcb_a962,
        ),
        (
            PagingMode::FiveLevel,
            PageSize::Size4K,
            0x000f_ffff_ffff_f000,
            0x8000_0000_0000_0962,
        ),
        (
            PagingMode::FiveLevel,
            PageSize::Size4K,
            0,
            0x800f_ffff_ffff_f962,
        ),
        // Larger leaves end in 1e3 (PS).
        (
            PagingMode::FourLevel,
            PageSize::Size2M,
            0x4000_0000,
            0x800f_ffff_bfff_f9e2,
        ),
        (
            PagingMode::FourLevel,
            PageSize::Size1G,
            0x4000_0000,
            0x800f_ffff_bfff_f9e2,
        ),
        // PSE-36: address bits 39 to 32 in bits 20 to 13.
        (
            PagingMode::TwoLevel,
            PageSize::Size4M,
            0xab_1240_0000,
            0xedbf_f9e2 ^ 0xab << 13,
        ),
    ] {
        with_rig(mode, Limits::WIDEST, |rig| {
            let found = parked(rig, size, phys(to));
            assert_eq!(found, expected, "{mode} {size}: {found:x}");
        });
    }
}

#[test]
fn every_address_bit_survives() {
    for mode in PagingMode::ALL {
        with_rig(mode, Limits::WIDEST, |rig| {
            for (size, low) in sizes(mode) {
                let top = match (mode, size) {
                    (PagingMode::TwoLevel, PageSize::Size4K) => 32,
                    (PagingMode::TwoLevel, _) => 40,
                    _ => 52,
                };
                for bit in low..top {
                    // One bit, all but one, all up to it. `parked` checks what comes back.
                    let all = (1u64 << top) - (1 << low);
                    for to in [1 << bit, all & !(1 << bit), all & ((2 << bit) - 1)] {
                        assert_ne!(parked(rig, size, phys(to)), 0);
                    }
                }
            }
        });
    }
}

/// Memory ends below half of what `bits` physical bits can name. The address that a CPU could take a parked entry for must then lie
/// in the other half.
fn names_no_memory(mode: PagingMode, bits: u32, frame: u64) {
    with_rig(mode, Limits::WIDEST.with_phys_bits(bits), |rig| {
        for (size, _) in sizes(mode) {
            let to = frame & !(size.bytes() - 1);
            let raw = parked(rig, size, phys(to));
            // Intel SDM vol. 3, tables 5-6, 5-11, 5-20: the address bits of a leaf.
            let named = match mode {
                PagingMode::TwoLevel => raw & 0xffff_f000,
                _ => raw & 0x000f_ffff_ffff_f000 & ((1 << bits) - 1),
            };
            assert!(
                named >= 1 << (bits - 1),
                "{mode} {size}: {to:x} parked as {raw:x}"
            );
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_entry_names_memory_of_the_lower_half(bits in 33u32..=52, any in any::<u64>(), shift in 0u32..52) {
        // Small and large addresses alike.
        let frame = |bits: u32| (any >> shift) & ((1 << (bits - 1)) - 1);
        for mode in [PagingMode::Pae, PagingMode::FourLevel, PagingMode::FiveLevel] {
            names_no_memory(mode, bits, frame(bits));
        }
        // Two-level entries have 32 address bits whatever the CPU has.
        names_no_memory(PagingMode::TwoLevel, 32, frame(32));
    }
}

#[test]
fn no_entry_names_memory_at_the_ends_of_the_lower_half() {
    for bits in 33..=52 {
        for frame in [0, (1 << (bits - 1)) - 1] {
            for mode in [
                PagingMode::Pae,
                PagingMode::FourLevel,
                PagingMode::FiveLevel,
            ] {
                names_no_memory(mode, bits, frame);
            }
        }
    }
    for frame in [0, (1 << 31) - 1] {
        names_no_memory(PagingMode::TwoLevel, 32, frame);
    }
}
