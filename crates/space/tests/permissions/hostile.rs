//! What tries to have a frame writable and executable at once, or with two memory types, by ways around the place that is asked for; and
//! to hand changed frames to somebody else.

use kspace::permissions::{Change, Problem};
use kspace::vmalloc::{AreaRequest, FreeProblem, Kind, ResizeError};
use kspace_layout::{Pfn, VirtRange};
use kspace_paging::{Access, CacheType, Controls, Intent, Operation, Protection};

use crate::kernel::{Machine, with_kernel};
use crate::simulated::{K4, M2, Setup};

/// An area of these frames.
fn mapped(machine: &Machine<'_, '_, '_>, frames: &[Pfn], protection: Protection) -> VirtRange {
    let request = AreaRequest::new(frames.len() as u64 * K4).kind(Kind::Frames);
    let request = request.protection(protection);
    let frame = |page: u64| frames[page as usize];
    // SAFETY: what is in these frames is simulated.
    let mapped = unsafe { machine.rig.areas.map(&request, frame) };
    mapped.expect("room")
}

fn page(range: VirtRange, index: u64) -> VirtRange {
    let start = range.start().checked_add(index * K4).expect("inside");
    VirtRange::new(start, K4)
}

#[test]
fn one_frame_twice_in_an_area() {
    with_kernel(Setup::new(), |machine| {
        let frame = machine.page(machine.area.start()).frame;
        let twice = mapped(machine, &[frame, frame], Protection::KERNEL_DATA);
        let [first, second] = [0, 1].map(|index| page(twice, index));
        machine.set(machine.area, Change::ReadOnly).expect("frames");
        machine.set(first, Change::ReadOnly).expect("frames");
        let error = machine.set(first, Change::Executable);
        let error = error.expect_err("the second page is writable");
        let writable = second.start();
        assert_eq!(error.problem, Problem::WriteExecute { page: writable });
        machine.set(second, Change::ReadOnly).expect("frames");
        machine
            .set(first, Change::Executable)
            .expect("all is read-only");
        let error = machine.set(second, Change::Writable);
        assert!(matches!(
            error.expect_err("the first page is code").problem,
            Problem::WriteExecute { .. }
        ));

        let frame = machine.page(page(machine.area, 1).start()).frame;
        let twice = mapped(machine, &[frame, frame], Protection::KERNEL_DATA);
        for index in [0, 1] {
            machine
                .set(page(twice, index), Change::Uncached)
                .expect_err("the other page and the area have another type");
        }
        for start in [0, 1].map(|index| page(twice, index).start()) {
            assert_eq!(machine.page(start).cache, CacheType::WriteBack);
        }
    });
}

#[test]
fn nothing_is_restored_to_be_writable_beside_code() {
    with_kernel(Setup::new(), |machine| {
        let frame = machine.page(page(machine.area, 3).start()).frame;
        machine.set(machine.area, Change::ReadOnly).expect("frames");
        let code = mapped(machine, &[frame], Protection::KERNEL_RODATA);
        machine
            .set(code, Change::Executable)
            .expect("all is read-only");
        let error = machine.restore(machine.area);
        let error = error.expect_err("one page of it is code elsewhere");
        assert!(matches!(error.problem, Problem::WriteExecute { .. }));
        let own = machine.page(page(machine.area, 3).start());
        assert_eq!(own.access, Access::ReadOnly);
        // Nor can its owner give its frame to others meanwhile.
        // SAFETY: nobody uses it.
        let error = unsafe { machine.rig.areas.free(machine.area.start()) };
        let problem = error.expect_err("it is changed").problem();
        assert_eq!(problem, FreeProblem::Changed(machine.area));

        machine.restore(code).expect("frames");
        machine.restore(machine.area).expect("frames");
        assert_eq!(machine.permissions.in_books(), (0, 0));
        for start in [code, machine.area].map(VirtRange::start) {
            // SAFETY: nobody uses it.
            unsafe { machine.rig.areas.free(start) }.expect("nothing is changed");
        }
    });
}

#[test]
fn areas_for_users_stay_data() {
    with_kernel(Setup::new(), |machine| {
        let request = AreaRequest::new(2 * K4).user_mappable();
        let area = machine.rig.areas.allocate(&request).expect("room");
        machine.set(area, Change::ReadOnly).expect("frames");
        for change in [Change::Executable, Change::Uncached, Change::WriteCombining] {
            let error = machine.set(area, change);
            let problem = error.expect_err("user mode may have it").problem;
            assert_eq!(problem, Problem::ForUsers(area));
        }
        // Nor is it code by another area: what user mode may do to it, its own entries do not tell.
        let frame = machine.page(area.start()).frame;
        let code = mapped(machine, &[frame], Protection::KERNEL_RODATA);
        let error = machine.set(code, Change::Executable);
        let problem = error.expect_err("user mode may write to it").problem;
        let page = area.start();
        assert_eq!(problem, Problem::WriteExecute { page });
        machine.restore(area).expect("frames");
    });
}

