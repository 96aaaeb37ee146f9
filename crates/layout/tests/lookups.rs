//! Which area holds an address, and what is behind it.

use kspace_layout::{
    AreaKind, AreaState, DEFAULT_IMAGE_START, I386, KernelImage, Layout, LayoutBuilder, PagingMode,
    Pfn, PhysAddr, SectionKind, Split, VirtAddr, VirtRange, X86_64,
};
use proptest::prelude::*;

const GIB: u64 = 1 << 30;

fn image() -> KernelImage {
    KernelImage::try_new(
        VirtRange::new(DEFAULT_IMAGE_START, 0x40_0000),
        PhysAddr::new(0x100_0000),
    )
    .unwrap()
    .with_section(
        SectionKind::Text,
        VirtRange::new(DEFAULT_IMAGE_START, 0x1234),
    )
}

fn x86_64(mode: PagingMode, ram: u64) -> Layout {
    X86_64::new(mode, PhysAddr::new(ram - 1))
        .image(image())
        .build()
        .unwrap()
}

fn i386(ram: u64) -> Layout {
    I386::new(Split::ThreeG, PagingMode::Pae, PhysAddr::new(ram - 1))
        .build()
        .unwrap()
}

#[test]
fn a_place_says_what_and_how_far() {
    let four = x86_64(PagingMode::FourLevel, 5 * GIB);
    let at = |address: u64| four.find(VirtAddr::new(address)).to_string();
    assert_eq!(at(0), "the start of user");
    assert_eq!(at(0xffff_c900_0004_2000), "264 KiB into vmalloc");
    assert_eq!(
        at(0xffff_e900_0000_0000),
        "the hole between vmalloc and vmemmap"
    );
    assert_eq!(
        at(0xffff_c880_0000_0000),
        "the hole between direct map and vmalloc"
    );
    assert_eq!(at(u64::MAX), "the hole above vsyscall");
    assert_eq!(
        at(0x0000_8000_0000_0000),
        "not an address of 4-level paging"
    );
    assert_eq!(
        at(0xffff_7fff_ffff_ffff),
        "not an address of 4-level paging"
    );
    assert_eq!(
        at(0xff11_0000_0000_0000),
        "not an address of 4-level paging"
    );

    let small = i386(GIB);
    let at = |address: u64| small.find(VirtAddr::new(address)).to_string();
    assert_eq!(at(0xffff_ffff), "the hole above fixmap");
    assert_eq!(at(0x1_0000_0000), "not an address of PAE paging");
}

#[test]
fn a_hole_names_only_neighbours_in_its_own_half() {
    let reserved = AreaState::Reserved;
    let page = |start| VirtRange::new(VirtAddr::new(start), 0x1000);
    for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
        let layout = LayoutBuilder::new(mode, PhysAddr::ZERO)
            .area(AreaKind::User, page(0x1000), reserved)
            .area(AreaKind::Vmalloc, page(0xffff_f000_0000_0000), reserved)
            .build()
            .unwrap();
        let at = |address: u64| layout.find(VirtAddr::new(address));
        let half = mode.upper_half_start().unwrap();
        assert_eq!(at(0).to_string(), "the hole below user");
        assert_eq!(at(0x2000).to_string(), "the hole above user");
        assert_eq!(at(0x2000).range().unwrap().last(), mode.lower_half_last());
        assert_eq!(layout.find(half).to_string(), "the hole below vmalloc");
        assert_eq!(layout.find(half).range().unwrap().start(), half);
        assert_eq!(
            at(u64::MAX).range().unwrap().start(),
            VirtAddr::new(0xffff_f000_0000_1000)
        );
        assert_eq!(layout.places().count(), 6);
    }
    let empty = LayoutBuilder::new(PagingMode::TwoLevel, PhysAddr::ZERO)
        .build()
        .unwrap();
    assert_eq!(
        empty.find(VirtAddr::ZERO).to_string(),
        "an address space without areas"
    );
    assert_eq!(empty.find(VirtAddr::ZERO).range().unwrap().size(), 1 << 32);
}

