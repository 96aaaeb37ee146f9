//! A layout after memory was plugged in: the same areas, and a direct map that reaches further.

use kspace_layout::{AreaKind, AreaState, LayoutError, PagingMode, PhysAddr, X86_64};

const GIB: u64 = 1 << 30;

#[test]
fn only_the_end_of_ram_changes() {
    for mode in [PagingMode::FourLevel, PagingMode::FiveLevel] {
        let small = X86_64::new(mode, PhysAddr::new(GIB - 1))
            .build()
            .expect("sound");
        let small = small.with_state(AreaKind::Vmemmap, AreaState::Built);
        let last = PhysAddr::new(64 * GIB - 1);
        let grown = small.with_last_ram(last).expect("room");
        assert_eq!(grown.areas(), small.areas());
        assert_eq!(grown.last_ram(), last);
        assert!(small.phys_to_virt(last).is_err());
        let start = grown
            .area(AreaKind::DirectMap)
            .expect("it has one")
            .range()
            .start();
        assert_eq!(
            grown.phys_to_virt(last),
            Ok(start.checked_add(64 * GIB - 1).expect("fits"))
        );
        let direct = X86_64::new(mode, last).build().expect("sound");
        assert_eq!(
            grown,
            direct.with_state(AreaKind::Vmemmap, AreaState::Built)
        );
    }
}

#[test]
fn ram_beyond_the_direct_map_is_refused() {
    let small = X86_64::new(PagingMode::FourLevel, PhysAddr::new(GIB - 1)).build();
    let small = small.expect("sound");
    let beyond = PhysAddr::new(64 << 40);
    let error = small.with_last_ram(beyond).expect_err("64 TiB are all");
    assert!(
        matches!(error, LayoutError::DirectMapTooSmall { last_ram, .. } if last_ram == beyond),
        "{error}"
    );
}
