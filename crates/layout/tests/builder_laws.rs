//! `LayoutBuilder` over arbitrary areas: what it accepts has every property it promises, what it refuses lacks one.

use kspace_layout::{
    AreaKind, AreaState, LayoutBuilder, LayoutError, PagingMode, PhysAddr, VirtAddr, VirtRange,
};
use proptest::prelude::*;

const KINDS: [AreaKind; 6] = [
    AreaKind::User,
    AreaKind::DirectMap,
    AreaKind::Vmalloc,
    AreaKind::Vmemmap,
    AreaKind::Modules,
    AreaKind::Fixmap,
];

/// Ranges that often touch and sometimes overlap, most of them aligned to large pages.
fn ranges() -> impl Strategy<Value = VirtRange> {
    let base = prop_oneof![
        Just(0u64),
        Just(0x7fff_0000_0000),
        Just(0xff11_0000_0000_0000),
        Just(0xffff_8880_0000_0000),
        Just(0xffff_ffff_0000_0000),
    ];
    let unit = prop_oneof![8 => Just(1u64 << 30), 1 => Just(1u64 << 12), 1 => Just(100u64)];
    (base, unit, 0..12u64, 1..6u64).prop_filter_map("leaves its half", |(base, unit, at, size)| {
        VirtRange::try_new(
            VirtAddr::try_new(base.checked_add(at * unit)?).ok()?,
            size * unit,
        )
        .ok()
    })
}

/// What `build` promises of areas and memory, each looked at in the slowest way.
fn is_sound(
    mode: PagingMode,
    last_ram: PhysAddr,
    frame_data: u64,
    areas: &[(AreaKind, VirtRange)],
) -> bool {
    let pairs = || (0..areas.len()).flat_map(|a| (0..a).map(move |b| (areas[a], areas[b])));
    let long_mode = mode.levels() >= 4;
    pairs().all(|(a, b)| a.0 != b.0 && !a.1.overlaps(b.1))
        && (1..=4096).contains(&frame_data)
        && areas.iter().all(|&(kind, range)| {
            let align = match kind {
                AreaKind::DirectMap if long_mode => 1 << 30,
                AreaKind::DirectMap if mode == PagingMode::Pae => 2 << 20,
                AreaKind::DirectMap => 4 << 20,
                AreaKind::Vmemmap if long_mode => 2 << 20,
                _ => 4096,
            };
            let frames = last_ram.as_u64() / 4096 + 1;
            let large_enough = match kind {
                AreaKind::DirectMap => !long_mode || range.size() > last_ram.as_u64(),
                AreaKind::Vmemmap => range.size() >= frames * frame_data,
                _ => true,
            };
            range.start().is_aligned(align)
                && range.size() % 4096 == 0
                && mode.contains(range.start())
                && mode.contains(range.last())
                && large_enough
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn sound_layouts_are_built_and_no_others(
        mode in prop::sample::select(&PagingMode::ALL[..]),
        areas in prop::collection::vec((prop::sample::select(&KINDS[..]), ranges()), 0..5),
        ram in prop_oneof![1..=1u64 << 32, 1..=1u64 << 52],
        frame_data in prop_oneof![8 => Just(64u64), 1 => 0..5000u64],
    ) {
        let last_ram = PhysAddr::new(ram - 1);
        let mut builder = LayoutBuilder::new(mode, last_ram).frame_data(frame_data);
        for &(kind, range) in &areas {
            builder = builder.area(kind, range, AreaState::Reserved);
        }
        let sound = is_sound(mode, last_ram, frame_data, &areas);
        match builder.build() {
            Ok(layout) => {
                prop_assert!(sound);
                let sorted = layout.areas().windows(2).all(|pair| pair[0].range() < pair[1].range());
                prop_assert!(sorted && layout.areas().len() == areas.len());
            }
            Err(error) => {
                prop_assert!(!sound, "{}", error);
                let wrong = !matches!(error, LayoutError::TooManyAreas { .. } | LayoutError::WrongMode { .. });
                prop_assert!(wrong, "{}", error);
                prop_assert!(error.to_string().starts_with("layout: "));
            }
        }
    }
}
