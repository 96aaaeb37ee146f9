//! What is refused, in which words, and that nothing is changed by it.

use kspace::areas::{KernelStack, OwnedArea, RemapError, remap};
use kspace::shootdown::{Scope, Shootdown};
use kspace::user::UserSpace;
use kspace::vmalloc::{AreaError, AreaRequest, Kind};
use kspace_layout::{VirtAddr, VirtRange};
use kspace_paging::{Access, Flush, Protection};

use crate::rig::{K4, M2, Rig, Setup, with_rig};
use crate::spaces::{AT, Space, with_space};

/// Asks for pages of the area at `start`, and returns why not.
fn refused<'r>(
    rig: &Rig<'_, 'r>,
    space: &Space<'_, 'r>,
    start: VirtAddr,
    at: VirtAddr,
    pages: std::ops::Range<u64>,
    access: Access,
) -> RemapError {
    let before = rig.everything();
    // SAFETY: the areas are the test's.
    let mapped = unsafe { remap(rig.areas, start, space, at, pages, access) };
    let error = mapped.map(drop).expect_err("it is to be refused");
    assert_eq!(rig.everything(), before, "{error}");
    error
}

fn flush(rig: &Rig<'_, '_>, token: Flush) {
    let tables = rig.areas.tables();
    token.flush(rig.areas.shootdown(), tables.memory(), tables.frames());
}

#[test]
fn pages_and_places_that_are_none_are_refused() {
    with_rig(Setup::new(), |rig| {
        with_space(rig, |space| {
            let request = AreaRequest::new(4 * K4).user_mappable();
            let area = rig.areas.allocate(&request).expect("room");
            let start = area.start();
            let says = |at: u64, pages: std::ops::Range<u64>, text: &str| {
                let at = VirtAddr::new(at);
                let error = refused(rig, space, start, at, pages, Access::ReadOnly);
                assert_eq!(error.to_string(), text);
            };
            let at = AT.as_u64();
            says(
                at,
                2..2,
                "remap: no pages were asked for; ask for at least one",
            );
            #[expect(clippy::reversed_empty_ranges, reason = "it is bad input")]
            says(
                at,
                3..1,
                "remap: no pages were asked for; ask for at least one",
            );
            let behind = "and a guard behind them; ask for pages that it has";
            says(
                at,
                3..5,
                &format!("remap: pages 3 to 4 of the area {area}: it has 4, {behind}"),
            );
            let far = 1 << 60;
            says(
                at,
                far..u64::MAX,
                &format!(
                    "remap: pages {far} to {} of the area {area}: it has 4, {behind}",
                    u64::MAX - 1
                ),
            );
            says(
                at + 8,
                0..4,
                "remap: user address 0000000000400008 must be a multiple of 4 KiB",
            );
            let user =
                "0000000000001000-00007fffffffefff, which is the user's; choose addresses there";
            for (at, shown) in [
                (0, "0000000000000000"),
                (0x7fff_ffff_c000, "00007fffffffc000"),
                (0x7fff_ffff_f000, "00007ffffffff000"),
                (0xffff_c900_0000_0000, "ffffc90000000000"),
                (0xffff_ffff_ffff_e000, "ffffffffffffe000"),
            ] {
                says(
                    at,
                    0..4,
                    &format!("remap: 4 pages at {shown}: not all in {user}"),
                );
            }
            // SAFETY: nobody uses it.
            unsafe { rig.areas.free(start) }.expect("it is there");
        })
        .expect("room");
    });
}

