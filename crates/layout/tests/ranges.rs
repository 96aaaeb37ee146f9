//! The laws of ranges, beside the same in exclusive ends and 128 bits.

use kspace_layout::{AddressError, PhysAddr, PhysRange, VirtAddr, VirtRange};
use proptest::prelude::*;

const LOWER_LAST: u64 = (1 << 56) - 1;
const UPPER_FIRST: u64 = 0xff00_0000_0000_0000;

/// Addresses near the edges of both halves, near each other, and anywhere.
fn virt() -> impl Strategy<Value = VirtAddr> {
    let edges = [
        0,
        0x10_0000,
        LOWER_LAST,
        UPPER_FIRST,
        0xffff_8880_0000_0000,
        u64::MAX,
    ];
    let near = (0..edges.len(), -20000..20000i64)
        .prop_map(move |(edge, off)| edges[edge].wrapping_add_signed(off));
    prop_oneof![near, any::<u64>()]
        .prop_map(|value| VirtAddr::new(((value << 7) as i64 >> 7) as u64))
}

fn ranges() -> impl Strategy<Value = VirtRange> {
    let sizes = prop_oneof![1..20000u64, 1..=1u64 << 56];
    (virt(), sizes).prop_filter_map("leaves its half", |(start, size)| {
        VirtRange::try_new(start, size).ok()
    })
}

/// The range as a pair of numbers, the end exclusive.
fn numbers(range: VirtRange) -> (u128, u128) {
    let start = u128::from(range.start().as_u64());
    (start, start + u128::from(range.size()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn a_range_lies_in_one_half(start in virt(), size in prop_oneof![0..10000u64, any::<u64>()]) {
        let half_end: u128 = if start.as_u64() <= LOWER_LAST { 1 << 56 } else { 1 << 64 };
        let end = u128::from(start.as_u64()) + u128::from(size);
        match VirtRange::try_new(start, size) {
            Ok(range) => {
                prop_assert!(size > 0 && end <= half_end);
                prop_assert_eq!(numbers(range), (start.as_u64().into(), end));
                prop_assert_eq!(range.end_u64(), end as u64);
                prop_assert_eq!(VirtRange::try_from_bounds(start, range.last()), Ok(range));
            }
            Err(AddressError::EmptyRange(at)) => prop_assert!(size == 0 && at == start.as_u64()),
            Err(_) => prop_assert!(end > half_end),
        }
    }

    #[test]
    fn bounds_are_in_order_and_in_one_half(start in virt(), last in virt()) {
        let same_half = start.as_u64() >> 63 == last.as_u64() >> 63;
        match VirtRange::try_from_bounds(start, last) {
            Ok(range) => {
                prop_assert!(start <= last && same_half);
                prop_assert_eq!((range.start(), range.last()), (start, last));
            }
            Err(AddressError::ReversedRange { .. }) => prop_assert!(last < start),
            Err(_) => prop_assert!(start <= last && !same_half),
        }
    }

    #[test]
    fn sets_of_addresses(a in ranges(), b in ranges(), at in virt()) {
        let ((a_start, a_end), (b_start, b_end)) = (numbers(a), numbers(b));
        let (start, end) = (a_start.max(b_start), a_end.min(b_end));
        prop_assert_eq!(a.overlaps(b), start < end);
        prop_assert_eq!(a.intersection(b).map(numbers), (start < end).then_some((start, end)));
        prop_assert_eq!(a.contains_range(b), a_start <= b_start && b_end <= a_end);
        let value = u128::from(at.as_u64());
        prop_assert_eq!(a.contains(at), a_start <= value && value < a_end);
    }

    #[test]
    fn whole_pages_are_those_inside(range in ranges()) {
        let (start, end) = numbers(range);
        let (first, behind) = (start.div_ceil(4096) * 4096, end / 4096 * 4096);
        let pages = (first < behind).then_some((first, behind));
        prop_assert_eq!(range.whole_pages().map(numbers), pages);
    }

    #[test]
    fn alignment_is_of_both_ends(range in ranges(), bits in 0..=40u32) {
        let (start, end) = numbers(range);
        let align = 1u128 << bits;
        prop_assert_eq!(range.is_aligned(1 << bits), start % align == 0 && end % align == 0);
    }
}

#[test]
fn the_last_page_of_all() {
    let last = VirtRange::new(VirtAddr::new(0xffff_ffff_ffff_f000), 4096);
    assert_eq!((last.last(), last.end_u64()), (VirtAddr::LAST, 0));
    assert_eq!(last.whole_pages(), Some(last));
    let cut = VirtRange::new(VirtAddr::new(0xffff_ffff_ffff_f001), 4095);
    assert_eq!(cut.whole_pages(), None);
    let half = VirtRange::new(VirtAddr::new(UPPER_FIRST), 1 << 56);
    assert_eq!((half.last(), half.size()), (VirtAddr::LAST, 1 << 56));
}

#[test]
fn all_of_physical_memory() {
    let all = PhysRange::new(PhysAddr::ZERO, 1 << 52);
    assert_eq!((all.last(), all.end_u64()), (PhysAddr::LAST, 1 << 52));
    assert_eq!(all.whole_pages(), Some(all));
    assert_eq!(
        PhysRange::try_new(PhysAddr::new(1), 1 << 52)
            .unwrap_err()
            .to_string(),
        "0000000000000001 plus 0xfffffffffffff passes the last physical address"
    );
}

#[test]
fn messages_hold_the_values() {
    let at = VirtAddr::new;
    assert_eq!(
        VirtRange::try_new(at(0x1000), 0).unwrap_err().to_string(),
        "a range at 0000000000001000 has no bytes"
    );
    assert_eq!(
        VirtRange::try_from_bounds(at(0x2000), at(0x1000))
            .unwrap_err()
            .to_string(),
        "a range ends at 0000000000001000, before its start 0000000000002000"
    );
    assert_eq!(
        VirtRange::try_from_bounds(at(0x1000), at(UPPER_FIRST))
            .unwrap_err()
            .to_string(),
        "0000000000001000 plus 0xfefffffffffff000 leaves the canonical half that it began in"
    );
    assert_eq!(
        VirtRange::new(at(0x1000), 0x1000).to_string(),
        "0000000000001000-0000000000001fff"
    );
}
