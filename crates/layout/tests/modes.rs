//! The constants of the paging modes, beside each other and the manual.

use kspace_layout::{PageSize, PagingMode, VirtAddr};
use proptest::prelude::*;

proptest! {
    #[test]
    fn the_indices_of_all_levels_make_up_the_address(value in any::<u64>()) {
        for mode in PagingMode::ALL {
            let bits = mode.virt_bits();
            let shift = 64 - bits;
            let address = if bits == 32 {
                value & 0xffff_ffff
            } else {
                (((value << shift) as i64) >> shift) as u64
            };
            let address = VirtAddr::new(address);
            prop_assert!(mode.contains(address));
            let rebuilt = (1..=mode.levels())
                .map(|level| {
                    let index = mode.index(address, level);
                    assert!(index < mode.entries(level));
                    index << mode.level_shift(level)
                })
                .sum::<u64>()
                + (address.as_u64() & 0xfff);
            prop_assert_eq!(rebuilt, address.as_u64() << shift >> shift);
        }
    }

    #[test]
    fn a_mode_has_the_addresses_between_its_halves_and_no_others(value in any::<u64>()) {
        let Ok(address) = VirtAddr::try_new(value & 0x00ff_ffff_ffff_ffff) else { unreachable!() };
        for mode in PagingMode::ALL {
            prop_assert_eq!(mode.contains(address), address <= mode.lower_half_last(), "{}", mode);
        }
        let high = VirtAddr::new(address.as_u64() | 0xff00_0000_0000_0000);
        for mode in PagingMode::ALL {
            let upper = mode.upper_half_start().is_some_and(|start| high >= start);
            prop_assert_eq!(mode.contains(high), upper, "{}", mode);
        }
    }
}

#[test]
fn the_table_of_modes() {
    // Intel SDM vol. 3, table "Properties of Different Paging Modes", and the figures of each mode's translation.
    let mut rows = Vec::new();
    for mode in PagingMode::ALL {
        let entries: Vec<u64> = (1..=mode.levels())
            .rev()
            .map(|level| mode.entries(level))
            .collect();
        let leaves: Vec<&str> = (1..=mode.levels())
            .filter_map(|level| Some(mode.leaf_size(level)?.name()))
            .collect();
        rows.push(format!(
            "{mode}: {} bits, {} physical, {} bytes, {entries:?}, {}",
            mode.virt_bits(),
            mode.max_phys_bits(),
            mode.entry_bytes(),
            leaves.join(" "),
        ));
    }
    assert_eq!(
        rows,
        [
            "32-bit: 32 bits, 40 physical, 4 bytes, [1024, 1024], 4k 4M",
            "PAE: 32 bits, 52 physical, 8 bytes, [4, 512, 512], 4k 2M",
            "4-level: 48 bits, 52 physical, 8 bytes, [512, 512, 512, 512], 4k 2M 1G",
            "5-level: 57 bits, 52 physical, 8 bytes, [512, 512, 512, 512, 512], 4k 2M 1G",
        ]
    );
}

#[test]
fn a_leaf_spans_what_its_entry_does() {
    for mode in PagingMode::ALL {
        for level in 1..=mode.levels() {
            let Some(size) = mode.leaf_size(level) else {
                continue;
            };
            assert_eq!(mode.leaf_level(size), Some(level));
            assert_eq!(size.bits(), mode.level_shift(level));
            assert_eq!(size.bytes(), 1 << size.bits());
        }
    }
    assert_eq!(PagingMode::TwoLevel.leaf_level(PageSize::Size2M), None);
    assert_eq!(PagingMode::FiveLevel.leaf_level(PageSize::Size4M), None);
    assert_eq!(PagingMode::FourLevel.leaf_size(9), None);
}