#[test]
fn what_is_not_for_users_is_refused() {
    with_rig(Setup::new(), |rig| {
        with_space(rig, |space| {
            let says = |start: VirtAddr, text: &str| {
                let error = refused(rig, space, start, AT, 0..1, Access::ReadOnly);
                assert_eq!(
                    error.to_string(),
                    format!("remap: {start} is no area for user spaces; {text}")
                );
            };
            let user = rig
                .areas
                .allocate(&AreaRequest::new(2 * K4).user_mappable())
                .expect("room");
            let inside = VirtAddr::new(user.start().as_u64() + K4);
            says(inside, &format!("it lies inside {user}; give its start"));
            let guard = VirtAddr::new(user.last().as_u64() + 1);
            says(guard, &format!("it lies inside {user}; give its start"));
            let ask = "ask for it with user_mappable()";
            for request in [AreaRequest::new(K4), AreaRequest::new(M2)] {
                let plain = rig.areas.allocate(&request).expect("room");
                says(plain.start(), &format!("{plain} is for vmalloc; {ask}"));
            }
            let stack = KernelStack::new(rig.areas, K4).expect("room");
            says(
                stack.bottom(),
                &format!("{} is for stack; {ask}", stack.range()),
            );
            let request = AreaRequest::new(K4)
                .kind(Kind::Executable)
                .protection(Protection::KERNEL_RODATA);
            let code = rig.areas.allocate(&request).expect("room");
            says(code.start(), &format!("{code} is for executable; {ask}"));
            says(AT, "no area begins there");
            let free = VirtAddr::new(rig.areas.area().last().as_u64() - K4 + 1);
            says(free, "no area begins there");
            // SAFETY: nobody uses it.
            unsafe { rig.areas.free(user.start()) }.expect("it is there");
            says(user.start(), &format!("{user} was freed"));
        })
        .expect("room");
    });
}

#[test]
fn executable_is_refused_on_either_side() {
    with_rig(Setup::new(), |rig| {
        with_space(rig, |space| {
            let request = AreaRequest::new(3 * K4).user_mappable();
            let area = rig.areas.allocate(&request).expect("room");
            let (start, last) = (area.start(), VirtAddr::new(area.start().as_u64() + 2 * K4));
            let error = refused(rig, space, start, AT, 0..3, Access::ReadExecute);
            let text = "remap: executable is refused, the area is writable elsewhere; ask for data";
            assert_eq!(error.to_string(), text);
            let tables = rig.areas.tables();
            for protection in [Protection::KERNEL_RODATA, Protection::KERNEL_TEXT] {
                flush(
                    rig,
                    tables
                        .protect(VirtRange::new(last, K4), protection)
                        .expect("mapped"),
                );
            }
            let error = refused(rig, space, start, AT, 0..3, Access::ReadWrite);
            let text = format!("remap: the kernel can execute {last}; take that right away first");
            assert_eq!(error.to_string(), text);
            // The other two pages are data.
            // SAFETY: the area is the test's.
            drop(
                unsafe { remap(rig.areas, start, space, AT, 0..2, Access::ReadWrite) }
                    .expect("data"),
            );
            flush(rig, tables.unmap(VirtRange::new(last, K4)).expect("mapped"));
            let error = refused(rig, space, start, AT, 1..3, Access::ReadOnly);
            let text = "of the area is not mapped any more; keep the area as it is meanwhile";
            assert_eq!(error.to_string(), format!("remap: {last} {text}"));
        })
        .expect("room");
    });
}

#[test]
fn user_pages_that_are_taken_are_refused() {
    with_rig(Setup::new(), |rig| {
        with_space(rig, |space| {
            let request = AreaRequest::new(4 * K4).user_mappable();
            let area = OwnedArea::allocate(rig.areas, &request).expect("room");
            let at = VirtAddr::new(AT.as_u64() + 2 * K4);
            let first = area.remap(space, at, 0..1, Access::ReadOnly).expect("room");
            let error = refused(rig, space, area.start(), AT, 0..4, Access::ReadOnly);
            assert_eq!(
                error.to_string(),
                "remap: 0000000000400000-0000000000403fff: 0000000000402000-0000000000402fff is mapped already; unmap it first"
            );
            drop(first);
            drop(area.remap(space, AT, 0..4, Access::ReadOnly).expect("room"));
        })
        .expect("room");
    });
}

