//! The laws of address arithmetic, over all addresses, beside the same sums in 128 bits.

use kspace_layout::{AddressError, FRAME_SIZE, Pfn, PhysAddr, VirtAddr};
use proptest::prelude::*;

const LOWER_LAST: u64 = (1 << 56) - 1;
const UPPER_FIRST: u64 = 0xff00_0000_0000_0000;

/// Canonical for 57 bits, in words: all of the top eight bits agree.
fn is_canonical(value: u64) -> bool {
    matches!(value >> 56, 0x00 | 0xff)
}

/// Numbers near every edge, and all others.
fn numbers() -> impl Strategy<Value = u64> {
    let edges = [
        0,
        LOWER_LAST,
        LOWER_LAST + 1,
        UPPER_FIRST - 1,
        UPPER_FIRST,
        u64::MAX,
        1 << 47,
        1 << 52,
    ];
    let near = (0..edges.len(), -5000..5000i64)
        .prop_map(move |(edge, off)| edges[edge].wrapping_add_signed(off));
    prop_oneof![near, any::<u64>(), 0..=1u64 << 53]
}

fn virt() -> impl Strategy<Value = VirtAddr> {
    numbers().prop_map(|value| VirtAddr::new(((value << 7) as i64 >> 7) as u64))
}

fn phys() -> impl Strategy<Value = PhysAddr> {
    numbers().prop_map(|value| PhysAddr::new(value & ((1 << 52) - 1)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn only_canonical_numbers_are_virtual_addresses(value in numbers()) {
        match VirtAddr::try_new(value) {
            Ok(address) => prop_assert!(is_canonical(value) && address.as_u64() == value),
            Err(error) => {
                prop_assert!(!is_canonical(value));
                prop_assert_eq!(error, AddressError::NotCanonical(value));
            }
        }
    }

    #[test]
    fn a_sum_stays_in_its_half(start in virt(), offset in numbers()) {
        let sum = u128::from(start.as_u64()) + u128::from(offset);
        let half_end = if start.as_u64() <= LOWER_LAST { 1 << 56 } else { 1 << 64 };
        match start.checked_add(offset) {
            Ok(end) => {
                prop_assert_eq!(u128::from(end.as_u64()), sum);
                prop_assert!(sum < half_end);
                prop_assert_eq!(end.offset_from(start), Some(offset));
            }
            Err(error) => {
                prop_assert!(sum >= half_end);
                prop_assert_eq!(error, AddressError::VirtOverflow { start: start.as_u64(), offset });
            }
        }
    }

    #[test]
    fn rounding_up_never_jumps_the_hole(address in virt(), bits in 0..=56u32) {
        let align = 1u64 << bits;
        let value = u128::from(address.as_u64());
        let up = value.div_ceil(align.into()) * u128::from(align);
        let half_end = if address.as_u64() <= LOWER_LAST { 1 << 56 } else { 1 << 64 };
        match address.align_up(align) {
            Ok(rounded) => {
                prop_assert_eq!(u128::from(rounded.as_u64()), up);
                prop_assert!(rounded.is_aligned(align) && up < half_end);
            }
            Err(_) => prop_assert!(up >= half_end),
        }
        let down = address.align_down(align);
        prop_assert_eq!(down.as_u64(), address.as_u64() / align * align);
        prop_assert!(is_canonical(down.as_u64()) && down.is_aligned(align));
        prop_assert_eq!(address.is_aligned(align), down == address);
    }

    #[test]
    fn physical_addresses_end_at_2_to_the_52(start in phys(), offset in numbers(), bits in 0..=63u32) {
        let sum = u128::from(start.as_u64()) + u128::from(offset);
        prop_assert_eq!(start.checked_add(offset).is_ok(), sum < 1 << 52);
        if let Ok(end) = start.checked_add(offset) {
            prop_assert_eq!(u128::from(end.as_u64()), sum);
        }
        let align = 1u128 << bits;
        let up = u128::from(start.as_u64()).div_ceil(align) * align;
        prop_assert_eq!(start.align_up(1 << bits).ok().map(|a| u128::from(a.as_u64())), Some(up).filter(|up| *up < 1 << 52));
        prop_assert_eq!(u128::from(start.align_down(1 << bits).as_u64()), u128::from(start.as_u64()) / align * align);
    }

    #[test]
    fn a_frame_holds_its_addresses(address in phys()) {
        let pfn = address.pfn();
        prop_assert_eq!(pfn.as_u64(), address.as_u64() >> 12);
        prop_assert_eq!(pfn.start(), address.align_down(FRAME_SIZE));
        prop_assert_eq!(Pfn::try_new(pfn.as_u64()), Ok(pfn));
    }
}

#[test]
fn the_edges() {
    let lower_last = VirtAddr::new(LOWER_LAST);
    assert_eq!(lower_last.align_up(1).unwrap(), lower_last);
    assert!(lower_last.align_up(2).is_err());
    assert!(VirtAddr::LAST.align_up(4096).is_err());
    assert!(VirtAddr::LAST.checked_add(1).is_err());
    assert_eq!(VirtAddr::ZERO.align_up(1 << 56).unwrap(), VirtAddr::ZERO);
    assert_eq!(VirtAddr::LAST.align_down(1 << 56).as_u64(), UPPER_FIRST);
    assert_eq!(Pfn::new((1 << 40) - 1).start().as_u64(), (1 << 52) - 4096);
}

#[test]
fn messages_hold_the_values() {
    let text = |error: AddressError| error.to_string();
    assert_eq!(
        text(VirtAddr::try_new(1 << 56).unwrap_err()),
        "0100000000000000 is not a virtual address: bits 56 to 63 must be equal"
    );
    assert_eq!(
        text(VirtAddr::new(LOWER_LAST).checked_add(1).unwrap_err()),
        "00ffffffffffffff plus 0x1 leaves the canonical half that it began in"
    );
    assert_eq!(
        text(PhysAddr::try_new(1 << 52).unwrap_err()),
        "0010000000000000 is not a physical address: x86 has at most 52 bits"
    );
    assert_eq!(
        text(Pfn::try_new(1 << 40).unwrap_err()),
        "0010000000000000 is not a physical address: x86 has at most 52 bits"
    );
    assert_eq!(
        text(Pfn::try_new(u64::MAX).unwrap_err()),
        "ffffffffffffffff is not a physical address: x86 has at most 52 bits"
    );
    assert_eq!(
        text(PhysAddr::LAST.checked_add(2).unwrap_err()),
        "000fffffffffffff plus 0x2 passes the last physical address"
    );
}

#[test]
fn addresses_print_as_linux_writes_them() {
    let address = VirtAddr::new(0xffff_c900_0000_0000);
    assert_eq!(
        format!("{address} {address:?} {address:#x}"),
        "ffffc90000000000 VirtAddr(ffffc90000000000) 0xffffc90000000000"
    );
    assert_eq!(PhysAddr::new(0x1000).to_string(), "0000000000001000");
    assert_eq!(Pfn::new(0x1f).to_string(), "1f");
}

#[test]
#[should_panic(expected = "virtual address is not canonical for 57 bits")]
fn a_constant_must_be_canonical() {
    let _ = VirtAddr::new(1 << 63);
}