#[test]
fn every_address_is_in_exactly_one_place() {
    for layout in [
        x86_64(PagingMode::FourLevel, GIB),
        x86_64(PagingMode::FiveLevel, GIB),
        i386(GIB),
    ] {
        let mode = layout.mode();
        let mut next = Some(VirtAddr::ZERO);
        for place in layout.places() {
            let range = place.range().unwrap();
            assert_eq!(Some(range.start()), next);
            assert_eq!(layout.find(range.last()).range(), Some(range));
            next = range
                .last()
                .checked_add(1)
                .ok()
                .filter(|after| mode.contains(*after));
            if range.last() == mode.lower_half_last() {
                next = mode.upper_half_start();
            }
        }
        assert_eq!(next, None, "{mode}");
    }
}

#[test]
fn the_direct_map_ends_with_ram_and_its_area_does_not() {
    let layout = x86_64(PagingMode::FourLevel, 5 * GIB);
    assert_eq!(
        layout.area(AreaKind::DirectMap).unwrap().range().size(),
        64 << 40
    );
    assert_eq!(layout.direct_mapped().unwrap().size(), 5 * GIB);
    let covered = layout.direct_map_covered().unwrap();
    assert_eq!(covered.to_string(), "ffff888000000000-ffff88813fffffff");

    let beyond = PhysAddr::new(5 * GIB);
    assert_eq!(
        layout.phys_to_virt(beyond).unwrap_err().to_string(),
        "physical 0000000140000000: the direct map ends at physical 000000013fffffff; map the address into vmalloc instead"
    );
    assert_eq!(
        layout
            .virt_to_phys(VirtAddr::new(0xffff_8881_4000_0000))
            .unwrap_err()
            .to_string(),
        "ffff888140000000: 5 GiB into direct map, neither in what the direct map covers nor in the image; walk the page tables"
    );
}

#[test]
fn the_image_has_its_own_offset() {
    let layout = x86_64(PagingMode::FiveLevel, GIB);
    let text = VirtAddr::new(0xffff_ffff_8100_1000);
    let behind = PhysAddr::new(0x100_1000);
    assert_eq!(layout.virt_to_phys(text), Ok(behind));
    assert_eq!(layout.phys_to_image(behind), Some(text));
    // The same memory through the direct map.
    assert_eq!(
        layout.phys_to_virt(behind),
        Ok(VirtAddr::new(0xff11_0000_0100_1000))
    );
    assert_eq!(layout.phys_to_image(PhysAddr::new(0x140_0000)), None);
    let image = layout.image().unwrap();
    assert_eq!(
        image.section_at(text).unwrap().to_string(),
        ".text ffffffff81000000-ffffffff81001233"
    );
    assert_eq!(image.section_at(VirtAddr::new(0xffff_ffff_8100_1234)), None);
    assert_eq!(
        layout
            .virt_to_phys(VirtAddr::new(0xffff_ffff_8140_0000))
            .unwrap_err()
            .to_string(),
        "ffffffff81400000: 20 MiB into kernel image, neither in what the direct map covers nor in the image; walk the page tables"
    );
}

#[test]
fn high_memory_is_not_in_the_direct_map() {
    let layout = i386(4 * GIB);
    let lowmem = layout.direct_mapped().unwrap();
    assert_eq!(lowmem.to_string(), "0000000000000000-00000000375fdfff");
    assert_eq!(
        layout.phys_to_virt(lowmem.last()),
        Ok(VirtAddr::new(0xf75f_dfff))
    );
    assert!(layout.phys_to_virt(PhysAddr::new(0x375f_e000)).is_err());
    assert_eq!(
        layout.virt_to_phys(VirtAddr::new(0xc010_0000)),
        Ok(PhysAddr::new(0x10_0000))
    );
    assert!(layout.virt_to_phys(VirtAddr::new(0xf75f_e000)).is_err());
}

