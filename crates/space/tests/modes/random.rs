//! Places drawn at random: spread, the same for the same seed, never two areas in one place.

use std::collections::BTreeSet;

use kspace::vmalloc::{AreaError, AreaRequest, Debug};
use kspace_layout::{PagingMode, VirtAddr, VirtRange};
use kspace_paging::{EntryFormat, LongMode, TwoLevel};

use crate::rig::{AREA, K4, M2, Rig, Setup, guard, with_rig, with_rig_of};

const fn setup(seed: Option<u64>) -> Setup {
    let debug = Debug {
        random: seed,
        ..Debug::OFF
    };
    Setup {
        debug,
        ..Setup::new()
    }
}

/// Small and large ones, some freed and purged meanwhile.
fn places(seed: Option<u64>) -> Vec<VirtRange> {
    let mut places = Vec::new();
    with_rig(setup(seed), |rig| {
        for number in 0..120_u64 {
            let pages = if number % 5 == 4 {
                300
            } else {
                1 + number % 12
            };
            let align = if number % 7 == 0 { 8 * K4 } else { K4 };
            let request = AreaRequest::new(pages * K4).aligned(align);
            let range = rig.areas.allocate(&request).expect("room");
            assert!(range.start().is_aligned(align));
            places.push(range);
            if number % 3 == 0 {
                // SAFETY: the area is not used.
                unsafe { rig.areas.free(range.start()) }.expect("it is there");
            }
            if number % 40 == 39 {
                rig.areas.purge();
            }
        }
    });
    places
}

#[test]
fn the_same_seed_makes_the_same_places_and_another_one_others() {
    assert_eq!(places(Some(1)), places(Some(1)));
    let (one, other) = (places(Some(1)), places(Some(2)));
    let same = one.iter().filter(|range| other.contains(range)).count();
    assert_eq!(same, 0);
}

/// How many sixteenths of the area have places.
fn sixteenths(places: &[VirtRange]) -> usize {
    let part = |range: &VirtRange| (range.start().as_u64() - AREA.start().as_u64()) >> 36;
    places.iter().map(part).collect::<BTreeSet<_>>().len()
}

fn neighbours(places: &[VirtRange]) -> usize {
    let starts: BTreeSet<_> = places.iter().map(|range| range.start()).collect();
    let next = |range: &&VirtRange| starts.contains(&VirtAddr::new(guard(**range).as_u64() + K4));
    places.iter().filter(next).count()
}

#[test]
fn places_are_spread_where_usual_ones_are_not() {
    let (usual, random) = (places(None), places(Some(3)));
    assert_eq!(sixteenths(&usual), 1);
    assert!(sixteenths(&random) >= 10, "{}", sixteenths(&random));
    assert!(neighbours(&usual) > 40, "{}", neighbours(&usual));
    assert!(neighbours(&random) < 10, "{}", neighbours(&random));
}

/// Makes areas until there is no place for one more of `pages` pages, and returns them.
fn fill<E: EntryFormat>(rig: &Rig<'_, '_, E>, pages: u64, align: u64) -> Vec<VirtRange> {
    let request = AreaRequest::new(pages * K4).aligned(align);
    let mut made = Vec::new();
    loop {
        match rig.areas.allocate(&request) {
            Ok(range) => made.push(range),
            Err(AreaError::NoSpace { .. }) => return made,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The area's pages that no area and no guard has. Every area is in it, whole, guarded and alone.
fn free_pages<E: EntryFormat>(rig: &Rig<'_, '_, E>, made: &[VirtRange]) -> Vec<u64> {
    let area = rig.setup.area;
    let mut free: BTreeSet<u64> =
        (area.start().as_u64() / K4..=area.last().as_u64() / K4).collect();
    for range in made {
        assert_eq!(rig.page(guard(*range)), None, "{range} has no guard");
        for page in range.start().as_u64() / K4..=guard(*range).as_u64() / K4 {
            assert!(free.remove(&page), "{range} is not alone");
        }
    }
    free.into_iter().collect()
}

fn use_all<E: EntryFormat>(mode: PagingMode, area: VirtRange) {
    for seed in 0..4 {
        let setup = Setup {
            mode,
            area,
            ..setup(Some(seed))
        };
        with_rig_of::<E>(setup, |rig| {
            // The first ones leave holes, which those after them find.
            let mut made = fill(rig, 700, K4);
            made.extend(fill(rig, 20, 4 * K4));
            made.extend(fill(rig, 3, K4));
            made.extend(fill(rig, 1, K4));
            let free = free_pages(rig, &made);
            let pair = free.windows(2).find(|pair| pair[0] + 1 == pair[1]);
            // A small area lies in one chunk of 2 MiB; between chunks and large areas pieces remain that are no whole chunk.
            let in_chunks: BTreeSet<u64> = made
                .iter()
                .filter(|range| range.size() < 700 * K4)
                .map(|range| range.start().as_u64() / M2)
                .collect();
            let usable = free
                .windows(2)
                .filter(|pair| pair[0] + 1 == pair[1] && pair[1] % 512 != 0)
                .filter(|pair| in_chunks.contains(&(pair[0] / 512)));
            assert_eq!(usable.count(), 0, "seed {seed}: {pair:?} is left");
            for range in made {
                // SAFETY: the area is not used.
                unsafe { rig.areas.free(range.start()) }.expect("it is there");
            }
            rig.areas.purge();
            assert_eq!(rig.areas.totals().largest, area.size());
            assert!(rig.frames.blocks().is_empty());
        });
    }
}

#[test]
fn a_full_area_is_used_to_the_last_place() {
    let area = VirtRange::new(AREA.start(), 16 << 20);
    use_all::<LongMode>(PagingMode::FourLevel, area);
}

#[test]
fn on_32_bits_too() {
    let area = VirtRange::new(VirtAddr::new(0xf780_0000), 16 << 20);
    use_all::<TwoLevel>(PagingMode::TwoLevel, area);
}
