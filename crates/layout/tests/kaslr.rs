//! KASLR: whatever is drawn must be a layout, and must be worth what is said.

use kspace_layout::{
    DEFAULT_IMAGE_START, IMAGE_WINDOW, Kaslr, KaslrError, KernelImage, PagingMode, PhysAddr,
    PhysRange, RegionDraw, Regions, VirtRange, X86_64, draw_image_phys, draw_image_virt,
};
use proptest::prelude::*;

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// CPU_ENTRY_AREA_BASE.
const MOVABLE_END: u64 = 0xffff_fe00_0000_0000;

fn ram(bytes: u64) -> PhysAddr {
    PhysAddr::new(bytes - 1)
}

/// What holds for every draw: a layout comes out, the order is kept, bases are multiples of 1 GiB, gaps are at least that.
fn check(mode: PagingMode, last_ram: PhysAddr, frame_data: u64, draw: RegionDraw) {
    let layout = X86_64::new(mode, last_ram)
        .frame_data(frame_data)
        .regions(draw.regions)
        .build()
        .unwrap();
    assert_eq!(
        layout.phys_to_virt(PhysAddr::ZERO).unwrap(),
        draw.regions.direct_map.start()
    );

    let Regions {
        direct_map,
        vmalloc,
        vmemmap,
    } = draw.regions;
    let fixed = Regions::fixed(mode).unwrap();
    assert!(direct_map.start() >= fixed.direct_map.start());
    for (lower, upper) in [(direct_map, vmalloc), (vmalloc, vmemmap)] {
        assert!(
            upper.start().as_u64() - lower.last().as_u64() > GIB,
            "{lower} {upper}"
        );
    }
    assert!(vmemmap.last().as_u64() < MOVABLE_END, "{vmemmap}");
    for range in [direct_map, vmalloc, vmemmap] {
        assert!(range.start().is_aligned(GIB), "{range}");
    }
    assert_eq!(vmalloc.size(), fixed.vmalloc.size());
}

/// Random numbers with the extremes often among them.
fn random() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX), any::<u64>()]
}

