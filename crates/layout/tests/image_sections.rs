//! Images made of sections that lie one behind the other.

use kspace_layout::{AddressError, KernelImage, PhysAddr, SectionKind, VirtAddr, VirtRange};

const START: u64 = 0xffff_ffff_8100_0000;

fn at(offset: u64) -> VirtAddr {
    VirtAddr::new(START + offset)
}

#[test]
fn each_section_goes_up_to_the_next() {
    let sections = [
        (SectionKind::Text, at(0)),
        (SectionKind::Rodata, at(0x3000)),
        (SectionKind::Data, at(0x5000)),
        (SectionKind::Bss, at(0x5000)),
    ];
    let image = KernelImage::try_from_sections(PhysAddr::new(2 << 20), &sections, at(0x9000));
    let image = image.expect("a sound image");
    assert_eq!(image.virt(), VirtRange::new(at(0), 0x9000));
    assert_eq!(image.phys().start(), PhysAddr::new(2 << 20));
    let section = |kind| image.section(kind);
    assert_eq!(
        section(SectionKind::Text),
        Some(VirtRange::new(at(0), 0x3000))
    );
    assert_eq!(
        section(SectionKind::Rodata),
        Some(VirtRange::new(at(0x3000), 0x2000))
    );
    assert_eq!(section(SectionKind::Data), None, "it has no bytes");
    assert_eq!(
        section(SectionKind::Bss),
        Some(VirtRange::new(at(0x5000), 0x4000))
    );
}

#[test]
fn nonsense_is_refused() {
    let made = |sections: &[_], end| KernelImage::try_from_sections(PhysAddr::ZERO, sections, end);
    assert_eq!(made(&[], at(0)), Err(AddressError::EmptyRange(START)));
    assert_eq!(
        made(&[(SectionKind::Text, at(0))], at(0)),
        Err(AddressError::EmptyRange(START))
    );
    let descending = [
        (SectionKind::Text, at(0)),
        (SectionKind::Data, at(0x3000)),
        (SectionKind::Bss, at(0x2000)),
    ];
    assert_eq!(
        made(&descending, at(0x4000)),
        Err(AddressError::ReversedRange {
            start: START + 0x3000,
            last: START + 0x1fff
        })
    );
    assert!(matches!(
        made(&[(SectionKind::Text, at(0x1000))], at(0)),
        Err(AddressError::ReversedRange { .. })
    ));
    assert!(matches!(
        made(&[(SectionKind::Text, at(0))], VirtAddr::ZERO),
        Err(AddressError::ReversedRange { .. })
    ));
    let high = PhysAddr::new((1 << 52) - 4096);
    assert!(matches!(
        KernelImage::try_from_sections(high, &[(SectionKind::Text, at(0))], at(0x2000)),
        Err(AddressError::PhysOverflow { .. })
    ));
}
