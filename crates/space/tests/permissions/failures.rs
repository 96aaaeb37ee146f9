//! Frames that run out, at every single request in turn.

use kspace::permissions::{Change, Problem};
use kspace_layout::VirtRange;

use crate::kernel::{GIB, Machine, with_kernel};
use crate::simulated::{K4, Setup};

/// Lets the first request for a frame fail, then the second, and so on until none does. `prepare` comes before each try, and what it did
/// must stand when the change has failed.
fn fail_in_turn(machine: &Machine<'_, '_, '_>, range: VirtRange, change: Change) -> usize {
    let frames = machine.rig.frames.frames;
    let snapshot = || -> Vec<_> {
        let pages =
            (0..16).flat_map(|page| [machine.large(page * K4, 1), machine.large(GIB - K4, 1)]);
        let mut all: Vec<_> = pages
            .chain([machine.area])
            .map(|range| machine.page(range.start()))
            .collect();
        all.extend(crate::simulated::pages(machine.area).map(|page| machine.page(page)));
        all
    };
    let before = (
        snapshot(),
        machine.permissions.in_books(),
        machine.permissions.types().iter().count(),
    );
    let mut in_use = frames.in_use();
    let mut failures = 0;
    loop {
        frames.set_budget(Some(failures));
        let done = machine.set(range, change);
        frames.set_budget(None);
        let Err(error) = done else { return failures };
        assert!(
            matches!(
                error.problem,
                Problem::NoFrames { .. } | Problem::NoBooks | Problem::Type(_)
            ),
            "{error}"
        );
        assert_eq!(
            (
                snapshot(),
                machine.permissions.in_books(),
                machine.permissions.types().iter().count()
            ),
            before,
            "{change}: failure {failures}"
        );
        // A book may keep its one frame for the next time.
        assert!(
            frames.in_use() <= in_use + 1,
            "{change}: failure {failures} leaves frames behind"
        );
        in_use = frames.in_use();
        failures += 1;
        assert!(failures < 100, "{error}");
    }
}

#[test]
fn a_failure_anywhere_changes_nothing() {
    for change in [Change::ReadOnly, Change::NonPresent, Change::Uncached] {
        with_kernel(Setup::new(), |machine| {
            // Two tables, two books; a third for memory types.
            let direct = fail_in_turn(machine, machine.large(3 * K4, 2), change);
            assert!(direct >= 4, "{direct}");
            // A part of the first gigabyte and a part of the second.
            let both = fail_in_turn(machine, machine.large(GIB - K4, 2), change);
            assert!(both >= 2, "{both}");
            // In its area the pages are small; their other places are not.
            let area = fail_in_turn(machine, machine.area, change);
            assert!(area >= 1, "{area}");
        });
    }
}

#[test]
fn a_failure_to_restore_changes_nothing() {
    with_kernel(Setup::new(), |machine| {
        let frames = machine.rig.frames.frames;
        // All of a large page, which stays large; a part of it is to come back.
        let whole = machine.large(0, GIB / K4);
        machine.set(whole, Change::ReadOnly).expect("no table");
        let part = machine.large(5 * K4, 1);
        frames.set_budget(Some(1));
        let error = machine.restore(part).expect_err("two tables are needed");
        frames.set_budget(None);
        assert_eq!(
            error.to_string(),
            format!(
                "restore: {part}: large pages must be split, which takes 2 tables, and there were frames for 1; free some memory; nothing was changed"
            )
        );
        machine.restore(part).expect("frames");
        assert_eq!(
            machine.page(part.start()).access,
            kspace_paging::Access::ReadWrite
        );
        let beside = machine.large(6 * K4, 1);
        assert_eq!(
            machine.page(beside.start()).access,
            kspace_paging::Access::ReadOnly
        );
        machine.restore(whole).expect("frames");
        assert_eq!(machine.permissions.in_books(), (0, 0));
    });
}