#[test]
fn a_layout_without_a_direct_map_says_so() {
    let layout = LayoutBuilder::new(PagingMode::FourLevel, PhysAddr::ZERO)
        .build()
        .unwrap();
    assert_eq!(layout.direct_mapped(), None);
    assert_eq!(
        layout.phys_to_virt(PhysAddr::ZERO).unwrap_err().to_string(),
        "layout: there is no direct map; add an area for it"
    );
}

#[test]
fn each_frame_has_a_record() {
    let layout = x86_64(PagingMode::FourLevel, GIB);
    let record = |pfn| layout.frame_record(Pfn::new(pfn));
    assert_eq!(record(0), Some(VirtAddr::new(0xffff_ea00_0000_0000)));
    assert_eq!(
        record(GIB / 4096 - 1),
        Some(VirtAddr::new(0xffff_ea00_00ff_ffc0))
    );
    assert_eq!(record(GIB / 4096), None);
    assert_eq!(layout.vmemmap_used().unwrap().size(), GIB / 4096 * 64);
    assert_eq!(i386(GIB).frame_record(Pfn::new(0)), None);
}

#[test]
fn a_state_can_change_and_nothing_else() {
    let layout = x86_64(PagingMode::FourLevel, GIB);
    let built: Vec<&str> = layout
        .areas()
        .iter()
        .filter(|area| area.state() == AreaState::Built)
        .map(|area| area.name())
        .collect();
    assert_eq!(
        built,
        ["direct map", "cpu_entry_area", "kernel image", "fixmap"]
    );
    let more = layout.with_state(AreaKind::Vmalloc, AreaState::Built);
    assert_eq!(
        more.area(AreaKind::Vmalloc).unwrap().state(),
        AreaState::Built
    );
    assert_eq!(
        more.with_state(AreaKind::Vmalloc, AreaState::Reserved),
        layout
    );
}

#[test]
fn every_area_has_a_name_and_a_purpose_of_its_own() {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for layout in [x86_64(PagingMode::FourLevel, GIB), i386(GIB)] {
        seen.extend(
            layout
                .areas()
                .iter()
                .map(|area| (area.name(), area.purpose())),
        );
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 16);
    for (name, purpose) in seen {
        let sentences = purpose.matches(". ").count() + 1;
        assert!(
            (2..=3).contains(&sentences) && purpose.ends_with('.'),
            "{name}: {purpose}"
        );
        assert!(!purpose.contains("  "), "{name}: {purpose}");
    }
}

proptest! {
    #[test]
    fn there_and_back_through_the_direct_map(ram in 1..=1u64 << 46, at in any::<u64>()) {
        let ram = ram.next_multiple_of(4096).max(0x200_0000);
        for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
            let layout = x86_64(mode, ram);
            let phys = PhysAddr::new(at % ram);
            let virt = layout.phys_to_virt(phys).unwrap();
            prop_assert_eq!(layout.virt_to_phys(virt), Ok(phys));
            let base = layout.area(AreaKind::DirectMap).unwrap().range().start();
            prop_assert_eq!(virt.as_u64() - base.as_u64(), phys.as_u64());
        }
    }

    #[test]
    fn finding_agrees_with_looking_at_each_area(address in any::<u64>()) {
        for layout in [x86_64(PagingMode::FourLevel, GIB), x86_64(PagingMode::FiveLevel, GIB)] {
            // Most numbers are not canonical: sign-extend them.
            let bits = 64 - layout.mode().virt_bits();
            let address = VirtAddr::new((((address << bits) as i64) >> bits) as u64);
            let slow = layout.areas().iter().find(|area| area.range().contains(address));
            let place = layout.find(address);
            prop_assert!(place.range().unwrap().contains(address));
            match place {
                kspace_layout::Place::Area { area, offset } => {
                    prop_assert_eq!(Some(&area), slow);
                    prop_assert_eq!(area.range().start().checked_add(offset), Ok(address));
                }
                _ => prop_assert_eq!(slow, None),
            }
        }
    }
}
