//! The verification of areas that are mapped on demand: what their maker says, held against the tables.

mod machine;

use kspace::verify::{Claims, OnDemand, verify};
use kspace::vmalloc::{AreaInfo, Kind, State};
use kspace_layout::{AreaKind, FRAME_SIZE, PageSize, PagingMode, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Access, Limits, Protection};
use machine::{MIB, Machine, SimEditor};

/// Areas that are said to be there: page numbers in area vmalloc, how many, what for.
#[derive(Debug)]
struct Said {
    base: VirtAddr,
    areas: Vec<(u64, u64, Kind)>,
}

impl OnDemand for Said {
    fn next_live(&self, from: VirtAddr) -> Option<AreaInfo> {
        let infos = self.areas.iter().map(|&(first, pages, kind)| AreaInfo {
            range: pages_at(self.base, first, pages),
            pages,
            kind,
            node: None,
            state: State::Live,
            user: false,
            changed: false,
            caller: None,
        });
        infos
            .filter(|info| info.range.start() >= from)
            .min_by_key(|info| info.range.start())
    }
}

fn pages_at(base: VirtAddr, first: u64, pages: u64) -> VirtRange {
    let start = base.checked_add(first * FRAME_SIZE).expect("an address");
    VirtRange::new(start, pages * FRAME_SIZE)
}

/// RAM in the machine's map.
const RAM: PhysAddr = PhysAddr::new(64 * MIB);

/// What is found when `map` has mapped something and `areas` are said to be there.
fn found(
    areas: &[(u64, u64, Kind)],
    map: impl Fn(&dyn Fn(u64, u64, PhysAddr, Protection)),
) -> Result<u64, String> {
    let machine = Machine::new(PagingMode::FourLevel, Limits::WIDEST);
    let frames = machine.frames();
    let editor: SimEditor<'_> = machine.editor(&frames);
    machine.build(&editor);
    let base = machine.start_of(AreaKind::Vmalloc);
    let before = verify(&machine.walker(editor.root()), &machine.claims()).expect("as built");
    map(&|first, pages, phys, protection| {
        let range = pages_at(base, first, pages);
        editor
            .map(range, phys, protection, PageSize::Size4K)
            .expect("there is room");
    });
    let said = Said {
        base,
        areas: areas.to_vec(),
    };
    let claims = Claims {
        areas: Some(&said),
        ..machine.claims()
    };
    let verified = verify(&machine.walker(editor.root()), &claims);
    let verified = verified.map_err(|difference| difference.to_string())?;
    assert_eq!(verified.areas, before.areas + 1);
    Ok(verified.pages - before.pages)
}

const DATA: Protection = Protection::KERNEL_DATA;

#[test]
fn areas_as_they_are_said_pass() {
    assert_eq!(found(&[], |_| {}), Ok(0));
    let areas = [
        (0, 3, Kind::Memory),
        (4, 1, Kind::Executable),
        (600, 2, Kind::Device),
    ];
    let pages = found(&areas, |map| {
        map(0, 3, RAM, DATA);
        map(4, 1, RAM, Protection::kernel(Access::ReadExecute));
        map(600, 2, PhysAddr::new(0xfee0_0000), DATA);
    });
    assert_eq!(pages, Ok(6));
}

#[test]
fn a_missing_page_is_found_wherever_it_is() {
    for missing in 0..3 {
        let error = found(&[(0, 3, Kind::Memory)], |map| {
            (0..3)
                .filter(|page| *page != missing)
                .for_each(|page| map(page, 1, RAM, DATA));
        });
        let error = error.expect_err("a page is missing");
        let first = format!("verify: vmalloc: expected ffffc9000000{missing}000-");
        assert!(
            error.starts_with(&first) && error.contains("found nothing"),
            "{error}"
        );
    }
}

#[test]
fn a_page_outside_all_areas_is_found() {
    // The guard, between two areas, and behind the last.
    for stray in [3, 5, 1000] {
        let error = found(&[(0, 3, Kind::Memory), (10, 1, Kind::Memory)], |map| {
            map(0, 3, RAM, DATA);
            map(10, 1, RAM, DATA);
            map(stray, 1, RAM, DATA);
        });
        let error = error.expect_err("a page too many");
        assert!(
            error.starts_with("verify: vmalloc: expected nothing mapped, found ffffc900"),
            "{error}"
        );
    }
}

#[test]
fn rights_that_no_area_has_are_found() {
    let code = Protection::kernel(Access::ReadExecute);
    for wrong in [code, Protection::user(Access::ReadOnly)] {
        let error = found(&[(0, 1, Kind::Memory)], |map| map(0, 1, RAM, wrong));
        let error = error.expect_err("wrong rights");
        assert!(error.starts_with("verify: vmalloc: rights: "), "{error}");
    }
}

#[test]
fn frames_of_an_areas_own_are_ram() {
    let device = PhysAddr::new(0xfee0_0000);
    let error = found(&[(0, 1, Kind::Stack)], |map| map(0, 1, device, DATA));
    let error = error.expect_err("no RAM");
    assert!(error.starts_with("verify: vmalloc: not RAM: "), "{error}");
}
