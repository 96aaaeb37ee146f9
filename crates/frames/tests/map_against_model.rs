//! The memory map held against a model that knows nothing of ranges: one byte for every 256 bytes of memory.

use kspace_frames::{FirmwareEntry, MapError, MemoryKind, MemoryMap, Repair};
use kspace_layout::{PhysAddr, PhysRange};
use proptest::prelude::*;

/// The model's grain, in bytes, and how many of them it has: 32 pages.
const GRAIN: u64 = 256;
const GRAINS: usize = 32 * 16;
const GRAINS_PER_PAGE: usize = 16;

/// One claim: first grain, number of grains, kind.
type Claim = (usize, usize, u32);

fn claims() -> impl Strategy<Value = Vec<Claim>> {
    let kind = prop_oneof![6 => Just(1_u32), 2 => Just(2), 1 => 0_u32..=13];
    let size = prop_oneof![1 => Just(0_usize), 4 => 1_usize..20, 4 => 1_usize..200];
    prop::collection::vec((0..GRAINS, size, kind), 0..24)
}

/// Page numbers at which the model's memory begins: at zero, and across 4 GiB.
fn bases() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0_u64), Just((1 << 32) - 16 * 4096), Just(1 << 32)]
}

fn firmware(base: u64, claims: &[Claim]) -> Vec<FirmwareEntry> {
    let entry = |&(first, grains, kind): &Claim| FirmwareEntry {
        start: base + first as u64 * GRAIN,
        size: grains as u64 * GRAIN,
        kind,
    };
    claims.iter().map(entry).collect()
}

/// What every grain is: 0 for a hole, else the greatest code of any claim. Type 0 counts as reserved.
struct Model {
    grains: Vec<u32>,
    claimed_twice: bool,
}

impl Model {
    fn new(claims: &[Claim]) -> Self {
        let mut model = Self {
            grains: vec![0; GRAINS + 256],
            claimed_twice: false,
        };
        for &(first, size, kind) in claims {
            for grain in &mut model.grains[first..first + size] {
                model.claimed_twice |= *grain != 0;
                *grain = (*grain).max(if kind == 0 { 2 } else { kind });
            }
        }
        model
    }

    fn page_is_ram(&self, grain: usize) -> bool {
        let page = grain / GRAINS_PER_PAGE * GRAINS_PER_PAGE;
        self.grains[page..page + GRAINS_PER_PAGE]
            .iter()
            .all(|&kind| kind == 1)
    }

    fn kind(&self, grain: usize) -> Option<MemoryKind> {
        match self.grains[grain] {
            0 => None,
            1 => self.page_is_ram(grain).then_some(MemoryKind::Ram),
            code => Some(MemoryKind::from_code(code)),
        }
    }

    fn ram_pages(&self) -> Vec<usize> {
        (0..self.grains.len() / GRAINS_PER_PAGE)
            .filter(|page| self.page_is_ram(page * GRAINS_PER_PAGE))
            .collect()
    }
}

fn assert_invariants(map: &MemoryMap) {
    let entries: Vec<_> = map.entries().collect();
    for pair in entries.windows(2) {
        let (below, above) = (pair[0].range(), pair[1].range());
        assert!(
            below.last() < above.start(),
            "{} and {} overlap",
            pair[0],
            pair[1]
        );
        let touch = below.end_u64() == above.start().as_u64();
        assert!(
            !touch || pair[0].kind() != pair[1].kind(),
            "{} {} not merged",
            pair[0],
            pair[1]
        );
    }
    for ram in map.ram() {
        assert!(ram.is_aligned(4096), "{ram} is not whole pages");
    }
}

fn page(base: u64, index: usize) -> PhysRange {
    PhysRange::new(PhysAddr::new(base + index as u64 * 4096), 4096)
}

