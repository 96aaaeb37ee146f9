//! The printed block against the tables: each row by itself, from the range that it prints.
//!
//! This is a second reading. The areas have been checked one by one before; here only what a person reads counts.

use kspace_layout::{AreaKind, FRAME_SIZE, PhysRange, Row, RowKind, VirtAddr, VirtRange};
use kspace_paging::{EntryRead, Run, Walker};

use super::compare::can_forbid_execution;
use super::{Claims, Difference};

/// Holds every row of the printed block against the tables that `walker` reads: what is only reserved is empty, lowmem
/// begins with a page, ends with one if RAM is there, and has none behind it, and text, data and init are mapped as
/// such. Part of [`verify`](super::verify); returns the number of rows.
///
/// # Errors
///
/// [`Difference::Row`], or [`Difference::Obstacle`].
pub fn verify_block<M: EntryRead + ?Sized>(
    walker: &Walker<'_, M>,
    claims: &Claims<'_>,
) -> Result<u64, Difference> {
    let mut rows = 0;
    for row in claims.layout.block().rows() {
        check_row(walker, claims, row)?;
        rows += 1;
    }
    Ok(rows)
}

fn check_row<M: EntryRead + ?Sized>(
    walker: &Walker<'_, M>,
    claims: &Claims<'_>,
    row: Row,
) -> Result<(), Difference> {
    let pages = pages_of(row.range());
    match row.kind() {
        RowKind::Lowmem => lowmem_row(walker, claims, row, pages),
        RowKind::Text => all_have(walker, row, pages, "kernel text", |run| {
            run.attributes.execute && !run.attributes.write
        }),
        // These rows span several sections, with unmapped pages between them where the linker aligned.
        RowKind::Init => {
            page_has(walker, row, pages.start(), "a page", |_| true)?;
            page_has(walker, row, pages.last(), "a page", |_| true)
        }
        RowKind::Data => {
            let is_data = |run: &Run| !run.attributes.execute || !can_forbid_execution(claims);
            page_has(walker, row, pages.start(), "data", is_data)?;
            page_has(walker, row, pages.last(), "data", is_data)
        }
        RowKind::Fixmap => area_row(walker, claims, row, AreaKind::Fixmap),
        RowKind::Vsyscall => area_row(walker, claims, row, AreaKind::Vsyscall),
        RowKind::Modules => area_row(walker, claims, row, AreaKind::Modules),
        RowKind::CpuEntry => area_row(walker, claims, row, AreaKind::CpuEntry),
        RowKind::Pkmap => area_row(walker, claims, row, AreaKind::Pkmap),
        RowKind::Vmemmap => area_row(walker, claims, row, AreaKind::Vmemmap),
        RowKind::Vmalloc => area_row(walker, claims, row, AreaKind::Vmalloc),
    }
}

fn lowmem_row<M: EntryRead + ?Sized>(
    walker: &Walker<'_, M>,
    claims: &Claims<'_>,
    row: Row,
    pages: VirtRange,
) -> Result<(), Difference> {
    page_has(walker, row, pages.start(), "a writable page", |run| {
        run.attributes.write
    })?;
    // On 32 bits low memory ends where the address space does, which may be in a hole between pieces of RAM.
    let last_page = claims.layout.virt_to_phys(pages.last());
    let last_page = last_page.map(|phys| PhysRange::new(phys.align_down(FRAME_SIZE), FRAME_SIZE));
    if last_page.is_ok_and(|frame| claims.map.is_ram(frame)) {
        page_has(walker, row, pages.last(), "a page", |_| true)?;
    }
    let area = claims.layout.area(AreaKind::DirectMap);
    let behind = pages.last().checked_add(1).ok();
    match behind.filter(|&behind| area.is_some_and(|area| area.range().contains(behind))) {
        Some(behind) => match run_at(walker, behind)? {
            Some(found) => Err(differs(row, behind, "nothing behind the row", Some(found))),
            None => Ok(()),
        },
        None => Ok(()),
    }
}

/// A row about an area that is only reserved: nothing may be mapped there. What is mapped in a built one has been
/// checked.
fn area_row<M: EntryRead + ?Sized>(
    walker: &Walker<'_, M>,
    claims: &Claims<'_>,
    row: Row,
    kind: AreaKind,
) -> Result<(), Difference> {
    if claims
        .layout
        .area(kind)
        .is_some_and(|area| claims.is_built(area))
    {
        return Ok(());
    }
    match first_run(walker, row.range())? {
        Some(found) => Err(differs(row, found.virt.start(), "nothing", Some(found))),
        None => Ok(()),
    }
}

fn differs(row: Row, at: VirtAddr, expected: &'static str, found: Option<Run>) -> Difference {
    Difference::Row {
        row,
        at,
        expected,
        found,
    }
}

/// Every page that `range` touches.
fn pages_of(range: VirtRange) -> VirtRange {
    let start = range.start().align_down(FRAME_SIZE);
    let last = range.last().as_u64() | (FRAME_SIZE - 1);
    VirtRange::new(start, last - start.as_u64() + 1)
}

fn first_run<M: EntryRead + ?Sized>(
    walker: &Walker<'_, M>,
    range: VirtRange,
) -> Result<Option<Run>, Difference> {
    walker
        .runs(range)
        .next()
        .transpose()
        .map_err(Difference::Obstacle)
}

fn run_at<M: EntryRead + ?Sized>(
    walker: &Walker<'_, M>,
    address: VirtAddr,
) -> Result<Option<Run>, Difference> {
    first_run(
        walker,
        VirtRange::new(address.align_down(FRAME_SIZE), FRAME_SIZE),
    )
}

fn page_has<M: EntryRead + ?Sized>(
    walker: &Walker<'_, M>,
    row: Row,
    address: VirtAddr,
    expected: &'static str,
    is_so: impl Fn(&Run) -> bool,
) -> Result<(), Difference> {
    match run_at(walker, address)? {
        Some(run) if is_so(&run) => Ok(()),
        found => Err(differs(row, address, expected, found)),
    }
}

/// Checks that all of `range` is mapped, and every run of it `is_so`.
fn all_have<M: EntryRead + ?Sized>(
    walker: &Walker<'_, M>,
    row: Row,
    range: VirtRange,
    expected: &'static str,
    is_so: impl Fn(&Run) -> bool,
) -> Result<(), Difference> {
    let mut next = Some(range.start());
    for run in walker.runs(range) {
        let run = run.map_err(Difference::Obstacle)?;
        match next {
            Some(at) if run.virt.start() != at => return Err(differs(row, at, expected, None)),
            _ if !is_so(&run) => return Err(differs(row, run.virt.start(), expected, Some(run))),
            _ => {
                next = run
                    .virt
                    .last()
                    .checked_add(1)
                    .ok()
                    .filter(|&at| range.contains(at))
            }
        }
    }
    match next {
        Some(at) => Err(differs(row, at, expected, None)),
        None => Ok(()),
    }
}
