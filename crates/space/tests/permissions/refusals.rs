//! What is refused, and with which words.

use kspace::permissions::{Change, Problem};
use kspace::platform::Cpu;
use kspace_layout::{AreaKind, SectionKind, VirtAddr, VirtRange};
use kspace_paging::CacheType;

use crate::kernel::{Machine, with_kernel};
use crate::simulated::{K4, Setup};

/// Asks for a change of `bytes` bytes, and what comes of it.
fn refused(
    machine: &Machine<'_, '_, '_>,
    start: VirtAddr,
    bytes: u64,
    change: Change,
) -> (Problem, String) {
    // SAFETY: what is in these pages is simulated.
    let error = unsafe { machine.permissions.set(start, bytes, change) };
    let error = error.expect_err("it must be refused");
    assert_eq!(machine.permissions.in_books(), (0, 0));
    (error.problem, error.to_string())
}

#[test]
fn ranges_that_are_none() {
    with_kernel(Setup::new(), |machine| {
        let direct = machine.direct(0, 1).start();
        let ro = Change::ReadOnly;
        assert_eq!(
            refused(machine, direct, 0, ro),
            (
                Problem::Empty,
                format!(
                    "make read-only: 0 bytes from {direct} on: ask for at least one page; nothing was changed"
                )
            )
        );
        assert_eq!(refused(machine, direct, K4 + 1, ro).0, Problem::Unaligned);
        let inside = direct.checked_add(8).expect("inside");
        assert_eq!(
            refused(machine, inside, K4, ro).1,
            format!(
                "make read-only: {inside}-ffff888000001007: start and size must be multiples of 4 KiB; nothing was changed"
            )
        );
        let last = VirtAddr::new(0xffff_ffff_ffff_f000);
        assert_eq!(refused(machine, last, 2 * K4, ro).0, Problem::Wraps);
        let half = VirtAddr::new(0xff_ffff_ffff_f000);
        assert_eq!(refused(machine, half, 2 * K4, ro).0, Problem::Wraps);
    });
}

#[test]
fn places_that_are_not_to_be_changed() {
    with_kernel(Setup::new(), |machine| {
        let np = Change::NonPresent;
        for start in [
            VirtAddr::new(0x40_0000),
            machine.start_of(AreaKind::Vmemmap),
            machine.start_of(AreaKind::CpuEntry),
            machine.start_of(AreaKind::Fixmap),
            VirtAddr::new(0xffff_8000_0000_0000),
        ] {
            let (problem, text) = refused(machine, start, K4, np);
            assert!(matches!(problem, Problem::Elsewhere(_)), "{text}");
        }
        assert_eq!(
            refused(machine, machine.start_of(AreaKind::Vmemmap), K4, np).1,
            "make non-present: ffffea0000000000-ffffea0000000fff: the start of vmemmap is not to be changed; only the direct map, the kernel \
             image and areas mapped on demand are; nothing was changed"
        );
        // Behind all RAM; the area's guard; an area and its guard; nothing at all; what was freed.
        let end = machine
            .direct(0, 1)
            .start()
            .checked_add(3 << 30)
            .expect("an address");
        assert_eq!(refused(machine, end, K4, np).0, Problem::NotMapped(end));
        let guard = machine.area.last().checked_add(1).expect("an address");
        let (problem, text) = refused(machine, guard, K4, np);
        assert!(matches!(problem, Problem::NotInUse { .. }), "{text}");
        assert_eq!(
            text,
            format!(
                "make non-present: {}: page {guard} is the guard page of the vmalloc area {} (32 KiB); keep to what is in use; nothing was changed",
                VirtRange::new(guard, K4),
                machine.area
            )
        );
        let area = machine.area;
        assert_eq!(
            refused(machine, area.start(), area.size() + K4, np).0,
            Problem::Beyond(area)
        );
        let far = area.start().checked_add(1 << 30).expect("an address");
        assert_eq!(
            refused(machine, far, K4, np).0,
            Problem::NotInUse {
                page: far,
                area: None
            }
        );
        // SAFETY: nobody uses it.
        unsafe { machine.rig.areas.free(area.start()) }.expect("it is there");
        let (problem, _) = refused(machine, area.start(), K4, np);
        assert!(
            matches!(problem, Problem::NotInUse { page, area: Some(_) } if page == area.start())
        );
    });
}