proptest! {
    #[test]
    fn every_byte_has_the_most_restrictive_kind_claimed(claims in claims(), base in bases()) {
        let model = Model::new(&claims);
        let mut overlaps = false;
        let result = MemoryMap::from_firmware(firmware(base, &claims), 52, |repair| {
            overlaps |= matches!(repair, Repair::Overlap { .. });
        });
        prop_assert_eq!(overlaps, model.claimed_twice);
        let ram_pages = model.ram_pages();
        let first = ram_pages.first().map(|&index| page(base, index).start());
        let map = match result {
            Ok(map) => map,
            Err(MapError::NoRam { entries }) => {
                prop_assert_eq!(entries, claims.len());
                prop_assert!(ram_pages.is_empty());
                return Ok(());
            }
            Err(error) => {
                let first = first.expect("another error than NoRam, yet no RAM");
                prop_assert!(first.as_u64() >= 1 << 32);
                prop_assert_eq!(error, MapError::NoLowRam { first });
                return Ok(());
            }
        };
        assert_invariants(&map);
        for grain in 0..model.grains.len() {
            let address = PhysAddr::new(base + grain as u64 * GRAIN);
            prop_assert_eq!(map.kind_at(address), model.kind(grain), "at {}", address);
        }
        let last = page(base, *ram_pages.last().expect("the map has RAM")).last();
        prop_assert_eq!(map.ram_bytes(), ram_pages.len() as u64 * 4096);
        prop_assert_eq!(Some(map.ram_start()), first);
        prop_assert_eq!(map.ram_last(), last);
        prop_assert_eq!(map.max_pfn() * 4096, last.as_u64() + 1);
    }

    #[test]
    fn limit_takes_out_the_ram_above_it_and_nothing_else(claims in claims(), limit in 0_u64..40 * 4096) {
        let model = Model::new(&claims);
        let Ok(before) = MemoryMap::from_firmware(firmware(0, &claims), 52, |_| ()) else { return Ok(()) };
        let mut after = before;
        let pages = limit / 4096;
        let kept = model.ram_pages().into_iter().filter(|&page| (page as u64) < pages).count() as u64;
        match after.limit(limit) {
            Ok(taken) => prop_assert_eq!(taken, before.ram_bytes() - kept * 4096),
            Err(error) => {
                prop_assert_eq!(error, MapError::LimitLeavesNothing { limit, first: before.ram_start() });
                prop_assert_eq!(kept, 0);
                prop_assert_eq!(after.ram_bytes(), before.ram_bytes());
                return Ok(());
            }
        }
        assert_invariants(&after);
        for grain in 0..model.grains.len() {
            let address = PhysAddr::new(grain as u64 * GRAIN);
            let gone = before.kind_at(address) == Some(MemoryKind::Ram) && address.as_u64() >= pages * 4096;
            let expected = if gone { None } else { before.kind_at(address) };
            prop_assert_eq!(after.kind_at(address), expected, "at {}", address);
        }
    }

    #[test]
    fn free_ram_is_ram_that_nobody_reserved(
        claims in claims(),
        taken in prop::collection::vec((0_u64..32 * 4096, 1_u64..20_000), 0..12),
    ) {
        let Ok(mut map) = MemoryMap::from_firmware(firmware(0, &claims), 52, |_| ()) else { return Ok(()) };
        let mut free: Vec<usize> = Model::new(&claims).ram_pages();
        for (start, size) in taken {
            let range = PhysRange::new(PhysAddr::new(start), size);
            map.reserve(range).expect("twelve fit");
            free.retain(|&index| !page(0, index).overlaps(range));
        }
        let reserved: Vec<_> = map.reserved().collect();
        for pair in reserved.windows(2) {
            prop_assert!(pair[0].end_u64() < pair[1].start().as_u64());
        }
        let found: Vec<_> = map.free_from_top().collect();
        for pair in found.windows(2) {
            prop_assert!(pair[1].last() < pair[0].start(), "not from the top down");
        }
        let pages = |range: &PhysRange| range.start().pfn().as_u64()..=range.last().pfn().as_u64();
        let mut found: Vec<usize> = found.iter().flat_map(pages).map(|pfn| pfn as usize).collect();
        found.sort_unstable();
        prop_assert_eq!(found, free);
    }

    #[test]
    fn no_firmware_map_breaks_the_invariants(
        raw in prop::collection::vec((extremes(), extremes(), 0_u32..9), 0..40),
        phys_bits in 0_u32..=80,
    ) {
        let entries = raw.iter().map(|&(start, size, kind)| FirmwareEntry { start, size, kind });
        let mut repairs = 0;
        let count = |repair: Repair| {
            assert!(repair.to_string().starts_with("memory map: "));
            repairs += 1;
        };
        if let Ok(map) = MemoryMap::from_firmware(entries, phys_bits, count) {
            assert_invariants(&map);
            prop_assert!(map.ram_start().as_u64() < 1 << 32);
            prop_assert!(map.ram_last().as_u64() >> phys_bits.clamp(32, 52) == 0);
        }
    }
}

/// Numbers around every power of two, where arithmetic breaks, and any others.
fn extremes() -> impl Strategy<Value = u64> {
    let near_a_power =
        (0_u32..64, -2_i64..=2).prop_map(|(bit, by)| (1_u64 << bit).wrapping_add_signed(by));
    prop_oneof![3 => near_a_power, 1 => any::<u64>(), 1 => Just(0_u64), 1 => Just(u64::MAX)]
}
