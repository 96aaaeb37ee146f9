//! What is known of changes afterwards: the check of live tables expects them and nothing else, and a fault is explained by them.

use kspace::fault::{PageFault, PageTables, explain};
use kspace::permissions::Change;
use kspace::verify::{Claims, Difference, Verified, verify};
use kspace_layout::{PageSize, SectionKind, VirtRange};
use kspace_paging::{Adjustment, CacheType, Flush, Limits};

use crate::kernel::{GIB, Machine, with_kernel};
use crate::simulated::{K4, M2, Setup};

fn check(machine: &Machine<'_, '_, '_>) -> Result<Verified, Difference> {
    let claims = Claims {
        areas: Some(machine.rig.areas),
        changes: Some(machine.permissions),
        cpus: 1,
        ..Claims::new(machine.layout, machine.map, Limits::WIDEST)
    };
    verify(&machine.walker(), &claims)
}

/// The same without what the books say.
fn check_blindly(machine: &Machine<'_, '_, '_>) -> Result<Verified, Difference> {
    let claims = Claims {
        areas: Some(machine.rig.areas),
        cpus: 1,
        ..Claims::new(machine.layout, machine.map, Limits::WIDEST)
    };
    verify(&machine.walker(), &claims)
}

fn unused(machine: &Machine<'_, '_, '_>, token: Flush) {
    let tables = machine.rig.areas.tables();
    // SAFETY: no CPU has used these pages.
    unsafe { token.discharged(tables.memory(), tables.frames()) };
}

#[test]
fn the_check_expects_what_was_changed() {
    with_kernel(Setup::new(), |machine| {
        check(machine).expect("as it was built");
        let bss = machine.section(SectionKind::Bss);
        let steps = [
            (machine.large(5 * K4, 1), Change::ReadOnly),
            (machine.large(7 * K4, 2), Change::NonPresent),
            (machine.large(8 * M2, M2 / K4), Change::Uncached),
            (machine.large(GIB - K4, 2), Change::ReadOnly),
            (
                machine.large(3 * M2 + K4, 2 * M2 / K4),
                Change::WriteCombining,
            ),
            (machine.area, Change::NonPresent),
            (VirtRange::new(bss.start(), 2 * K4), Change::ReadOnly),
        ];
        for (range, change) in steps {
            machine.set(range, change).expect("frames");
            check(machine).unwrap_or_else(|difference| panic!("{change}: {difference}"));
        }
        let difference = check_blindly(machine).expect_err("it is not as it was built");
        assert!(
            matches!(difference, Difference::Wrong { .. }),
            "{difference}"
        );
        for (range, _) in steps {
            machine.restore(range).expect("frames");
            check(machine).unwrap_or_else(|difference| panic!("{difference}"));
        }
        check_blindly(machine).expect("as it was built");
        assert_eq!(machine.permissions.in_books(), (0, 0));
    });
}

/// One page that differs from the books, next to and inside of changed ones, is found.
#[test]
fn the_check_finds_what_nobody_said() {
    let page = |machine: &Machine<'_, '_, '_>, index| machine.large(index * K4, 1);
    // Which page, and what becomes of it behind everybody's back.
    let wrongs = [
        (5, Adjustment::Writable),
        (4, Adjustment::ReadOnly),
        (6, Adjustment::Cache(CacheType::Uncached)),
        (8, Adjustment::Shown),
        (9, Adjustment::Hidden),
        (M2 / K4, Adjustment::ReadOnly),
    ];
    for (index, wrong) in wrongs {
        with_kernel(Setup::new(), |machine| {
            machine
                .set(page(machine, 5), Change::ReadOnly)
                .expect("frames");
            machine
                .set(page(machine, 8), Change::NonPresent)
                .expect("frames");
            check(machine).expect("as it is said");
            let tables = machine.rig.areas.tables();
            unused(
                machine,
                tables.adjust(page(machine, index), wrong).expect("frames"),
            );
            let difference = check(machine).expect_err("nobody said so");
            let text = difference.to_string();
            let at = page(machine, index).start().to_string();
            assert!(text.contains(&at), "{index} {wrong}: {text}");
        });
    }
    // A page that is smaller than it was built, far from any change.
    with_kernel(Setup::new(), |machine| {
        machine
            .set(page(machine, 5), Change::ReadOnly)
            .expect("frames");
        let tables = machine.rig.areas.tables();
        let far = machine.large(GIB + 64 * M2, 1);
        for adjustment in [Adjustment::ReadOnly, Adjustment::Writable] {
            unused(machine, tables.adjust(far, adjustment).expect("frames"));
        }
        assert_eq!(machine.size(far.start()), PageSize::Size4K);
        let difference = check(machine).expect_err("nobody split it");
        assert!(
            matches!(difference, Difference::Wrong { .. }),
            "{difference}"
        );
    });
}

#[test]
fn a_fault_is_explained_by_the_change() {
    with_kernel(Setup::new(), |machine| {
        let says = |range: VirtRange, error_code| {
            let address = range.start().checked_add(8).expect("inside");
            let walk = machine.walker().walk(address);
            let fault = PageFault {
                address,
                error_code,
            };
            let explanation = explain(machine.layout, machine.map, fault, Some(&walk));
            let explanation = explanation.with_change(machine.permissions.try_changed(address));
            let tables = PageTables {
                walk: &walk,
                intent: None,
            };
            (explanation.to_string(), tables.to_string())
        };
        let permissions = machine.permissions;
        let page = machine.direct(0x7_5000, 1);
        let line = line!() + 2;
        // SAFETY: what is in the page is simulated.
        let made = unsafe { permissions.set(page.start(), K4, Change::NonPresent) };
        made.expect("frames");
        let (text, tables) = says(page, 0);
        assert_eq!(
            text,
            format!(
                "read of ffff888000075008: not mapped, direct map of physical 0000000000075008; page ffff888000075000 was made non-present by {}:{line}",
                file!()
            )
        );
        let hidden =
            "hidden, a 4k page, rw- supervisor global write-back, physical 0000000000075008";
        assert!(tables.ends_with(hidden), "{tables}");
        let line = line!() + 2;
        // SAFETY: what is in the page is simulated.
        let made = unsafe { permissions.set(machine.area.start(), K4, Change::ReadOnly) };
        made.expect("frames");
        let (text, _) = says(machine.area, 0b11);
        assert!(
            text.ends_with(&format!("was made read-only by {}:{line}", file!())),
            "{text}"
        );
        // So is the other place of its frame; and the page beside it is nobody's work.
        let frame = machine.page(machine.area.start()).frame;
        let (text, _) = says(machine.direct(frame.start().as_u64(), 1), 0b11);
        assert!(
            text.ends_with(&format!("was made read-only by {}:{line}", file!())),
            "{text}"
        );
        let (text, _) = says(machine.direct(frame.start().as_u64() + 64 * K4, 1), 0b11);
        assert!(!text.contains("was made"), "{text}");
    });
}
