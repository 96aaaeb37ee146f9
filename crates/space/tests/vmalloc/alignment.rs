//! Areas at multiples of more than a page: how much room they take, and that none of it is lost.

use std::vec::Vec;

use kspace::vmalloc::AreaRequest;
use kspace_layout::VirtRange;
use kspace_paging::LongMode;

use crate::rig::{K4, Rig, Setup, with_rig};

/// Pages of a chunk.
const CHUNK: u64 = 512;

fn long(test: impl FnOnce(&Rig<'_, '_, LongMode>)) {
    with_rig(Setup::new(), test);
}

fn allocate(rig: &Rig<'_, '_>, pages: u64, align: u64) -> VirtRange {
    let request = AreaRequest::new(pages * K4).aligned(align * K4);
    let range = rig.areas.allocate(&request).expect("room");
    assert!(range.start().is_aligned(align * K4));
    range
}

/// Frees them all, and looks whether all chunks are whole again: only then a full purge gives them up.
fn free_all(rig: &Rig<'_, '_>, ranges: &[VirtRange]) {
    for range in ranges {
        // SAFETY: the test uses no area after it has freed it.
        unsafe { rig.areas.free(range.start()) }.expect("it is there");
    }
    rig.areas.purge();
    assert_eq!(rig.areas.totals().chunks, 0, "pages were lost");
}

#[test]
fn areas_at_a_small_alignment_lie_as_close_as_they_can() {
    long(|rig| {
        let ranges: Vec<_> = (0..640).map(|_| allocate(rig, 5, 8)).collect();
        // With its guard each has six of eight pages.
        assert_eq!(rig.areas.totals().chunks, 640 * 8 / CHUNK);
        free_all(rig, &ranges);
    });
}

/// The page behind an area.
fn guard_of(range: VirtRange) -> VirtRange {
    let start = range.last().checked_add(1).expect("there is a guard");
    VirtRange::new(start, K4)
}

#[test]
fn an_area_at_a_large_alignment_leaves_the_others_one_behind_the_other() {
    long(|rig| {
        let mut apart = Vec::new();
        let mut close = Vec::new();
        for _ in 0..64 {
            close.push(allocate(rig, 1, 1));
            apart.push(allocate(rig, 1, 64));
        }
        let is_next = |pair: &&[VirtRange]| {
            pair[1].start()
                == guard_of(pair[0])
                    .last()
                    .checked_add(1)
                    .expect("there is more")
        };
        let next = close.windows(2).filter(is_next).count();
        // Now and then one of the others lies between, where it has to pass over eight pages at most.
        assert!(next >= 60, "{next} of 63");
        // One chunk for the close ones, and eight places in each of the others'.
        assert!(rig.areas.totals().chunks <= 1 + 64 / 8);
        close.append(&mut apart);
        free_all(rig, &close);
    });
}

/// Chunks that are needed when each area has the lowest place there is, guard included.
fn chunks_at_best(wanted: &[(u64, u64)]) -> u64 {
    let mut chunks: Vec<Vec<bool>> = Vec::new();
    for &(pages, align) in wanted {
        let place = |chunk: &Vec<bool>| {
            (0..=CHUNK - pages - 1)
                .step_by(align as usize)
                .find(|&first| (first..=first + pages).all(|page| !chunk[page as usize]))
        };
        let found = (0..chunks.len()).find_map(|number| Some((number, place(&chunks[number])?)));
        let (number, first) = found.unwrap_or_else(|| {
            chunks.push(vec![false; CHUNK as usize]);
            (chunks.len() - 1, 0)
        });
        chunks[number][first as usize..=(first + pages) as usize].fill(true);
    }
    chunks.len() as u64
}

#[test]
fn areas_at_all_alignments_take_little_more_room_than_they_must() {
    let wanted: Vec<(u64, u64)> = (0..1500_u64)
        .map(|number| {
            let dice = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            (dice % 10 + 1, 1 << (dice / 16 % 9))
        })
        .collect();
    long(|rig| {
        let ranges: Vec<_> = wanted
            .iter()
            .map(|&(pages, align)| allocate(rig, pages, align))
            .collect();
        let (chunks, best) = (rig.areas.totals().chunks, chunks_at_best(&wanted));
        assert!(chunks <= best + best / 4, "{chunks} chunks, {best} at best");
        free_all(rig, &ranges);
    });
}
