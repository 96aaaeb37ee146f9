//! Runs are what single walks say, page by page, put together.

mod rig;

use std::sync::atomic::Ordering;

use kspace_layout::{PageSize, PagingMode, VirtAddr, VirtRange};
use kspace_paging::{Limits, Merge, Obstacle, Page, Protection, Run, Walker};
use kspace_sim::SimMemory;
use proptest::prelude::*;
use rig::{phys, range, with_rig};

const START: u64 = 0x20_0000;

/// What the page at `page` adds to a run that ends right below it, by the words of [`Merge`].
fn continues(run: &Run, page: &Page, merge: Merge) -> bool {
    let (mut ours, mut theirs) = (run.attributes, page.attributes);
    if !merge.history {
        (ours, theirs) = (ours.without_history(), theirs.without_history());
    }
    let contiguous = run.phys.as_u64() + run.virt.size() == page.phys.as_u64();
    ours == theirs
        && (contiguous || !merge.contiguous)
        && (run.page == page.size || !merge.same_size)
}

/// The runs of `range`, found by a walk to each 4 KiB page.
fn by_walks(
    walker: &Walker<'_, SimMemory>,
    range: VirtRange,
    merge: Merge,
) -> Vec<Result<Run, VirtAddr>> {
    let mut runs: Vec<Result<Run, VirtAddr>> = Vec::new();
    for address in (range.start().as_u64()..=range.last().as_u64()).step_by(4096) {
        let virt = VirtRange::new(VirtAddr::new(address), 4096);
        let walk = walker.walk(virt.start());
        let Some(page) = walk.page() else {
            if matches!(walk.end(), kspace_paging::End::ReservedBits { .. }) {
                runs.push(Err(virt.start()));
            }
            continue;
        };
        match runs.last_mut() {
            Some(Ok(run))
                if run.virt.end_u64() == address
                    && (address % page.size.bytes() != 0 || continues(run, &page, merge)) =>
            {
                run.virt = VirtRange::new(run.virt.start(), run.virt.size() + 4096);
                run.page = run.page.min(page.size);
                run.attributes.accessed |= page.attributes.accessed;
                run.attributes.dirty |= page.attributes.dirty;
            }
            _ => runs.push(Ok(Run {
                virt,
                phys: page.phys,
                page: page.size,
                attributes: page.attributes,
            })),
        }
    }
    runs
}

/// Bits of an entry that one page in a row may have of its own.
fn odd_bits() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => Just(0),
        1 => (0..64_u32).prop_map(|bit| 1 << bit),
        1 => Just((1 << 5) | (1 << 6)),
        1 => Just(u64::MAX << 52),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// Entries that mostly continue each other, near the places where addresses end.
    #[test]
    fn runs_are_walks_put_together(
        flips in prop::collection::vec((0..512_usize, 1..512_usize, odd_bits()), 0..12),
        base in prop_oneof![
            Just(0_u64), Just((1 << 52) - 0x10_0000), Just((1 << 36) - 0x10_0000), Just((1 << 47) - 0x10_0000),
            Just((1 << 13) - 0x1000),
        ],
        phys_bits in prop_oneof![Just(36), Just(40), Just(48), Just(52)],
        encryption in prop_oneof![Just(0), Just(1_u64 << 47), Just(1 << 36), Just(1 << 51)],
        (contiguous, same_size, history) in any::<(bool, bool, bool)>(),
        (first, count) in (0..500_u64, 1..600_u64),
    ) {
        with_rig(PagingMode::FourLevel, Limits::WIDEST, |rig| {
            rig.map(range(START, START + 0x40_0000), phys(0), Protection::KERNEL_DATA, PageSize::Size4K)
                .expect("frames");
            for table in 0..2 {
                let table = START + table * 0x20_0000;
                let leaf = *rig.walker().walk(VirtAddr::new(table)).steps().last().expect("a leaf");
                let words = rig.memory.words(leaf.entry.pfn());
                for (index, word) in words.iter().enumerate() {
                    let odd = flips.iter().filter(|(at, count, _)| (*at..at + count).contains(&index));
                    let odd = odd.fold(0, |all, (_, _, bits)| all ^ bits);
                    let address = base.wrapping_add(table - START).wrapping_add(index as u64 * 4096);
                    word.store(((address | 0x63) ^ odd) & (odd | !(odd & 1)), Ordering::Relaxed);
                }
            }
            let limits = Limits::WIDEST.with_phys_bits(phys_bits).with_encryption_mask(encryption);
            let walker = rig.walker().with_limits(limits);
            let merge = Merge { contiguous, same_size, history };
            let range = range(START + first * 4096, START + (first + count) * 4096);
            let found: Vec<_> = walker
                .runs_merged(range, merge)
                .map(|run| run.map_err(|obstacle| match obstacle {
                    Obstacle::ReservedBits { virt, .. } | Obstacle::Unreadable { virt, .. } => virt.start(),
                }))
                .collect();
            assert_eq!(found, by_walks(&walker, range, merge));
        });
    }
}
