//! The second reading: our walker over the guest's memory, in both of its forms.
//!
//! Runs find every page of a half of the address space; a walk to each page's first address then gives the raw entry. The two
//! must agree with each other before they are held against anything else.

use kspace_layout::{PageSize, VirtAddr, VirtRange};
use kspace_paging::{Attributes, EntryRead, Merge, Run, Walker};

use super::tlb::Leaf;
use crate::failure::{Failure, Result};

/// One page as the walker found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WalkedPage {
    /// Its first address, its frame and its leaf's flags.
    pub(super) leaf: Leaf,
    /// Its size.
    pub(super) size: PageSize,
    /// What all levels together allow.
    pub(super) attributes: Attributes,
}

/// Every page that is mapped, in ascending order of address.
///
/// # Errors
///
/// When an entry cannot be read or has reserved bits set, or runs and walks differ.
pub(super) fn pages<M: EntryRead>(walker: &Walker<'_, M>) -> Result<Vec<WalkedPage>> {
    let mode = walker.mode();
    let lower = VirtRange::try_from_bounds(VirtAddr::ZERO, mode.lower_half_last());
    let upper = mode
        .upper_half_start()
        .map(|start| VirtRange::try_from_bounds(start, VirtAddr::LAST));
    let mut pages = Vec::new();
    for half in [Some(lower), upper].into_iter().flatten() {
        let half = half.map_err(|error| Failure::failed(error.to_string()))?;
        // Accessed and dirty must be equal too, so that a run stands for each of its pages in every bit.
        let merge = Merge {
            history: true,
            ..Merge::default()
        };
        for run in walker.runs_merged(half, merge) {
            let run = run.map_err(|obstacle| Failure::failed(obstacle.to_string()))?;
            for offset in (0..run.virt.size()).step_by(run.page.bytes() as usize) {
                pages.push(page(walker, &run, offset)?);
            }
        }
    }
    Ok(pages)
}

/// The page `offset` bytes into `run`, found by a walk of its own.
fn page<M: EntryRead>(walker: &Walker<'_, M>, run: &Run, offset: u64) -> Result<WalkedPage> {
    let differ = |found: String| {
        Failure::failed(format!(
            "the walker: its run {run} has at offset {offset:#x}, by a walk, {found}"
        ))
    };
    let address = run
        .virt
        .start()
        .checked_add(offset)
        .map_err(|error| differ(error.to_string()))?;
    let walk = walker.walk(address);
    let Some(page) = walk.page() else {
        return Err(differ(format!("{:?}", walk.end())));
    };
    let phys = run
        .phys
        .checked_add(offset)
        .map_err(|error| differ(error.to_string()))?;
    if page.phys != phys || page.size != run.page || page.attributes != run.attributes {
        return Err(differ(format!(
            "{} {} {}",
            page.phys, page.size, page.attributes
        )));
    }
    let raw = walk.steps().last().map_or(0, |step| step.raw);
    let leaf = Leaf::of_entry(address.as_u64(), raw, page.size.bytes());
    Ok(WalkedPage {
        leaf,
        size: page.size,
        attributes: page.attributes,
    })
}

/// Compares the first reading with the second.
///
/// # Errors
///
/// The first leaf in which they differ, as both saw it.
pub(super) fn same_leaves(by_qemu: &[Leaf], by_walker: &[WalkedPage]) -> Result {
    let longest = by_qemu.len().max(by_walker.len());
    for index in 0..longest {
        let (qemu, walker) = (
            by_qemu.get(index),
            by_walker.get(index).map(|page| &page.leaf),
        );
        if qemu != walker {
            let shown =
                |leaf: Option<&Leaf>| leaf.map_or("nothing more".to_owned(), Leaf::to_string);
            return Err(Failure::failed(format!(
                "entry {index}: QEMU reads {}, our walker {}",
                shown(qemu),
                shown(walker)
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kspace_layout::PagingMode;
    use kspace_layout::PhysAddr;

    /// Three tables at 0, 4096 and 8192, and a leaf for each level below them: entries by address.
    struct Tables(Vec<(u64, u64)>);

    impl EntryRead for Tables {
        fn read_u32(&self, _: PhysAddr) -> Option<u32> {
            None
        }

        fn read_u64(&self, entry: PhysAddr) -> Option<u64> {
            let at = entry.as_u64();
            Some(
                self.0
                    .iter()
                    .find(|(address, _)| *address == at)
                    .map_or(0, |(_, raw)| *raw),
            )
        }
    }

    fn tables() -> Tables {
        Tables(vec![
            (511 * 8, 4096 | 3),
            // 1 GiB at fffffff_c0000000 - 1 GiB, and a table for 2 MiB pages above it.
            (4096 + 510 * 8, 0x4000_0000 | 1 << 63 | 0x1e3),
            (4096 + 511 * 8, 8192 | 3),
            (8192, 0x20_0000 | 0x1a1),
        ])
    }

    #[test]
    fn pages_of_all_sizes_are_found_in_order() {
        let tables = tables();
        let walker = Walker::new(PagingMode::FourLevel, PhysAddr::ZERO, &tables);
        let shown: Vec<String> = pages(&walker)
            .unwrap()
            .iter()
            .map(|page| format!("{} {}", page.leaf, page.size))
            .collect();
        assert_eq!(
            shown,
            [
                "ffffffff80000000: 0000000040000000 XGPDA---W 1G",
                "ffffffffc0000000: 0000000000200000 -GP-A---- 2M",
            ]
        );
    }

    #[test]
    fn a_difference_shows_both() {
        let tables = tables();
        let walker = Walker::new(PagingMode::FourLevel, PhysAddr::ZERO, &tables);
        let pages = pages(&walker).unwrap();
        let mut leaves: Vec<Leaf> = pages.iter().map(|page| page.leaf).collect();
        assert_eq!(same_leaves(&leaves, &pages), Ok(()));
        leaves[1].flags ^= 2;
        assert_eq!(
            same_leaves(&leaves, &pages).unwrap_err().to_string(),
            "kspace: entry 1: QEMU reads ffffffffc0000000: 0000000000200000 -GP-A---W, \
             our walker ffffffffc0000000: 0000000000200000 -GP-A----"
        );
        leaves.pop();
        assert_eq!(
            same_leaves(&leaves, &pages).unwrap_err().to_string(),
            "kspace: entry 1: QEMU reads nothing more, our walker ffffffffc0000000: 0000000000200000 -GP-A----"
        );
    }
}