#[test]
fn rights_that_must_not_meet() {
    with_kernel(Setup::new(), |machine| {
        let page = machine.area.start();
        assert_eq!(
            refused(machine, page, K4, Change::Executable),
            (
                Problem::WriteExecute { page },
                format!(
                    "make executable: {}: page {page} is writable, and writable and executable together is refused; make it read-only first; nothing was changed",
                    VirtRange::new(page, K4)
                )
            )
        );
        let direct = machine.direct(0x5000, 1).start();
        let (problem, text) = refused(machine, direct, K4, Change::Executable);
        assert_eq!(problem, Problem::DirectMap, "{text}");
        let whole = VirtRange::new(page, K4);
        machine.set(whole, Change::ReadOnly).expect("frames");
        machine.set(whole, Change::Executable).expect("frames");
        let error = machine
            .set(whole, Change::Writable)
            .expect_err("it is code");
        assert_eq!(
            error.to_string(),
            format!(
                "make writable: {whole}: page {page} is executable, and writable and executable together is refused; make it not executable first; nothing was changed"
            )
        );
        machine.restore(whole).expect("frames");
        // The kernel's own, at either place.
        for kind in [SectionKind::Text, SectionKind::Rodata] {
            let own = machine.section(kind).start();
            let phys = machine.page(own).frame.start().as_u64();
            for start in [own, machine.direct(phys, 1).start()] {
                for change in [Change::Writable, Change::NonPresent, Change::Uncached] {
                    let (problem, _) = refused(machine, start, K4, change);
                    assert_eq!(
                        problem,
                        Problem::Image {
                            section: kind,
                            page: start
                        }
                    );
                }
            }
        }
    });
}

#[test]
fn memory_types_that_must_not_differ() {
    with_kernel(Setup::new(), |machine| {
        let uc = Change::Uncached;
        let device = machine.device;
        assert_eq!(
            refused(machine, device.start(), device.size(), uc).0,
            Problem::Device(device)
        );
        let two = machine.direct(0x8000, 2);
        machine.set(machine.direct(0x9000, 1), uc).expect("frames");
        let error = machine
            .set(two, Change::WriteCombining)
            .expect_err("half of it is uncached");
        assert_eq!(
            error.to_string(),
            format!(
                "make write-combining: {two}: 0000000000008000-0000000000009fff is wanted write-combining, and 0000000000009000-0000000000009fff \
                     uncached-minus is mapped already; unmap that, make it write-back, or ask for its type; nothing was changed"
            )
        );
        machine.set(two, Change::WriteBack).expect("frames");
        machine.set(two, Change::NonPresent).expect("frames");
        let error = machine.set(two, uc).expect_err("it is not there");
        assert_eq!(error.problem, Problem::NotPresent(two.start()));
        machine.set(two, Change::Present).expect("frames");
        // What an area has, the direct map alone cannot change.
        machine.set(machine.area, uc).expect("frames");
        let frame = machine.page(machine.area.start()).frame;
        let direct = machine.direct(frame.start().as_u64(), 1);
        assert_eq!(machine.page(direct.start()).cache, CacheType::UncachedMinus);
        for error in [
            machine.set(direct, Change::WriteBack),
            machine.restore(direct),
        ] {
            let error = error.expect_err("the area would differ");
            assert_eq!(error.problem, Problem::ByArea(direct.start()));
        }
        machine
            .set(machine.area, Change::WriteBack)
            .expect("frames");
        let error = machine.set(direct, uc).expect_err("the area would differ");
        assert_eq!(error.problem, Problem::ByArea(machine.area.start()));
        assert_eq!(machine.page(direct.start()).cache, CacheType::WriteBack);
        assert_eq!(machine.permissions.in_books(), (0, 0));
    });
}

#[test]
fn nobody_waits_with_a_lock_held() {
    with_kernel(Setup::new(), |machine| {
        machine.rig.schedule.acquire_lock();
        assert!(machine.rig.areas.shootdown().platform().is_atomic());
        let (problem, _) = refused(machine, machine.area.start(), K4, Change::ReadOnly);
        assert_eq!(problem, Problem::Atomic);
        machine.rig.schedule.release_lock();
    });
}