#[test]
fn atomic_context_is_refused() {
    with_rig(Setup::new(), |rig| {
        with_space(rig, |space| {
            let request = AreaRequest::new(K4).user_mappable();
            let area = rig.areas.allocate(&request).expect("room");
            rig.cpu.atomic.set(true);
            // SAFETY: the area is the test's.
            let mapped =
                unsafe { remap(rig.areas, area.start(), space, AT, 0..1, Access::ReadOnly) };
            rig.cpu.atomic.set(false);
            let error = mapped.map(drop).expect_err("nobody may wait");
            assert_eq!(
                error.to_string(),
                "remap: in atomic context (a lock held, or in an interrupt handler); do it before"
            );
        })
        .expect("room");
    });
}

#[test]
fn only_data_can_be_asked_for_as_one_for_users() {
    with_rig(Setup::new(), |rig| {
        let text = Protection::KERNEL_TEXT;
        for request in [
            AreaRequest::new(K4).kind(Kind::Stack).user_mappable(),
            AreaRequest::new(K4).kind(Kind::Executable).user_mappable(),
            AreaRequest::new(M2).protection(text).user_mappable(),
        ] {
            assert!(rig.areas.allocate(&request).is_err(), "{request:?}");
        }
        let stack = AreaRequest::new(K4).kind(Kind::Stack).user_mappable();
        let error = rig.areas.allocate(&stack).expect_err("a stack");
        assert_eq!(error, AreaError::UserMappable(Kind::Stack));
        assert_eq!(
            error.to_string(),
            "vmalloc: an area for stack was asked for as one for user spaces; only memory that is not executable can be"
        );
        // SAFETY: it is refused.
        let given = unsafe {
            let request = AreaRequest::new(K4).kind(Kind::Frames).user_mappable();
            rig.areas.map(&request, |_| kspace_layout::Pfn::new(1))
        };
        assert_eq!(given, Err(AreaError::UserMappable(Kind::Frames)));
    });
}

#[test]
fn spaces_over_what_is_the_kernels_are_refused() {
    with_rig(Setup::new(), |rig| {
        let shootdown = Shootdown::new(rig.cpu).with_scope(Scope::Own);
        let before = rig.everything();
        let says = |start: u64, last: u64, text: &str| {
            let (start, last) = (VirtAddr::new(start), VirtAddr::new(last));
            let user = VirtRange::try_from_bounds(start, last).expect("a range");
            // SAFETY: it is refused.
            let space = unsafe { UserSpace::new(rig.areas, user, &shootdown) };
            let error = space.map(drop).expect_err("it is to be refused");
            assert_eq!(error.to_string(), text);
            assert_eq!(rig.everything(), before);
        };
        says(
            0x1000,
            0x7ffe,
            "user space: 0000000000001000-0000000000007ffe is not made of whole pages of 4 KiB",
        );
        let kernels =
            "is not all in the lower half of 4-level paging; the upper one is the kernel's";
        says(
            0xffff_8000_0000_0000,
            0xffff_8000_0000_0fff,
            &format!("user space: ffff800000000000-ffff800000000fff {kernels}"),
        );
        // A kernel that has something in the lower half, as early boot code does.
        let identity = VirtRange::new(VirtAddr::new(1 << 39), K4);
        let populated = rig.areas.tables().populate(identity).expect("room");
        flush(rig, populated);
        let before = rig.everything();
        let user = VirtRange::new(VirtAddr::new(K4), 1 << 40);
        // SAFETY: it is refused.
        let space = unsafe { UserSpace::new(rig.areas, user, &shootdown) };
        assert_eq!(
            space
                .map(drop)
                .expect_err("it is to be refused")
                .to_string(),
            "user space: the kernel's tables have an entry for 0000008000000000, in 0000000000001000-0000010000000fff; keep to what the \
             kernel leaves free"
        );
        assert_eq!(rig.everything(), before);
    });
}
