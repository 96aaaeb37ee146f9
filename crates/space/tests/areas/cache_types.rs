//! The books on memory types: what conflicts, who is named, what is left when mappings go.

use kspace::areas::{DeviceCache, IoError, IoMemory};
use kspace::cache_types::{TypeError, Typed};
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_layout::{PhysAddr, PhysRange};
use kspace_paging::CacheType;
use proptest::prelude::*;

use crate::rig::{Areas, K4, Rig, Setup, with_rig};

fn map() -> MemoryMap {
    let entry = FirmwareEntry {
        start: 0,
        size: 1 << 30,
        kind: 1,
    };
    MemoryMap::from_firmware([entry], 46, |_| ()).expect("a sound map")
}

type Device<'v, 'r> = IoMemory<'v, 'r, crate::rig::SimKernel<'r, kspace_paging::LongMode>, 1>;

fn device<'v, 'r>(
    rig: &Rig<'v, 'r>,
    start: u64,
    bytes: u64,
    cache: DeviceCache,
) -> Result<Device<'v, 'r>, IoError> {
    let areas: &'v Areas<'r> = rig.areas;
    // SAFETY: there is no device, nor a CPU.
    unsafe { IoMemory::new(areas, rig.types, &map(), PhysAddr::new(start), bytes, cache) }
}

fn listed(rig: &Rig<'_, '_>) -> Vec<(u64, u64, CacheType, u64)> {
    let row = |typed: Typed| {
        let range = typed.range;
        (
            range.start().as_u64(),
            range.size() / K4,
            typed.cache,
            typed.mappings,
        )
    };
    rig.types.iter().map(row).collect()
}

#[test]
fn a_page_is_mapped_with_one_type_only() {
    with_rig(Setup::new(), |rig| {
        let combining =
            device(rig, 0xe000_1000, 4 * K4, DeviceCache::WriteCombining).expect("room");
        let areas = rig.areas.totals().areas;
        // One byte of its last page is enough.
        let error = device(rig, 0xe000_4fff, K4, DeviceCache::Uncached).map(drop);
        let error = error.expect_err("it is mapped");
        assert_eq!(
            error.to_string(),
            "ioremap: 00000000e0004000-00000000e0005fff is wanted uncached, and 00000000e0001000-00000000e0004fff write-combining \
             is mapped already; unmap that, make it write-back, or ask for its type"
        );
        assert!(matches!(error, IoError::Type(TypeError::Conflict { .. })));
        assert_eq!(rig.areas.totals().areas, areas, "nothing was mapped");
        let again =
            device(rig, 0xe000_4000, 2 * K4, DeviceCache::WriteCombining).expect("the same");
        let other = device(rig, 0xe000_0000, K4, DeviceCache::default()).expect("beside it");
        let minus = CacheType::UncachedMinus;
        let combined = CacheType::WriteCombining;
        assert_eq!(
            listed(rig),
            [
                (0xe000_0000, 1, minus, 1),
                (0xe000_1000, 3, combined, 1),
                (0xe000_4000, 1, combined, 2),
                (0xe000_5000, 1, combined, 1),
            ]
        );
        assert_eq!(
            rig.types.list().to_string(),
            "PAT memtype list:\n\
             PAT: [mem 0x00000000e0000000-0x00000000e0001000] uncached-minus\n\
             PAT: [mem 0x00000000e0001000-0x00000000e0004000] write-combining\n\
             PAT: [mem 0x00000000e0004000-0x00000000e0005000] write-combining\n\
             PAT: [mem 0x00000000e0005000-0x00000000e0006000] write-combining\n"
        );
        assert_eq!(
            rig.types
                .at(PhysAddr::new(0xe000_4123))
                .expect("mapped")
                .mappings,
            2
        );
        combining.unmap();
        // The page that both had is still mapped.
        assert!(device(rig, 0xe000_4000, 1, DeviceCache::Uncached).is_err());
        let flushes = rig.cpu.flushes.get();
        drop(again);
        assert!(
            rig.cpu.flushes.get() > flushes,
            "no CPU knows of the mapping any more"
        );
        drop(device(rig, 0xe000_4000, 1, DeviceCache::Uncached).expect("free again"));
        drop(other);
        assert_eq!(listed(rig), []);
    });
}

#[test]
fn without_a_frame_nothing_is_mapped_or_written_down() {
    with_rig(Setup::new(), |rig| {
        drop(device(rig, 0xe000_0000, K4, DeviceCache::Uncached).expect("room"));
        // As many ranges as one frame of books has: the next one needs another.
        let mut devices: Vec<_> = (0..60)
            .map(|at| {
                device(rig, 0xe000_0000 + 2 * at * K4, 1, DeviceCache::Uncached).expect("room")
            })
            .collect();
        let before = listed(rig);
        rig.frames.budget.set(Some(0));
        let mut refused = None;
        for at in 60..70 {
            match device(rig, 0xe000_0000 + 2 * at * K4, 1, DeviceCache::Uncached) {
                Ok(device) => devices.push(device),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        rig.frames.budget.set(None);
        let refused = refused.expect("there is no frame");
        assert!(
            matches!(refused, IoError::Type(TypeError::NoFrame(_))),
            "{refused}"
        );
        assert_eq!(listed(rig)[..60], before[..]);
        assert_eq!(listed(rig).len(), devices.len());
        drop(devices);
        assert_eq!(listed(rig), []);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Against one entry a page: its type, and how many mappings it has.
    #[test]
    fn the_books_are_those_of_single_pages(
        steps in prop::collection::vec((0..24_u64, 1..8_u64, any::<bool>(), 0..6_usize), 1..30),
    ) {
        with_rig(Setup::new(), |rig| {
            let start = 0xe000_0000;
            let mut pages = [None::<(CacheType, u64)>; 32];
            let mut live: Vec<(PhysRange, CacheType)> = Vec::new();
            for (first, count, uncached, victim) in steps {
                let cache = if uncached { CacheType::Uncached } else { CacheType::WriteCombining };
                let range = PhysRange::new(PhysAddr::new(start + first * K4), count * K4);
                let at = first as usize..(first + count) as usize;
                let conflict = pages[at.clone()].iter().flatten().any(|(known, _)| *known != cache);
                let added = rig.types.add_mapping(range, cache);
                assert_eq!(added.is_err(), conflict);
                if !conflict {
                    for page in &mut pages[at] {
                        *page = Some((cache, page.map_or(1, |(_, mappings)| mappings + 1)));
                    }
                    live.push((range, cache));
                }
                if victim < live.len() {
                    let (range, _) = live.swap_remove(victim);
                    rig.types.remove_mapping(range).expect("frames");
                    let first = ((range.start().as_u64() - start) / K4) as usize;
                    for page in &mut pages[first..first + (range.size() / K4) as usize] {
                        *page = page.filter(|(_, mappings)| *mappings > 1).map(|(cache, mappings)| (cache, mappings - 1));
                    }
                }
                for (page, known) in (0..).zip(&pages) {
                    let found = rig.types.at(PhysAddr::new(start + page * K4));
                    assert_eq!(found.map(|typed| (typed.cache, typed.mappings)), *known);
                }
            }
        });
    }
}
