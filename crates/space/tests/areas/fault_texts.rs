//! What a fault in an area, behind it, or where it was says.

use kspace::areas::{KernelStack, OwnedArea};
use kspace::fault::{AreaSpot, PageFault, Spot, explain};
use kspace::vmalloc::AreaRequest;
use kspace_frames::{FirmwareEntry, MemoryMap};
use kspace_layout::{PagingMode, VirtAddr, X86_64};

use crate::rig::{K4, M2, Rig, Setup, guard, with_rig};

const WRITE: u32 = 1 << 1;

/// The whole line about a write to `address`.
fn line_for(rig: &Rig<'_, '_>, address: VirtAddr) -> String {
    let entry = FirmwareEntry {
        start: 0,
        size: 80 << 20,
        kind: 1,
    };
    let map = MemoryMap::from_firmware([entry], 46, |_| ()).expect("a sound map");
    let layout = X86_64::new(PagingMode::FourLevel, map.ram_last()).build();
    let fault = PageFault {
        address,
        error_code: WRITE,
    };
    let explained = explain(&layout.expect("a layout"), &map, fault, None);
    let spot = AreaSpot::of(rig.areas, address);
    let explained = explained.with_area(spot);
    assert_eq!(
        matches!(explained.spot(), Spot::OnDemand(_)),
        spot.is_some()
    );
    explained.to_string()
}

#[test]
fn a_guard_page_names_its_area() {
    with_rig(Setup::new(), |rig| {
        for bytes in [4 * K4, M2 + K4] {
            let request = AreaRequest::new(bytes);
            let (area, line) = (OwnedArea::allocate(rig.areas, &request), line!());
            let range = area.as_ref().expect("room").range();
            let size = if bytes == 4 * K4 { "16 KiB" } else { "2 MiB" };
            let named = format!(
                "the vmalloc area {range} ({size}, made by {}:{line})",
                file!()
            );
            let first = guard(range);
            assert_eq!(
                line_for(rig, first),
                format!(
                    "write to {first}: not mapped, guard page of {named}, the first byte past its end"
                )
            );
            let later = first.checked_add(8).expect("inside");
            assert_eq!(
                line_for(rig, later),
                format!(
                    "write to {later}: not mapped, guard page of {named}, 8 bytes past its end"
                )
            );
            let inside = range.start().checked_add(K4).expect("inside");
            assert!(line_for(rig, inside).ends_with(&format!(", 4 KiB into {named}")));
        }
    });
}

#[test]
fn a_freed_area_names_who_freed_it() {
    with_rig(Setup::new(), |rig| {
        let area = OwnedArea::allocate(rig.areas, &AreaRequest::new(2 * K4)).expect("room");
        let range = area.range();
        let ((), line) = (area.free(), line!());
        let start = range.start();
        let freed = format!(
            "the freed vmalloc area {range} (8 KiB, freed by {}:{line})",
            file!()
        );
        assert_eq!(
            line_for(rig, start),
            format!("write to {start}: not mapped, the start of {freed}")
        );
        rig.areas.purge();
        assert_eq!(
            line_for(rig, start),
            format!(
                "write to {start}: not mapped, the start of vmalloc, a reserved area in which nothing is built"
            )
        );
    });
}

#[test]
fn the_first_stack_has_its_guard_before_all_areas() {
    with_rig(Setup::new(), |rig| {
        let (stack, line) = (KernelStack::new(rig.areas, 4 * K4), line!());
        let stack = stack.expect("room");
        assert_eq!(stack.bottom(), rig.areas.area().start());
        for below in [1, K4] {
            let address = VirtAddr::new(stack.bottom().as_u64() - below);
            let named = format!(
                ", guard page below the stack {} (16 KiB, made by {}:{line}), ",
                stack.range(),
                file!()
            );
            let text = line_for(rig, address);
            assert!(text.contains(&named), "{text}");
        }
        let further = VirtAddr::new(stack.bottom().as_u64() - K4 - 1);
        assert_eq!(AreaSpot::of(rig.areas, further), None);
    });
}

#[test]
fn a_stack_that_is_too_deep_is_named() {
    with_rig(Setup::new(), |rig| {
        // Something below it, so that its guard is the same page.
        let below = OwnedArea::allocate(rig.areas, &AreaRequest::new(3 * K4)).expect("room");
        let (stack, line) = (KernelStack::new(rig.areas, 4 * K4), line!());
        let stack = stack.expect("room");
        let push = VirtAddr::new(stack.bottom().as_u64() - 8);
        let text = line_for(rig, push);
        let named = format!(
            "guard page below the stack {} (16 KiB, made by {}:{line}), 8 bytes below it",
            stack.range(),
            file!()
        );
        assert!(text.contains(&named), "{text}");
        if guard(below.range()) == push.align_down(K4) {
            assert!(
                text.contains("; and guard page of the vmalloc area"),
                "{text}"
            );
        }
        // Its own upper guard is not one below.
        let spot = AreaSpot::of(rig.areas, stack.top()).expect("it is a guard");
        assert!(spot.is_guard() && spot.stack().is_none());
    });
}
