//! Mapping devices: what is refused, and with which words; offsets, cache types, large pages.

use kspace::areas::{DeviceCache, IoError, IoMemory, device_pages};
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_layout::{PageSize, PagingMode, PhysAddr, PhysRange, VirtAddr, VirtRange};
use kspace_paging::{CacheType, EntryFormat, Limits, LongMode, Pae, Pat, TwoLevel};
use proptest::prelude::*;

use crate::rig::{K4, M2, Rig, Setup, guard, with_rig, with_rig_of};

/// RAM up to 1 GiB and from 4 to 5 GiB.
fn map() -> MemoryMap {
    let entry = |start, size| FirmwareEntry {
        start,
        size,
        kind: 1,
    };
    let entries = [entry(0, 1 << 30), entry(4 << 30, 1 << 30)];
    MemoryMap::from_firmware(entries, 46, |_| ()).expect("a sound map")
}

fn check(rig: &Rig<'_, '_>, start: u64, bytes: u64, expected: &str) {
    let (map, start) = (map(), PhysAddr::new(start));
    // SAFETY: there is no device, nor a CPU.
    let mapped = unsafe {
        IoMemory::new(
            rig.areas,
            rig.types,
            &map,
            start,
            bytes,
            DeviceCache::default(),
        )
    };
    let error = mapped.map(drop).expect_err("it must be refused");
    assert_eq!(error.to_string(), expected);
}

#[test]
fn what_is_no_device_is_refused() {
    let limits = Limits::WIDEST.with_phys_bits(46);
    let setup = Setup {
        limits,
        ..Setup::new()
    };
    with_rig(setup, |rig| {
        let before = rig.everything();
        check(
            rig,
            0xfed0_0000,
            0,
            "ioremap: no bytes at 00000000fed00000; ask for at least one",
        );
        check(
            rig,
            0xf_ffff_ffff_f000,
            0x1001,
            "ioremap: 0x1001 bytes from 000ffffffffff000 on go past the last physical address; check the device's size",
        );
        check(
            rig,
            0xfed0_0000,
            u64::MAX,
            "ioremap: 0xffffffffffffffff bytes from 00000000fed00000 on go past the last physical address; check the device's size",
        );
        check(
            rig,
            (1 << 46) - K4,
            K4 + 1,
            "ioremap: 00003ffffffff000-0000400000000000: this machine has 46 bits of physical address; check the device's address",
        );
        check(
            rig,
            0x3fff_ff00,
            0x80,
            "ioremap: 000000003ffff000-000000003fffffff: 000000003ffff000-000000003fffffff is RAM, which is mapped with another cache type already; use the direct map",
        );
        // RAM in the middle.
        check(
            rig,
            0xc000_0000,
            4 << 30,
            "ioremap: 00000000c0000000-00000001bfffffff: 0000000100000000-000000013fffffff is RAM, which is mapped with another cache type already; use the direct map",
        );
        assert_eq!(rig.everything(), before);
    });
}

#[test]
fn the_offset_in_the_page_is_kept() {
    with_rig(Setup::new(), |rig| {
        let (map, start) = (map(), PhysAddr::new(0xfed4_0ffe));
        let cache = DeviceCache::Uncached;
        // SAFETY: there is no device, nor a CPU.
        let device =
            unsafe { IoMemory::new(rig.areas, rig.types, &map, start, 4, cache) }.expect("room");
        assert_eq!(device.address().as_u64() % K4, 0xffe);
        assert_eq!(device.phys(), PhysRange::new(start, 4));
        // Two pages: the four bytes lie in both.
        for address in [device.address(), device.range().last()] {
            let page = rig.page(address).expect("mapped");
            let offset = address.as_u64() - device.address().as_u64();
            let expected = PhysAddr::new(start.as_u64() + offset).pfn();
            assert_eq!(page.phys.pfn(), expected);
            assert_eq!(page.attributes.cache, CacheType::Uncached);
            assert!(page.attributes.write && !page.attributes.execute);
        }
        let info = rig.areas.find(device.address()).expect("it is there");
        assert_eq!((info.pages, rig.page(guard(info.range))), (2, None));
        device.unmap();
        assert_eq!(rig.page(info.range.start()), None);
    });
}

#[test]
fn every_cache_type_is_in_the_entries() {
    with_rig(Setup::new(), |rig| {
        let types = [
            (DeviceCache::UncachedMinus, CacheType::UncachedMinus),
            (DeviceCache::Uncached, CacheType::Uncached),
            (DeviceCache::WriteCombining, CacheType::WriteCombining),
            (DeviceCache::WriteThrough, CacheType::WriteThrough),
            (DeviceCache::WriteBack, CacheType::WriteBack),
        ];
        for (asked, found) in types {
            for bytes in [K4, M2] {
                let start = PhysAddr::new(0xe000_0000);
                // SAFETY: there is no device, nor a CPU.
                let device =
                    unsafe { IoMemory::new(rig.areas, rig.types, &map(), start, bytes, asked) };
                let device = device.expect("room");
                let page = rig.page(device.address()).expect("mapped");
                assert_eq!((page.attributes.cache, page.size.bytes()), (found, bytes));
            }
        }
    });
    // Before the kernel has loaded its table, there is no write-combining.
    let limits = Limits::WIDEST.with_pat(Pat::RESET);
    let setup = Setup {
        limits,
        ..Setup::new()
    };
    with_rig(setup, |rig| {
        let (start, cache) = (PhysAddr::new(0xe000_0000), DeviceCache::WriteCombining);
        // SAFETY: there is no device, nor a CPU.
        let device = unsafe { IoMemory::new(rig.areas, rig.types, &map(), start, K4, cache) };
        let error = device.map(drop).expect_err("there is no such type");
        assert_eq!(error, IoError::NoSuchCache(CacheType::WriteCombining));
    });
}