fn modes() -> impl Strategy<Value = (PagingMode, u64)> {
    prop_oneof![
        (Just(PagingMode::FourLevel), 1..=1u64 << 46),
        (Just(PagingMode::FiveLevel), 1..=1u64 << 52),
        (Just(PagingMode::FourLevel), 1..=16 * GIB),
        (Just(PagingMode::FiveLevel), 1..=16 * GIB),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_draw_is_a_layout(
        (mode, bytes) in modes(),
        padding in 0..=64u64,
        frame_data in 1..=256u64,
        whole in any::<bool>(),
        numbers in [random(), random(), random()],
    ) {
        let mut kaslr = Kaslr::new(mode, ram(bytes)).padding_tib(padding).frame_data(frame_data);
        if whole {
            kaslr = kaslr.whole_window();
        }
        let mut numbers = numbers.into_iter();
        match kaslr.draw(|| numbers.next().unwrap()) {
            Ok(draw) => check(mode, ram(bytes), frame_data, draw),
            Err(error) => prop_assert!(false, "{error}"),
        }
        prop_assert_eq!(numbers.next(), None);
    }

    #[test]
    fn an_image_stays_in_its_window(bytes in 0..=1024 * (1u64 << 20), number in random()) {
        let room = IMAGE_WINDOW.end_u64() - DEFAULT_IMAGE_START.as_u64();
        match draw_image_virt(bytes, || number) {
            Ok(draw) => {
                let image = VirtRange::new(draw.start, bytes.max(1));
                prop_assert!(IMAGE_WINDOW.contains_range(image));
                prop_assert!(draw.start >= DEFAULT_IMAGE_START && draw.start.is_aligned(2 << 20));
            }
            Err(error) => {
                prop_assert!(bytes > room);
                prop_assert_eq!(error, KaslrError::ImageTooLarge { image: bytes, room });
            }
        }
    }

    #[test]
    fn an_image_lies_in_free_memory(
        starts in prop::collection::vec((0..=1u64 << 34, 1..=1u64 << 28), 0..6),
        lowest in 0..=1u64 << 33,
        bytes in 1..=1u64 << 25,
        number in random(),
    ) {
        let free: Vec<PhysRange> =
            starts.into_iter().map(|(at, size)| PhysRange::new(PhysAddr::new(at), size)).collect();
        let lowest = PhysAddr::new(lowest);
        // The slow way to know all places: try each multiple of 2 MiB.
        let places: Vec<u64> = free
            .iter()
            .flat_map(|range| {
                let first = range.start().as_u64().div_ceil(2 << 20) * (2 << 20);
                (first..=range.last().as_u64()).step_by(2 << 20).filter(|&at| {
                    at >= lowest.as_u64() && at + bytes - 1 <= range.last().as_u64()
                })
            })
            .collect();
        match draw_image_phys(bytes, lowest, free.iter().copied(), || number) {
            Ok(draw) => {
                prop_assert!(places.contains(&draw.start.as_u64()));
                prop_assert_eq!(draw.entropy.slots(), places.len() as u64);
            }
            Err(KaslrError::ImageTooLarge { image, .. }) => {
                prop_assert_eq!(image, bytes);
                prop_assert_eq!(places, [0u64; 0]);
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}

#[test]
fn the_first_area_has_as_many_slots_as_linux_gives_it() {
    // A machine with 1 TiB of RAM, 10 TiB of padding, 64 bytes per frame; with and without CONFIG_ZONE_DEVICE. By Linux's formula:
    // (end - start - sizes) / 3, in GiB.
    let four = Kaslr::new(PagingMode::FourLevel, ram(TIB));
    let five = Kaslr::new(PagingMode::FiveLevel, ram(TIB));
    for (kaslr, slots, bits) in [
        (four, 25_088, "14.6 bits"),
        (four.whole_window(), 6_997, "12.8 bits"),
        (five, 16_510_293, "24.0 bits"),
        (five.whole_window(), 15_094_442, "23.8 bits"),
    ] {
        let [first, ..] = kaslr.draw(|| 0).unwrap().entropy;
        assert_eq!((first.slots(), first.to_string().as_str()), (slots, bits));
    }
}

#[test]
fn every_slot_is_reached_and_none_is_preferred() {
    // Equidistant numbers, as many as eight for each slot: each slot must come up eight times.
    let kaslr = Kaslr::new(PagingMode::FourLevel, ram(TIB));
    let slots = kaslr.draw(|| 0).unwrap().entropy[0].slots();
    let start = Regions::fixed(PagingMode::FourLevel)
        .unwrap()
        .direct_map
        .start()
        .as_u64();
    let mut hits = vec![0u32; slots as usize];
    for index in 0..slots * 8 {
        let number = (u128::from(index) * (1 << 64) / u128::from(slots * 8)) as u64;
        let draw = kaslr.draw(|| number).unwrap();
        hits[((draw.regions.direct_map.start().as_u64() - start) / GIB) as usize] += 1;
    }
    // Rounding moves a number at a slot's edge to the slot before.
    assert!(hits.iter().all(|count| (7..=9).contains(count)));
}

#[test]
fn extreme_numbers_leave_the_areas_where_they_must_be() {
    for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
        let kaslr = Kaslr::new(mode, ram(TIB));
        let lowest = kaslr.draw(|| 0).unwrap();
        check(mode, ram(TIB), 64, lowest);
        assert_eq!(
            lowest.regions.direct_map.start(),
            Regions::fixed(mode).unwrap().direct_map.start()
        );
        assert_eq!(
            lowest.regions.vmalloc.start().as_u64(),
            lowest.regions.direct_map.end_u64() + GIB
        );

        let highest = kaslr.draw(|| u64::MAX).unwrap();
        check(mode, ram(TIB), 64, highest);
        // The last slot of all, less than two slots from the end.
        assert!(MOVABLE_END - highest.regions.vmemmap.end_u64() < 2 * GIB);
    }
}

#[test]
fn bits_are_the_logarithm() {
    // Slots of an image draw are easy to choose: one more for every 2 MiB less.
    for spare in 0..504u64 {
        let room = IMAGE_WINDOW.end_u64() - DEFAULT_IMAGE_START.as_u64();
        let draw = draw_image_virt(room - spare * (2 << 20), || 0).unwrap();
        assert_eq!(draw.entropy.slots(), spare + 1);
        let tenths = ((spare + 1) as f64).log2() * 10.0;
        let off = (f64::from(draw.entropy.tenths_of_bits()) - tenths).abs();
        assert!(off < 0.501, "{spare}: {off}");
    }
}

#[test]
fn a_kernel_of_16_mib_has_nine_bits() {
    let draw = draw_image_virt(16 << 20, || u64::MAX).unwrap();
    // 1 GiB less the 16 MiB below the default start less the image, in steps of 2 MiB.
    assert_eq!(draw.entropy.slots(), 1 + (1024 - 16 - 16) / 2);
    assert_eq!(draw.entropy.to_string(), "9.0 bits");
    assert_eq!(draw.start.as_u64(), IMAGE_WINDOW.end_u64() - (16 << 20));
}

#[test]
fn an_image_moves_with_its_sections() {
    use kspace_layout::{SectionKind, VirtAddr};
    let at = |offset| VirtAddr::new(DEFAULT_IMAGE_START.as_u64() + offset);
    let image = KernelImage::try_new(VirtRange::new(at(0), 0x40_0000), PhysAddr::new(0x100_0000))
        .unwrap()
        .with_section(SectionKind::Text, VirtRange::new(at(0), 0x1234))
        .with_section(SectionKind::Data, VirtRange::new(at(0x20_0000), 0x10));
    let moved = image
        .moved_to(at(0x60_0000), PhysAddr::new(0x5000_0000))
        .unwrap();
    assert_eq!(moved.virt(), VirtRange::new(at(0x60_0000), 0x40_0000));
    assert_eq!(
        moved.phys(),
        PhysRange::new(PhysAddr::new(0x5000_0000), 0x40_0000)
    );
    assert_eq!(
        moved.section(SectionKind::Text),
        Some(VirtRange::new(at(0x60_0000), 0x1234))
    );
    assert_eq!(
        moved.section(SectionKind::Data),
        Some(VirtRange::new(at(0x80_0000), 0x10))
    );
    assert_eq!(
        moved.moved_to(at(0), PhysAddr::new(0x100_0000)).unwrap(),
        image
    );
    assert_eq!(
        image
            .moved_to(VirtAddr::LAST, PhysAddr::ZERO)
            .unwrap_err()
            .to_string(),
        "ffffffffffffffff plus 0x3fffff leaves the canonical half that it began in"
    );
}

#[test]
fn what_cannot_be_drawn_is_said() {
    let message = |kaslr: Kaslr| kaslr.draw(|| 0).unwrap_err().to_string();
    assert_eq!(
        message(Kaslr::new(PagingMode::Pae, ram(GIB))),
        "KASLR: PAE paging has no movable areas; leave them where they are"
    );
    assert_eq!(
        message(Kaslr::new(PagingMode::FourLevel, PhysAddr::new(1 << 46))),
        "KASLR: RAM ends at 0000400000000000, the paging mode reaches 00003fffffffffff; use less RAM (mem=)"
    );
    assert_eq!(
        message(Kaslr::new(PagingMode::FourLevel, ram(GIB)).frame_data(0)),
        "KASLR: a record of 0 bytes per frame is refused; ask for 1 to 4096 bytes"
    );
    assert_eq!(
        message(
            Kaslr::new(PagingMode::FourLevel, ram(GIB))
                .whole_window()
                .frame_data(2048)
        ),
        "KASLR: the areas need 128 TiB, there are 117.5 TiB; use less padding or smaller records"
    );
    assert_eq!(
        draw_image_virt(1 << 30, || 0).unwrap_err().to_string(),
        "KASLR: the kernel image has 1 GiB, the largest place for it 1008 MiB; leave it where it is"
    );
    let free = [PhysRange::new(PhysAddr::new(0x10_0000), 8 << 20)];
    assert_eq!(
        draw_image_phys(8 << 20, PhysAddr::ZERO, free.into_iter(), || 0)
            .unwrap_err()
            .to_string(),
        "KASLR: the kernel image has 8 MiB, the largest place for it 7 MiB; leave it where it is"
    );
    assert_eq!(
        draw_image_phys(1, PhysAddr::ZERO, [].into_iter(), || 0)
            .unwrap_err()
            .to_string(),
        "KASLR: the kernel image has 1 byte, the largest place for it 0 bytes; leave it where it is"
    );
}
