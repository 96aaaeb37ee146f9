//! Two sequences of mappings side by side: what must be there, and what the walker finds.
//!
//! They need not be cut at the same addresses. Each step compares the part that both current pieces share, and goes on
//! behind it.

use kspace_layout::{PagingMode, PhysRange, VirtRange};
use kspace_paging::{Access, Attributes, EntryRead, Obstacle, Protection, Run, Walker};

use super::expect::rest;
use super::{Aspect, Claims, Difference, Expected, Whereabouts};

/// What was found in a range.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) pages: u64,
    pub(super) runs: u64,
}

/// Checks that `range` maps exactly what is `expected`, in ascending order.
pub(super) fn compare<M: EntryRead + ?Sized>(
    walker: &Walker<'_, M>,
    claims: &Claims<'_>,
    range: VirtRange,
    mut expected: impl Iterator<Item = Expected>,
) -> Result<Tally, Difference> {
    let mut runs = walker.runs(range);
    let mut tally = Tally::default();
    let mut found = next_run(&mut runs, claims, &mut tally)?;
    let mut wanted = expected.next();
    loop {
        let (want, have) = match (wanted, found) {
            (None, None) => return Ok(tally),
            (Some(want), Some(have)) if want.virt.start() == have.virt.start() => (want, have),
            (Some(want), have) if have.is_none_or(|have| want.virt.start() < have.virt.start()) => {
                let place = Whereabouts::of(claims.layout, want.virt.start());
                return Err(Difference::Missing {
                    place,
                    expected: want,
                });
            }
            (_, Some(have)) => {
                let place = Whereabouts::of(claims.layout, have.virt.start());
                return Err(Difference::Unexpected { place, found: have });
            }
            (Some(_), None) => unreachable!("the guard above holds when nothing is found"),
        };
        if let Some(aspect) = differing(&want, &have, claims) {
            let place = Whereabouts::of(claims.layout, want.virt.start());
            return Err(Difference::Wrong {
                place,
                aspect,
                expected: want,
                found: have,
            });
        }
        let bytes = want.virt.size().min(have.virt.size());
        wanted = want.after(bytes).or_else(|| expected.next());
        found = match run_after(have, bytes) {
            Some(left) => Some(left),
            None => next_run(&mut runs, claims, &mut tally)?,
        };
    }
}

/// Checks that no page of `range` breaks a rule that holds everywhere.
pub(super) fn rules_only<M: EntryRead + ?Sized>(
    walker: &Walker<'_, M>,
    claims: &Claims<'_>,
    range: VirtRange,
) -> Result<Tally, Difference> {
    let mut runs = walker.runs(range);
    let mut tally = Tally::default();
    while let Some(run) = next_run(&mut runs, claims, &mut tally)? {
        if run.attributes.user {
            let place = Whereabouts::of(claims.layout, run.virt.start());
            return Err(Difference::Unexpected { place, found: run });
        }
    }
    Ok(tally)
}

/// The next run, counted, once it has been checked that it is not writable and executable.
pub(super) fn next_run(
    runs: &mut impl Iterator<Item = Result<Run, Obstacle>>,
    claims: &Claims<'_>,
    tally: &mut Tally,
) -> Result<Option<Run>, Difference> {
    let Some(run) = runs.next().transpose().map_err(Difference::Obstacle)? else {
        return Ok(None);
    };
    if run.attributes.write && run.attributes.execute && can_forbid_execution(claims) {
        let place = Whereabouts::of(claims.layout, run.virt.start());
        return Err(Difference::WriteExecute { place, found: run });
    }
    tally.runs += 1;
    tally.pages += run.virt.size().div_ceil(run.page.bytes());
    Ok(Some(run))
}

fn run_after(run: Run, bytes: u64) -> Option<Run> {
    let virt = rest(run.virt, bytes)?;
    Some(Run {
        virt,
        phys: run.phys.checked_add(bytes).ok()?,
        ..run
    })
}

/// Two-level paging has no bit against execution, nor has a machine without NX: everything is executable there.
pub(super) fn can_forbid_execution(claims: &Claims<'_>) -> bool {
    claims.limits.no_execute() && claims.layout.mode() != PagingMode::TwoLevel
}

/// In what the two differ, over the part that they share.
fn differing(want: &Expected, have: &Run, claims: &Claims<'_>) -> Option<Aspect> {
    let bytes = want.virt.size().min(have.virt.size());
    match want.phys {
        Some(phys) if phys != have.phys => return Some(Aspect::Phys),
        Some(_) => {}
        None => {
            let on_ram = PhysRange::try_new(have.phys, bytes).is_ok_and(|r| claims.map.is_ram(r));
            if !on_ram {
                return Some(Aspect::NotRam);
            }
        }
    }
    if want.page.is_some_and(|page| page != have.page) {
        return Some(Aspect::Page);
    }
    if !grants(
        have.attributes,
        want.protection,
        can_forbid_execution(claims),
    ) {
        return Some(Aspect::Rights);
    }
    None
}

/// Whether `found` is what an editor makes of `asked` on a machine with, or without, a bit against execution.
fn grants(found: Attributes, asked: Protection, can_forbid_execution: bool) -> bool {
    let execute = if can_forbid_execution {
        found.execute
    } else {
        asked.access == Access::ReadExecute
    };
    Attributes { execute, ..found }.grants(asked)
}