#[test]
fn large_devices_have_large_pages() {
    with_rig(Setup::new(), |rig| {
        let pages_of = |start, bytes| {
            let (start, cache) = (PhysAddr::new(start), DeviceCache::WriteCombining);
            // SAFETY: there is no device, nor a CPU.
            let device =
                unsafe { IoMemory::new(rig.areas, rig.types, &map(), start, bytes, cache) };
            let device = device.expect("room");
            let sizes = rig.sizes(device.range());
            let count = |size| sizes.get(&size).copied().unwrap_or_default();
            (
                count(PageSize::Size1G),
                count(PageSize::Size2M),
                count(PageSize::Size4K),
            )
        };
        assert_eq!(pages_of(0xe000_0000, 16 << 20), (0, 8, 0));
        assert_eq!(pages_of(0xe000_0000, (16 << 20) + 1), (0, 8, 1));
        assert_eq!(pages_of(8 << 30, 2 << 30), (2, 0, 0));
        // Wherever it is put, its large pages would be cut.
        assert_eq!(pages_of(0xe000_1000, 4 << 20), (0, 0, 1024));
    });
}

/// A device's pages, by size.
fn sizes_of<E: EntryFormat>(setup: Setup, bytes: u64) -> Vec<(PageSize, u64)> {
    let mut sizes = Vec::new();
    with_rig_of::<E>(setup, |rig| {
        let (start, cache) = (PhysAddr::new(0xc000_0000), DeviceCache::WriteCombining);
        // SAFETY: there is no device, nor a CPU.
        let device = unsafe { IoMemory::new(rig.areas, rig.types, &map(), start, bytes, cache) };
        sizes.extend(rig.sizes(device.expect("room").range()));
    });
    sizes
}

#[test]
fn pages_are_no_larger_than_the_machine_has_them() {
    let bytes = 32 << 20;
    let setup = Setup {
        limits: Limits::WIDEST.with_gigabyte_pages(false),
        ..Setup::new()
    };
    let gigabyte = sizes_of::<LongMode>(setup, 1 << 30);
    assert_eq!(gigabyte, [(PageSize::Size2M, 512)]);
    let area = VirtRange::new(VirtAddr::new(0xf400_0000), 128 << 20);
    let mode = PagingMode::Pae;
    let setup = Setup {
        mode,
        area,
        ..Setup::new()
    };
    assert_eq!(sizes_of::<Pae>(setup, bytes), [(PageSize::Size2M, 16)]);
    // The root has the entries for 4 MiB, and those lead to tables for good: other roots have copies.
    let mode = PagingMode::TwoLevel;
    let setup = Setup { mode, ..setup };
    assert_eq!(
        sizes_of::<TwoLevel>(setup, bytes),
        [(PageSize::Size4K, 8192)]
    );
}

proptest! {
    /// Whatever is asked for gets an answer, and what is allowed is what was asked for, and no RAM.
    #[test]
    fn any_range_is_mapped_whole_or_refused(
        start in prop_oneof![0..1_u64 << 52, 0..6_u64 << 30],
        bytes in prop_oneof![any::<u64>(), 0..1_u64 << 33, 0..2 * K4],
        bits in 32..53_u32,
    ) {
        let (map, limits) = (map(), Limits::WIDEST.with_phys_bits(bits));
        let end = u128::from(start) + u128::from(bytes);
        let ram = [(0, 1 << 30), (4 << 30, 5 << 30)];
        let first = u128::from(start / K4 * K4);
        let overlaps = |&(from, to): &(u128, u128)| first < to && from < end.next_multiple_of(4096);
        match device_pages(&map, limits, PhysAddr::new(start), bytes) {
            Ok(pages) => {
                prop_assert!(bytes > 0 && end <= 1 << bits && !ram.iter().any(overlaps));
                prop_assert_eq!(u128::from(pages.start().as_u64()), first);
                prop_assert_eq!(u128::from(pages.end_u64()), end.next_multiple_of(4096));
            }
            Err(IoError::Empty(_)) => prop_assert_eq!(bytes, 0),
            Err(IoError::Wraps { .. }) => prop_assert!(end > 1 << 52),
            Err(IoError::TooWide { .. }) => prop_assert!(end > 1 << bits),
            Err(IoError::Ram { .. }) => prop_assert!(ram.iter().any(overlaps)),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
    }
}