#[test]
fn areas_for_code_are_its_owners() {
    with_kernel(Setup::new(), |machine| {
        let request = AreaRequest::new(K4).kind(Kind::Executable);
        let request = request.protection(Protection::KERNEL_RODATA);
        let area = machine.rig.areas.allocate(&request).expect("room");
        let error = machine.set(area, Change::Executable);
        let problem = error.expect_err("it is for code").problem;
        assert_eq!(problem, Problem::Code(area));
        let error = machine.restore(area).expect_err("it is for code");
        assert_eq!(error.problem, Problem::Code(area));
    });
}

/// Asks for all that would hand frames of a changed area to others.
fn stays(machine: &Machine<'_, '_, '_>, area: VirtRange) {
    let areas = machine.rig.areas;
    // SAFETY: nobody uses it, and it is refused.
    let error = unsafe { areas.free(area.start()) }.expect_err("it is changed");
    assert_eq!(error.problem(), FreeProblem::Changed(area));
    assert!(error.to_string().ends_with(&format!(
        ": pages of the area {area} are changed; restore them first; nothing was changed"
    )));
    for bytes in [K4, 4 * M2] {
        let request = AreaRequest::new(bytes);
        // SAFETY: as above.
        let [error, moved] = unsafe {
            [
                areas.resize(area.start(), &request).map(drop),
                areas.reallocate(area.start(), &request).map(drop),
            ]
        };
        assert_eq!(error, Err(ResizeError::Changed(area)));
        assert_eq!(moved, Err(ResizeError::Changed(area)));
    }
}

#[test]
fn nobody_inherits_a_change() {
    with_kernel(Setup::new(), |machine| {
        let areas = machine.rig.areas;
        let large = areas.allocate(&AreaRequest::new(2 * M2)).expect("room");
        for area in [machine.area, large] {
            let one = page(area, 1);
            let changes = [
                &[Change::ReadOnly][..],
                &[Change::NonPresent],
                &[Change::Uncached],
                &[Change::ReadOnly, Change::Executable],
            ];
            for steps in changes {
                for &change in steps {
                    machine.set(one, change).expect("frames");
                    stays(machine, area);
                }
                // What is refused changes nothing about that.
                machine
                    .set(area, Change::Executable)
                    .expect_err("all but a page is writable");
                stays(machine, area);
                machine.restore(one).expect("frames");
            }
            // The way back can also be gone step by step.
            for change in [Change::NonPresent, Change::ReadOnly, Change::Present] {
                machine.set(one, change).expect("frames");
                stays(machine, area);
            }
            machine.set(one, Change::Writable).expect("frames");
            // A place that is left as it was does not hide one that is not.
            let frame = machine.page(one.start()).frame.start().as_u64();
            let direct = machine.direct(frame, 1);
            machine.set(one, Change::ReadOnly).expect("frames");
            machine.set(direct, Change::NonPresent).expect("frames");
            machine.set(one, Change::Writable).expect("frames");
            stays(machine, area);
            machine.restore(area).expect("frames");
            // SAFETY: nobody uses it.
            unsafe { areas.free(area.start()) }.expect("nothing is changed");
        }
        assert_eq!(machine.permissions.in_books(), (0, 0));
    });
}

/// A freed area may still be in a TLB, writable, until the next purge.
#[test]
fn what_was_freed_lately_is_flushed_before_code() {
    for (change, protection) in [
        (Change::Executable, Protection::KERNEL_RODATA),
        (Change::Uncached, Protection::KERNEL_DATA),
    ] {
        with_kernel(Setup::new(), |machine| {
            let rig = machine.rig;
            // RAM that no area has.
            let frame = Pfn::new(0x6_0000);
            let alias = mapped(machine, &[frame], Protection::KERNEL_DATA);
            rig.machine.speculate_at(alias.start());
            let code = mapped(machine, &[frame], protection);
            // SAFETY: nobody uses it.
            unsafe { rig.areas.free(alias.start()) }.expect("live");
            let write = Intent::kernel(Operation::Write);
            let seen = || {
                let seen = rig
                    .machine
                    .access(0, alias.start(), write, Controls::KERNEL);
                seen.unwrap_or_else(|violation| panic!("{violation}"))
            };
            assert!(!seen().pages.is_empty(), "the TLB keeps it");
            machine.set(code, change).expect("nobody else maps it");
            assert!(seen().pages.is_empty(), "{change}: {:?}", seen());
            machine.restore(code).expect("frames");
        });
    }
}

/// The books count in how many areas a frame is code, up to 255.
#[test]
fn a_frame_that_is_code_in_more_places_than_are_counted_stays_read_only() {
    with_kernel(Setup::new(), |machine| {
        let frame = machine.page(machine.area.start()).frame;
        machine.set(machine.area, Change::ReadOnly).expect("frames");
        let code: Vec<VirtRange> = (0..257)
            .map(|_| {
                let code = mapped(machine, &[frame], Protection::KERNEL_RODATA);
                machine.set(code, Change::Executable).expect("frames");
                code
            })
            .collect();
        let (last, others) = code.split_last().expect("some");
        for code in others {
            machine.restore(*code).expect("frames");
        }
        assert_eq!(machine.page(last.start()).access, Access::ReadExecute);
        let direct = machine.direct(frame.start().as_u64(), 1);
        assert_eq!(machine.page(direct.start()).access, Access::ReadOnly);
        machine
            .set(direct, Change::Writable)
            .expect_err("it is code in the last area");
    });
}
