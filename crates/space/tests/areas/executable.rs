//! Code made at run time: written at one place, run at another, never both.

use kspace::areas::{Code, CodeError};
use kspace::permissions::{Change, Permissions, Problem};
use kspace::vmalloc::{Arenas, Vmalloc};
use kspace_layout::{AreaKind, Layout, PageSize, PagingMode, Pfn, PhysAddr, VirtRange, X86_64};
use kspace_paging::{Access, LongMode, Protection};

use crate::rig::{Areas, K4, M2, Rig, Setup, SimKernel, with_rig};

type Rights<'v, 'r> = Permissions<'v, 'r, SimKernel<'r, LongMode>, 1>;

/// The machine with its RAM in the direct map, in large pages, and a second set of areas for code.
fn with_code_areas(
    test: impl for<'a, 'r> FnOnce(&Rig<'a, 'r>, &Areas<'r>, &Layout, &Rights<'_, 'r>),
) {
    let ram = Setup::new().ram;
    with_rig(Setup::new(), |rig| {
        let start = PhysAddr::new(16 << 20);
        let last = start.checked_add(ram - 1).expect("an address");
        let layout = X86_64::new(PagingMode::FourLevel, last).build();
        let layout = layout.expect("a layout");
        let place = layout.phys_to_virt(start).expect("in the direct map");
        let tables = rig.areas.tables();
        tables
            .map(
                VirtRange::new(place, ram),
                start,
                Protection::KERNEL_DATA,
                PageSize::Size2M,
            )
            .expect("there is room");
        let modules = layout
            .area(AreaKind::Modules)
            .expect("x86-64 has it")
            .range();
        // As long as the rig's own, which the compiler knows to live for some time only.
        let arenas = Box::leak(Box::new(Arenas::new()));
        // SAFETY: the area is used by nobody else.
        let code =
            unsafe { Vmalloc::new(modules, *tables, rig.areas.shootdown(), arenas, 1 << 40) };
        let shootdown = rig.areas.shootdown();
        // SAFETY: nobody else edits the direct map.
        let rights = unsafe { Permissions::new(*tables, shootdown, &layout, rig.types, &[]) };
        test(rig, &code.expect("there are frames"), &layout, &rights);
    });
}

/// What may be done at the three places of each of the code's pages.
fn rights(rig: &Rig<'_, '_>, layout: &Layout, range: VirtRange) -> (Access, Access) {
    let access = |address| {
        let attributes = rig.page(address).expect("mapped").attributes;
        match (attributes.write, attributes.execute) {
            (false, false) => Access::ReadOnly,
            (true, false) => Access::ReadWrite,
            (false, true) => Access::ReadExecute,
            (true, true) => panic!("{address} is writable and executable"),
        }
    };
    let mut places: Vec<_> = rig
        .frames_of(range)
        .into_iter()
        .zip(crate::rig::pages(range))
        .map(|(frame, page)| {
            let direct = layout.phys_to_virt(Pfn::new(frame).start());
            (access(page), access(direct.expect("RAM")))
        })
        .collect();
    places.dedup();
    assert_eq!(places.len(), 1, "all pages of {range} are alike");
    places[0]
}

#[test]
fn code_is_never_writable_where_it_runs() {
    with_code_areas(|rig, areas, layout, permissions| {
        let code = Code::new(areas, rig.areas, Some(permissions), 3 * K4).expect("room");
        let range = code.range();
        let written = code.writable().expect("it is not sealed");
        assert_eq!(rig.frames_of(range), rig.frames_of(written));
        assert_eq!(
            rights(rig, layout, range),
            (Access::ReadOnly, Access::ReadWrite)
        );
        assert!(rig.page(written.start()).expect("mapped").attributes.write);
        let neighbour = layout
            .phys_to_virt(Pfn::new(rig.frames_of(range)[2] + 1).start())
            .expect("RAM");

        let mut batch = [code];
        Code::seal(&mut batch).expect("there are frames");
        assert!(batch[0].is_sealed() && batch[0].writable().is_none());
        assert_eq!(
            rights(rig, layout, range),
            (Access::ReadExecute, Access::ReadOnly)
        );
        assert_eq!(rig.page(written.start()), None);
        assert!(rig.page(neighbour).expect("mapped").attributes.write);
        // A second time changes nothing.
        Code::seal(&mut batch).expect("there is nothing to do");

        // Nor does its other place become writable, by anybody.
        let frames = rig.frames_of(range);
        let place = layout.phys_to_virt(Pfn::new(frames[0]).start());
        let place = place.expect("RAM");
        // SAFETY: it is refused.
        let refused = unsafe { permissions.set(place, K4, Change::Writable) };
        let problem = refused.expect_err("it is code").problem;
        assert_eq!(problem, Problem::WriteExecute { page: place });
        drop(batch);
        assert_eq!(permissions.in_books(), (0, 0));
        assert_eq!(rig.page(place).expect("mapped").size, PageSize::Size2M);
        assert_eq!(rig.page(range.start()), None);
        for frame in frames {
            let direct = layout.phys_to_virt(Pfn::new(frame).start()).expect("RAM");
            assert!(rig.page(direct).expect("mapped").attributes.write);
        }
        areas.purge();
        rig.areas.purge();
        assert!(rig.frames.blocks().is_empty());
    });
}

#[test]
fn a_batch_takes_two_flushes() {
    with_code_areas(|rig, areas, layout, permissions| {
        let new = |_| Code::new(areas, rig.areas, Some(permissions), 4 * K4).expect("room");
        let mut batch: Vec<_> = (0..20).map(new).collect();
        let before = rig.cpu.flushes.get();
        Code::seal(&mut batch).expect("there are frames");
        // So many pages are flushed as one.
        assert_eq!(rig.cpu.flushes.get() - before, 2);
        for code in &batch {
            assert_eq!(
                rights(rig, layout, code.range()),
                (Access::ReadExecute, Access::ReadOnly)
            );
        }
    });
}

#[test]
fn code_that_cannot_be_sealed_is_not_executable_and_can_be_later() {
    with_code_areas(|rig, areas, layout, permissions| {
        let mut batch = [Code::new(areas, rig.areas, Some(permissions), K4).expect("room")];
        let range = batch[0].range();
        // The direct map's large page would have to be split.
        rig.frames.budget.set(Some(0));
        let error = Code::seal(&mut batch).expect_err("there is no frame for a table");
        rig.frames.budget.set(None);
        let CodeError::Rights(error) = error else {
            panic!("{error}");
        };
        assert!(matches!(error.problem, Problem::NoFrames { .. }), "{error}");
        assert_eq!(
            rights(rig, layout, range),
            (Access::ReadOnly, Access::ReadWrite)
        );
        assert!(batch[0].writable().is_some());
        Code::seal(&mut batch).expect("there are frames now");
        assert_eq!(
            rights(rig, layout, range),
            (Access::ReadExecute, Access::ReadOnly)
        );
    });
}

#[test]
fn a_draft_that_is_dropped_leaves_nothing() {
    with_code_areas(|rig, areas, _, permissions| {
        let code = Code::new(areas, rig.areas, Some(permissions), M2).expect("room");
        let (range, written) = (code.range(), code.writable().expect("not sealed"));
        // It is large enough for large pages, in both places.
        assert_eq!(rig.sizes(range)[&PageSize::Size2M], 1);
        drop(code);
        assert_eq!(
            (rig.page(range.start()), rig.page(written.start())),
            (None, None)
        );
        areas.purge();
        assert!(rig.frames.blocks().is_empty());
    });
}
